"""Settings proposed by Optuna, through Ray Tune's `OptunaSearch`."""

import math
from collections.abc import Sequence

import optuna
from ray.tune.search.optuna import OptunaSearch

from salcore import seeds
from salcore.errors import UserError
from salcore.search.schedule import Tried
from salcore.search.settings import Setting, between, rounded
from salcore.spec import SearchSpec

STARTUP = 5
"""Trials drawn at random before the first that is proposed from results: Optuna's own 10 are half of a small search."""
REDRAWS = 20

optuna.logging.set_verbosity(optuna.logging.ERROR)


def propose(search: SearchSpec, before: Sequence[Setting], tried: Sequence[Tried]) -> Setting:
    """The setting that comes after those proposed `before`, from what is known of them. Pure: no study is kept.

    A tree-structured Parzen estimator of one objective or several, seeded by how many were proposed, is told all
    results and asked once. Raises UserError if it finds no setting that was not proposed yet.

    Source: Algorithms for Hyper-Parameter Optimization (Bergstra et al., 2011), section 4.
    """
    for attempt in range(REDRAWS):
        setting = _asked(search, seeds.derive(search.seed, len(before), attempt) % 2**32, tried)
        if setting not in before:
            return setting
    raise UserError("search.trials", f"no more trials than the ranges hold settings ({len(before)})", search.trials)


def _asked(search: SearchSpec, seed: int, tried: Sequence[Tried]) -> Setting:
    count = len(search.objectives)
    names = [f"objective {number}" for number in range(count)]
    searcher = OptunaSearch(
        _space(search),
        metric=names if count > 1 else names[0],
        mode=["max"] * count if count > 1 else "max",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP),
        points_to_evaluate=[_point(search, each.setting) for each in tried],
    )
    for number in range(len(tried)):  # the points are asked for, in order; then their results are told
        searcher.suggest(str(number))
    for number, each in enumerate(tried):
        usable = each.values is not None and all(map(math.isfinite, each.values))
        told = dict(zip(names, each.values, strict=True)) if usable and each.values is not None else None
        searcher.on_trial_complete(str(number), result=told, error=told is None)
    return rounded(**searcher.suggest("next"), search=search)


def _point(search: SearchSpec, setting: Setting) -> dict[str, float]:
    """A setting as a point of the space; its layers are a place in the list of them."""
    point = {"mask_fraction": setting.mask_fraction, "weight": setting.weight}
    return point if setting.layers is None else {**point, "layers": (search.layers or ()).index(setting.layers)}


def _space(search: SearchSpec) -> dict[str, optuna.distributions.BaseDistribution]:
    k, weight = between(search.mask_fraction), between(search.weight)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "mask_fraction": optuna.distributions.FloatDistribution(k.low, k.high),
        "weight": optuna.distributions.FloatDistribution(weight.low, weight.high, log=True),
    }
    if search.layers:
        space["layers"] = optuna.distributions.CategoricalDistribution(range(len(search.layers)))
    return space
