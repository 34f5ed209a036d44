"""Slow re-derivations, one sample and one number at a time, from the papers' formulas."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn


def numeric_gradient(model: nn.Module, inputs: Tensor, targets: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of the target's logit, pixel by pixel; wants float64 and a model in evaluation mode."""
    gradient = torch.zeros_like(inputs)
    with torch.no_grad():
        for sample, target in enumerate(targets.tolist()):
            for place in np.ndindex(*inputs.shape[1:]):
                nudge = torch.zeros_like(inputs[:1])
                nudge[(0, *place)] = step
                above, below = (model(inputs[sample : sample + 1] + sign * nudge)[0, target] for sign in (1, -1))
                gradient[(sample, *place)] = (above - below) / (2 * step)
    return gradient


def integrated_by_riemann(gradient_at: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, steps: int) -> Tensor:
    """The path integral as a midpoint sum over many small steps."""
    total = torch.zeros_like(end)
    for step in range(steps):
        total = total + gradient_at(start + (step + 0.5) / steps * (end - start)) / steps
    return (end - start) * total


def lowest_by_sorting(saliency: list[float], fraction: str, valid: list[bool]) -> list[float]:
    """The values that are masked, ascending: the floor(fraction * valid) smallest, in exact arithmetic."""
    values = sorted(value for value, allowed in zip(saliency, valid, strict=True) if allowed)
    return values[: math.floor(Fraction(fraction) * len(values))]


def masked_image(image: np.ndarray, gradient: np.ndarray, count: int, draws: np.ndarray, magnitude: bool) -> np.ndarray:
    """Ismail et al., Algorithm 1, step 4, for one image (C, H, W) without ties: position by position."""
    channels, rows, columns = image.shape
    scores = {}
    for row in range(rows):
        for column in range(columns):
            score = sum(gradient[channel, row, column] for channel in range(channels)) / channels
            scores[row, column] = abs(score) if magnitude else score
    result = image.copy()
    for row, column in sorted(scores, key=scores.__getitem__)[:count]:
        for channel in range(channels):
            low, high = image[channel].min(), image[channel].max()
            result[channel, row, column] = low + (high - low) * draws[channel, row, column]
    return result


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of one vector of logits."""
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def guided_loss(clean: np.ndarray, masked: np.ndarray, labels: np.ndarray, weight: float) -> float:
    """Ismail et al., Eq. 4, from the logits (N, K) of clean and masked images: sample by sample, class by class."""
    total = 0.0
    for clean_logits, masked_logits, label in zip(clean, masked, labels, strict=True):
        p, q = softmax(clean_logits), softmax(masked_logits)
        divergence = sum(p[k] * math.log(p[k] / q[k]) for k in range(len(p)))
        total += -math.log(p[label]) + weight * divergence
    return total / len(labels)


def gradcam_small(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Selvaraju et al., Eq. 1 and 2 without the ReLU, for one sample (C, h, w): -> (h, w)."""
    result = np.zeros(activation.shape[1:])
    for channel in range(len(activation)):
        result += gradient[channel].mean() * activation[channel]
    return result


def rollout_by_hand(layers: list[np.ndarray]) -> np.ndarray:
    """Abnar & Zuidema for one sample, from each layer's attention (heads, T, T): -> (T, T), number by number."""
    tokens = layers[0].shape[-1]
    result = np.eye(tokens)
    for heads in layers:
        step = np.zeros((tokens, tokens))
        for i in range(tokens):
            for j in range(tokens):
                step[i, j] = sum(head[i, j] for head in heads) / len(heads) + (i == j)
            step[i] /= step[i].sum()
        result = step @ result
    return result


def generic_by_hand(layers: list[np.ndarray], slopes: list[np.ndarray]) -> np.ndarray:
    """Chefer et al. (ICCV 2021) for one sample, from attention and d logit / d attention: R (T, T), head by head."""
    tokens = layers[0].shape[-1]
    result = np.eye(tokens)
    for heads, slope in zip(layers, slopes, strict=True):
        share = np.zeros((tokens, tokens))
        for head in range(len(heads)):
            for i in range(tokens):
                for j in range(tokens):
                    share[i, j] += max(0.0, slope[head, i, j] * heads[head, i, j]) / len(heads)
        result = result + share @ result
    return result


def enlarged_by_hand(grid: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bilinear enlarging (h, w) -> (rows, columns), corners not aligned: pixels are squares, their centres compared."""

    def between(position: float, length: int) -> tuple[int, int, float]:
        position = min(max(position, 0.0), length - 1.0)
        low = min(int(position), length - 1)
        return low, min(low + 1, length - 1), position - low

    result = np.zeros((rows, columns))
    for row in range(rows):
        top, bottom, down = between((row + 0.5) * len(grid) / rows - 0.5, len(grid))
        for column in range(columns):
            left, right, along = between((column + 0.5) * grid.shape[1] / columns - 0.5, grid.shape[1])
            upper = (1 - along) * grid[top, left] + along * grid[top, right]
            lower = (1 - along) * grid[bottom, left] + along * grid[bottom, right]
            result[row, column] = (1 - down) * upper + down * lower
    return result


def noise_over_members(maps: np.ndarray) -> dict[str, float]:
    """Norms, SNR, signal2 and noise2 of one sample's maps (m, ...), m from 0 on; NaN where they are too few."""
    found = dict.fromkeys(("mean_norm", "sigma_norm", "snr", "signal2", "noise2"), math.nan)
    if len(maps) > 0:
        mean = maps.mean(0)
        mean2 = float((mean**2).sum())
        found["mean_norm"] = math.sqrt(mean2)
    if len(maps) > 1:
        noise2 = float(((maps - mean) ** 2).sum() / (len(maps) - 1))
        found |= {"sigma_norm": math.sqrt(noise2), "snr": math.sqrt(mean2 / noise2)}
        found |= {"signal2": mean2 - noise2 / len(maps), "noise2": noise2}
    return found


def likeness_to_others(maps: np.ndarray, member: int) -> tuple[float, float]:
    """Cosine and SSIM of one member's map to the mean of the others, from one sample's maps (m, C, H, W)."""
    from skimage.metrics import structural_similarity

    a, b = maps[member], np.delete(maps, member, axis=0).mean(0)
    cosine = (a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum())
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2, "full": True}
    windows = [structural_similarity(u, v, **settings)[1][5:-5, 5:-5].mean() for u, v in zip(a, b, strict=True)]
    return float(cosine), float(np.mean(windows))


def deeplift_by_matrices(steps: list, x: Tensor, start: Tensor) -> Tensor:
    """Rescale rule for one sample, with a dense matrix of multipliers for each step: delta out = M @ delta in.

    A step is ("linear", f), ("elementwise", f), ("max", windows: lists of flat places), or ("residual", steps) for
    x -> x + steps(x). The last step gives one number. Returns M_total * (x - start), of the shape of x.
    """
    total, _, _ = _matrix(steps, x, start)
    return (total.reshape(x.shape)) * (x - start)


def _matrix(steps: list, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    total = torch.eye(x.numel(), dtype=x.dtype)
    for kind, what in steps:
        if kind == "linear":
            matrix = torch.autograd.functional.jacobian(
                lambda flat, f=what, s=x.shape: f(flat.view(s)).flatten(), x.flatten()
            )
            x, start = what(x), what(start)
        elif kind == "elementwise":
            y, y0 = what(x), what(start)
            matrix = torch.diag(((y - y0) / (x - start)).flatten())
            x, start = y, y0
        elif kind == "max":
            matrix, x, start = _max_matrix(what, x, start)
        else:
            inner, y, y0 = _matrix(what, x, start)
            matrix = inner + torch.eye(x.numel(), dtype=x.dtype)
            x, start = x + y, start + y0
        total = matrix @ total
    return total, x, start


def _max_matrix(windows: list[list[int]], x: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both arg-max cells get a share: g (c - y') to the input's, g (y - c) to the baseline's, with c = max(y, y')."""
    x, start = x.flatten(), start.flatten()
    matrix = torch.zeros(len(windows), x.numel(), dtype=x.dtype)
    ends = []
    for row, window in enumerate(windows):
        at_x, at_start = (max(window, key=lambda place, v=v: v[place].item()) for v in (x, start))
        y, y0 = x[at_x], start[at_start]
        top = max(y, y0)
        for place, share in ((at_x, top - y0), (at_start, y - top)):
            if share != 0:
                matrix[row, place] += share / (x[place] - start[place])
        ends.append((y, y0))
    return matrix, torch.stack([y for y, _ in ends]), torch.stack([y0 for _, y0 in ends])


def shapley_values(value: Callable[[frozenset[int]], float], players: int) -> list[float]:
    """Shapley's formula, subset by subset: sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))."""
    result = []
    for player in range(players):
        others, total = [other for other in range(players) if other != player], 0.0
        for chosen in range(2 ** len(others)):
            subset = frozenset(other for place, other in enumerate(others) if chosen >> place & 1)
            weight = Fraction(
                math.factorial(len(subset)) * math.factorial(players - len(subset) - 1), math.factorial(players)
            )
            total += float(weight) * (value(subset | {player}) - value(subset))
        result.append(total)
    return result


def masked_superpixels(image: Tensor, off: Tensor, labels: Tensor, on: frozenset[int]) -> Tensor:
    """One image (C, H, W), pixel by pixel: its own where the superpixel is in `on`, else that of `off`."""
    result = off.clone()
    for row, column in np.ndindex(*labels.shape):
        if int(labels[row, column]) in on:
            result[:, row, column] = image[:, row, column]
    return result


def top_by_hand(x: np.ndarray) -> set[int]:
    """The places of the 5 % largest magnitudes, one by one until there are enough, with those equal to the last."""
    magnitudes = np.abs(x).ravel()
    least = sorted(magnitudes)[-math.ceil(len(magnitudes) / 20)]
    return {place for place in range(len(magnitudes)) if magnitudes[place] >= least and magnitudes[place] > 0}


def likeness_by_hand(x: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """How alike one member's map is to the mean of the others, in float64: all but SSIM."""
    from scipy import stats

    a, b = top_by_hand(x), top_by_hand(others)
    shown, norms = (others != 0) & (x != 0), np.linalg.norm(x) * np.linalg.norm(others)
    constant = np.ptp(x) == 0 or np.ptp(others) == 0
    return {
        "cosine_to_mean": float((x * others).sum() / norms) if norms else 0.0,
        "spearman_to_mean": math.nan if constant else float(stats.spearmanr(x.ravel(), others.ravel()).statistic),
        "sign_agreement": float((np.sign(x) == np.sign(others))[shown].mean()) if shown.any() else math.nan,
        "top_overlap": 2 * len(a & b) / (len(a) + len(b)) if a or b else math.nan,
    }
