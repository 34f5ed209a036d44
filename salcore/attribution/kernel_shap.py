"""KernelSHAP: Shapley values of an image's superpixels, by one weighted regression on coalitions of them."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import combinations
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from salcore.attribution.autograd import prepared, select
from salcore.attribution.perturbation import Off, Surrogate, explain, switched_off
from salcore.attribution.superpixels import Superpixels, segment
from salcore.seeds import generator
from salcore.settings import Within


def kernel_shap(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    superpixels: Superpixels = "grid",
    num_superpixels: Annotated[int, Within(1)] = 64,
    num_samples: Annotated[int, Within(1)] = 512,
    baseline: Off = None,
    seed: Annotated[int, Within(0)] = 0,
) -> Tensor:
    """S(x) = phi, smallest in sum over coalitions z of k(z) (f_t(x_z) - f_t(b) - z phi)^2, with sum phi = f(x) - f(b).

    Inputs (N, C, H, W), targets (N,); returns (N, 1, H, W): a superpixel's Shapley value on each of its pixels, so the
    sum over superpixels, not over pixels, is f_t(x) - f_t(b), exactly. x_z shows the image where z is 1 and `baseline`
    elsewhere ("superpixel": each superpixel's own mean colour), b where no superpixel is on.

    k(z) = (M - 1) / (C(M, |z|) |z| (M - |z|)) for M superpixels. `coalitions` takes whole sizes first, smallest and
    largest, and draws the rest: with `num_samples` >= 2^M - 2 (254 for 8) all are taken and phi are the Shapley values.
    Costs about `num_samples` + 3 forward passes.

    **The coalitions are shared.** They depend on the seed, `num_samples` and the number of superpixels alone, so all
    images and all members of an ensemble see the same ones.

    Raises ValueError for settings out of range, and for fewer samples than the 2 M that make phi unique.

    A Unified Approach to Interpreting Model Predictions (Lundberg and Lee, 2017), Theorem 2.
    """
    if num_samples < 1:
        raise ValueError(f"`num_samples`: expected 1 or more, got {num_samples}")
    surrogate = partial(_surrogate, num_samples=num_samples, seed=seed)
    return explain(
        model,
        inputs,
        targets,
        surrogate,
        superpixels=superpixels,
        num_superpixels=num_superpixels,
        baseline=baseline,
        seed=seed,
    )


def superpixel_residual(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    attribution: Tensor,
    *,
    superpixels: Superpixels = "grid",
    num_superpixels: int = 64,
    baseline: Off = None,
    seed: int = 0,
    **_: Any,
) -> Tensor:
    """r(x) = sum over superpixels of the attribution - (f_t(x) - f_t(b)): (N,), in logits; 0 where all is explained.

    Attribution (N, 1, H, W), constant on each superpixel. The settings are those that the method was given; the ones
    that do not tell what the superpixels and the baseline are have no say.
    """
    with prepared(model, inputs, targets) as (inputs, targets), torch.no_grad():
        segmentation = segment(inputs, superpixels, num_superpixels)
        off = switched_off(baseline, inputs, segmentation, seed)
        change = select(model(inputs.clone()), targets) - select(model(off.clone()), targets)
        shares = attribution.to(change.device, torch.float64) / segmentation.sizes()[:, None].to(change.device)
        return (shares.flatten(1).sum(1) - change).to(change)


def coalitions(count: int, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Up to `num_samples` coalitions (S, M) of `count` superpixels and their weights (S,) in float64, which sum to 1.

    Neither empty nor full; each comes with its complement, so sizes s and M - s go together. From the outside in, all
    sets of a size are taken with the kernel's weight for as long as draws would take each of them once on average; size
    1 always, which makes the regression's solution unique. What is left of `num_samples` is drawn from the other sizes.
    With 2^M - 2 samples all sets are taken.

    Raises ValueError for fewer samples than there are sets of sizes 1 and M - 1.

    >>> masks, weights = coalitions(3, 6, seed=0)
    >>> masks.sum(1), weights.round(decimals=9).unique().item()
    (tensor([1, 1, 1, 2, 2, 2]), 0.166666667)
    """
    needed = min(2 * count, 2**count - 2)
    if num_samples < needed:
        raise ValueError(
            f"`num_samples`: expected {needed} or more for {count} superpixels, or fewer superpixels, got {num_samples}"
        )
    mass = {size: _mass(count, size) for size in range(1, count // 2 + 1)}
    masks, weights = [torch.zeros(0, count, dtype=torch.bool)], [torch.zeros(0, dtype=torch.float64)]
    left = num_samples
    for size in list(mass):
        whole = 2 * math.comb(count, size) if 2 * size < count else math.comb(count, size)
        if size > 1 and whole * sum(mass.values()) > left * mass[size]:
            break
        masks.append(_with_complements(count, list(_sets(count, size))))
        weights.append(torch.full((whole,), mass.pop(size) / whole, dtype=torch.float64))
        left -= whole
    if mass and left >= 2:
        drawn = _drawn(count, mass, left // 2, seed)
        times = torch.tensor([*drawn.values(), *drawn.values()], dtype=torch.float64)
        masks.append(_with_complements(count, list(drawn)))
        weights.append(sum(mass.values()) * times / times.sum())
    together = torch.cat(weights)
    return torch.cat(masks), together / together.sum()


def _mass(count: int, size: int) -> float:
    """The kernel's weight of all sets of a size and of their complements, (M - 1) / (s (M - s)) for each of the two."""
    return (count - 1) / (size * (count - size)) * (2 if 2 * size < count else 1)


def _sets(count: int, size: int) -> Iterator[tuple[int, ...]]:
    """All sets of a size up to M / 2; of M / 2 those with superpixel 0, as the others are their complements."""
    return (each for each in combinations(range(count), size) if 2 * size < count or each[0] == 0)


def _drawn(count: int, mass: Mapping[int, float], number: int, seed: int) -> Counter[tuple[int, ...]]:
    """`number` distinct sets, drawn by size and then at random until there are as many, each with its draws."""
    rng, sizes, chances = generator(seed, count), list(mass), torch.tensor(list(mass.values()))
    drawn: Counter[tuple[int, ...]] = Counter()
    while len(drawn) < number:
        size = sizes[int(torch.multinomial(chances, 1, generator=rng))]
        order = torch.randperm(count, generator=rng).tolist()
        half = order[:size] if 2 * size < count or 0 in order[:size] else order[size:]
        drawn[tuple(sorted(half))] += 1
    return drawn


def _with_complements(count: int, sets: Sequence[tuple[int, ...]]) -> Tensor:
    """Masks (2 n, M): the sets, and then their complements in the same order."""
    rows = [(row, feature) for row, members in enumerate(sets) for feature in members]
    masks = torch.zeros(len(sets), count, dtype=torch.bool)
    masks[tuple(torch.tensor(rows).T)] = True
    return torch.cat([masks, ~masks])


@lru_cache(maxsize=32)
def _surrogate(count: int, *, num_samples: int, seed: int) -> Surrogate:
    """The regression as one matrix (M, S + 2) on the outputs of all on, all off and the coalitions.

    phi = D / M + t with D = f(x) - f(b), where t sums to 0: then z phi = |z| D / M + (z - |z| / M) t. Row-centred
    coalitions leave t's sum open; 1 added to each element of their Gram matrix sets it to 0.
    """
    masks, weights = coalitions(count, num_samples, seed)
    coalition = masks.double()
    share = coalition.mean(1, keepdim=True)
    centred = coalition - share
    gram = centred.T @ (weights[:, None] * centred)
    inner = torch.linalg.solve(gram + 1, (weights[:, None] * centred).T)
    on = 1 / count - inner @ share
    off = -on - inner.sum(1, keepdim=True)
    ends = torch.tensor([[True], [False]]).expand(2, count)
    projection = torch.cat([on, off, inner], dim=1)
    return Surrogate(masks=torch.cat([ends, masks]), fit=partial(torch.matmul, projection))
