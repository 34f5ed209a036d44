"""Experiments of the papers, each on ensembles that it names, told beside the paper's numbers.

A study is a module: `TITLE`, `SOURCE` and `ABOUT` say what it is; `ensembles(**axes)` gives the values of the specs
that it needs, by name, for the axes of a preset of `PRESETS`; `rows(runs)` and `figures(runs)` read the finished runs
under the same names. What is in a study follows from its runs alone, so a finished run of one is never trained again.

>>> guided = STUDIES["noise_guided"]
>>> sorted(guided.ensembles(**guided.PRESETS["small"] | {"mask_fractions": [0.5]}))
['k0.5-lambda1', 'standard']
"""

from types import ModuleType

from salcore.studies import (
    blame_finetuning,
    blame_masking,
    blame_neighbours,
    blame_profiles,
    blame_pruning,
    ensemble_dream,
    guided_eraser,
    guided_masking,
    guided_mnist,
    guided_spread,
    guided_timeseries,
    guided_vanishing,
    noise_architecture,
    noise_convergence,
    noise_guided,
    noise_samples,
    noise_similarity,
    noise_sources,
    noise_table,
)

__all__ = ["STUDIES"]

STUDIES: dict[str, ModuleType] = {
    "noise_table": noise_table,
    "noise_convergence": noise_convergence,
    "noise_samples": noise_samples,
    "noise_similarity": noise_similarity,
    "noise_architecture": noise_architecture,
    "noise_sources": noise_sources,
    "noise_guided": noise_guided,
    "ensemble_dream": ensemble_dream,
    "guided_mnist": guided_mnist,
    "guided_masking": guided_masking,
    "guided_spread": guided_spread,
    "guided_eraser": guided_eraser,
    "guided_timeseries": guided_timeseries,
    "guided_vanishing": guided_vanishing,
    "blame_profiles": blame_profiles,
    "blame_pruning": blame_pruning,
    "blame_neighbours": blame_neighbours,
    "blame_finetuning": blame_finetuning,
    "blame_masking": blame_masking,
}
"""Name of an experiment, as `python -m jobs.study NAME` takes it -> its module."""
