r"""A run as one frozen, validated value: what is in `spec.yaml` and on the command line.

>>> spec = parse("name: toy\ndata: {name: digits}", ["ensemble.members=4", "model.width=8"])
>>> spec.ensemble.members, spec.model.settings["width"], spec.training.optimizer
(4, 8, 'adam')
"""

from salcore.spec.keys import describe
from salcore.spec.parameters import ParametersSpec
from salcore.spec.reading import fingerprints, from_dict, parse, value_of
from salcore.spec.sallm import SallmSpec
from salcore.spec.search import Between, SearchSpec
from salcore.spec.sections import (
    AttributionSpec,
    ClusterSpec,
    DataSpec,
    EnsembleSpec,
    MethodSpec,
    ModelSpec,
    Purpose,
    Spec,
    TrackingSpec,
    UntilSpec,
)
from salcore.spec.training import AttentionSpec, AugmentSpec, GuidanceSpec, Layers, TrainingSpec

__all__ = [
    "AttentionSpec",
    "AttributionSpec",
    "AugmentSpec",
    "Between",
    "ClusterSpec",
    "DataSpec",
    "EnsembleSpec",
    "GuidanceSpec",
    "Layers",
    "MethodSpec",
    "ModelSpec",
    "ParametersSpec",
    "Purpose",
    "SallmSpec",
    "SearchSpec",
    "Spec",
    "TrackingSpec",
    "TrainingSpec",
    "UntilSpec",
    "describe",
    "fingerprints",
    "from_dict",
    "parse",
    "value_of",
]
