r"""A run as one frozen, validated value: what is in `spec.yaml` and on the command line.

>>> spec = parse("name: toy\ndata: {name: digits}", ["ensemble.members=4", "model.width=8"])
>>> spec.ensemble.members, spec.model.settings["width"], spec.training.optimizer
(4, 8, 'adam')
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from salcore.errors import UserError

Purpose = Literal["init", "order", "augment", "model", "masking"]


def _told(description: str, unit: str = "", **limits: Any) -> Any:
    """A field with what `--help` says of it."""
    return Field(description=description, json_schema_extra={"unit": unit}, **limits)


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Open(BaseModel):
    """A part that also holds the settings of whatever it names, checked by that one's signature."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue]  # what YAML and JSON both hold, so that it is written and read back

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


def _named(value: Any) -> Any:
    """A bare name stands for the part of that name with every default: `data=folder:PATH`, `model=resnet18`."""
    return {"name": value} if isinstance(value, str) else value


class DataSpec(_Part):
    """The data set and its splits."""

    name: str = _told(
        "digits, mnist, fashion_mnist, cifar10, imagenette, folder:PATH, npz:PATH, parquet:PATH or "
        "python:package.module:function",
        default="digits",
    )
    root: str | None = _told(
        "where downloads and memory maps are kept; null: SALCORE_DATA or ~/.cache/salcore", default=None
    )
    mirror: str | None = _told("folder or URL that holds the original files of a named set", default=None)
    image_size: int | None = _told("resize to this height and width; null: as they are", "pixels", default=None, ge=1)
    train_samples: int | None = _told("training samples, validation included; null: all", "samples", default=None, ge=2)
    validation_fraction: float = _told("share of the training samples held out for validation", default=0.2, ge=0, lt=1)
    eval_samples: int = _told("samples of the test split that are explained, stratified", "samples", default=512, ge=1)
    split_seed: int = _told("fixes which samples fall into which part", default=0, ge=0)


class ModelSpec(_Open):
    """The network. Further keys are settings of the network named (`--help` lists them)."""

    name: str = _told(
        "small_cnn, mnist_cnn, a torchvision classifier or python:package.module:function", default="small_cnn"
    )
    weights: str | None = _told("file of weights to start from (fine-tuning)", default=None)


class EnsembleSpec(_Part):
    """How many networks, and what differs between them."""

    members: int = _told("independently seeded networks", "members", default=10, ge=1)
    root_seed: int = _told("every seed of every member derives from it", default=0, ge=0)
    vary: Annotated[tuple[Purpose, ...], BeforeValidator(_listed)] = _told(
        "what differs between members; a purpose left out is member 0's for all", default=get_args(Purpose)
    )
    weights: Annotated[tuple[str, ...] | None, BeforeValidator(_listed)] = _told(
        "trained weight files, one per member; nothing is trained", default=None, min_length=1
    )

    @model_validator(mode="before")
    @classmethod
    def _one_member_per_file(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("weights"), list | tuple) and values["weights"]:
            values = {"members": len(values["weights"]), **values}
            if values["members"] != len(values["weights"]):
                raise ValueError(f"as many weight files as members ({values['members']}), got {len(values['weights'])}")
        return values


class GuidanceSpec(_Part):
    """Saliency guided training (Ismail et al., 2021, Algorithm 1); read where `training.objective` is guided."""

    mask_fraction: float = _told("k: share of an input's features that is masked", default=0.5, ge=0, le=1)
    weight: float = _told("lambda: weight of the KL divergence", default=1.0, ge=0)
    ranking: Literal["signed", "magnitude"] = _told(
        "mask the lowest gradients (published code) or the smallest in magnitude (the paper's words)", default="signed"
    )
    of: Literal["logit", "log_probability"] = _told(
        "gradient of the label's logit, or log-probability", default="logit"
    )
    mode: Literal["train", "eval"] = _told(
        "gradient from the shared pass in train mode, or a pass of its own in eval mode (published code)",
        default="train",
    )
    fill: Literal["uniform", "background"] = _told(
        "uniform between the sample's own minimum and maximum, or the top-left pixel", default="uniform"
    )
    detach_target: bool = _told("no gradient through f(x) in the divergence", default=False)


class AugmentSpec(_Part):
    """Random changes of training images, drawn per sample and epoch; off by default."""

    crop: int = _told("random crop after padding by this many black pixels", "pixels", default=0, ge=0)
    flip: bool = _told("random horizontal flip", default=False)


class TrainingSpec(_Part):
    """How one member is trained."""

    epochs: int = _told("passes over the training part; 0: untrained networks", "epochs", default=3, ge=0)
    batch_size: int = _told("samples of one step", "samples", default=128, ge=1)
    optimizer: Literal["adam", "adamw", "sgd", "adadelta"] = _told("rule of the step", default="adam")
    schedule: Literal["one_cycle", "step", "cosine", "constant"] = _told(
        "course of the learning rate", default="one_cycle"
    )
    learning_rate: float = _told("largest learning rate", default=0.01, gt=0)
    weight_decay: float = _told("L2 penalty (adamw: decoupled)", default=0.0, ge=0)
    momentum: float = _told("of sgd", default=0.9, ge=0, lt=1)
    milestones: Annotated[tuple[int, ...], BeforeValidator(_listed)] = _told(
        "schedule step: after these epochs the rate is multiplied by decay", "epochs", default=(15, 25)
    )
    decay: float = _told("schedule step: the factor", default=0.5, gt=0, le=1)
    patience: int | None = _told(
        "stop after so many epochs without a lower validation loss and keep the best; null: never",
        "epochs",
        default=None,
        ge=1,
    )
    precision: Literal["float32", "bfloat16"] = _told("of forward and backward passes (autocast)", default="float32")
    threads: int = _told("processor threads of one slot; part of what a member is", "threads", default=1, ge=1)
    objective: Literal["standard", "guided"] = _told("cross-entropy, or saliency guided training", default="standard")
    guidance: GuidanceSpec = _told("saliency guided training", default=GuidanceSpec())
    augment: AugmentSpec = _told("augmentation", default=AugmentSpec())


class MethodSpec(_Open):
    """One attribution method. Further keys are its settings."""

    name: str = _told("a name in METHODS")
    as_: str | None = Field(default=None, alias="as", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    samples: int | None = _told("explain only the first so many samples; null: all", "samples", default=None, ge=1)

    @property
    def folder(self) -> str:
        """Name of the method's folder in `maps/` and `stats/`: unique in a run."""
        return self.as_ or self.name


def _entry(value: Any) -> Any:
    return (
        [{"name": entry} if isinstance(entry, str) else entry for entry in value] if isinstance(value, list) else value
    )


class AttributionSpec(_Part):
    """Which maps are made of which class."""

    target: Literal["label", "ensemble", "prediction"] | Annotated[int, Field(ge=0)] = _told(
        "class that is explained: label, ensemble (the members' majority), prediction (each member's own: its SNR "
        "mixes classes) or a class number",
        default="label",
    )
    draws: Literal["shared", "member"] = _told(
        "noise, masks and random baselines of methods: shared by all members, so that none of it enters the variance "
        "over members, or each member's own, as if every explanation were made once",
        default="shared",
    )
    dtype: Literal["float32", "float16"] = _told(
        "of stored maps; float16 keeps one power-of-two scale per map", default="float32"
    )
    batch_size: int = _told("samples of one explaining pass", "samples", default=64, ge=1)
    shard_samples: int = _told("samples of one shard", "samples", default=512, ge=1)
    methods: Annotated[tuple[MethodSpec, ...], BeforeValidator(lambda v: _listed(_entry(v)))] = _told(
        "names, or mappings {name, as, samples, and settings}", default=(MethodSpec(name="gradient"),), min_length=1
    )

    @field_validator("methods")
    @classmethod
    def _unique(cls, methods: tuple[MethodSpec, ...]) -> tuple[MethodSpec, ...]:
        folders = [method.folder for method in methods]
        twice = next((folder for folder in folders if folders.count(folder) > 1), None)
        if twice:
            raise ValueError(f"unique folder names: give one of the two {twice!r} another with `as: NAME`")
        return methods


class ClusterSpec(_Part):
    """Where it runs. No key here changes a result."""

    slots: int | Literal["auto"] = _told(
        "members trained at the same time; auto: what cores or GPUs hold", "slots", default="auto"
    )
    gpus_per_slot: float | Literal["auto"] = _told(
        "GPUs of one slot, fractions allowed; auto: 1 where there are any", "GPUs", default="auto"
    )
    attempts: int = _told(
        "crashes of a slot after which the member it trained is given up", "attempts", default=3, ge=1
    )

    @field_validator("slots")
    @classmethod
    def _positive(cls, slots: int | str) -> int | str:
        if isinstance(slots, int) and slots < 1:
            raise ValueError("at least 1 slot")
        return slots

    @field_validator("gpus_per_slot")
    @classmethod
    def _not_negative(cls, gpus: float | str) -> float | str:
        if isinstance(gpus, float) and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise ValueError("0, a fraction below 1, or a whole number of GPUs")
        return gpus


class TrackingSpec(_Part):
    """Where MLflow records go."""

    uri: str | None = _told("MLflow server; null: the file runs/mlflow.db", default=None)
    experiment: str | None = _told("MLflow experiment; null: the run's name", default=None)


class Spec(_Part):
    """Everything a run is."""

    name: str = Field(
        default="run",
        description="name of the run, its folder and its MLflow experiment",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
    )
    data: Annotated[DataSpec, BeforeValidator(_named)] = _told("data set", default=DataSpec())
    model: Annotated[ModelSpec, BeforeValidator(_named)] = _told("network", default=ModelSpec())
    ensemble: EnsembleSpec = _told("ensemble", default=EnsembleSpec())
    training: TrainingSpec = _told("training", default=TrainingSpec())
    attribution: AttributionSpec = _told("attribution", default=AttributionSpec())
    cluster: ClusterSpec = _told("cluster", default=ClusterSpec())
    tracking: TrackingSpec = _told("tracking", default=TrackingSpec())

    def to_dict(self) -> dict[str, Any]:
        """Plain values with every default written out, as `spec.yaml` holds them."""
        return self.model_dump(mode="json", by_alias=True)


def parse(text: str, overrides: Sequence[str] = ()) -> Spec:
    """The spec of a YAML text, changed by `key.sub=value` overrides whose values are YAML too.

    Raises UserError that names the key. The section `fingerprints` of a resolved spec is passed over.
    """
    values = _yaml("spec", text)
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError("spec", "a mapping of keys", values)
    values.pop("fingerprints", None)
    for override in sorted(overrides, key=_names_first):
        _set(values, override)
    return from_dict(values)


def from_dict(values: dict[str, Any]) -> Spec:
    """The spec of plain values. Raises UserError that names the first wrong key, with the nearest known one."""
    try:
        return Spec.model_validate(values)
    except ValidationError as error:
        raise _explained(error) from None


def describe(model: type[BaseModel] = Spec, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every key with its default, unit and meaning, in order: what `--help` prints."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from describe(inner, f"{key}.")
        else:
            yield key, _default(field), _unit(field), field.description or ""


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, tuple):
        items = ", ".join(item.folder if isinstance(item, MethodSpec) else str(item) for item in value)
        return f"[{items}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _unit(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(override, "key.sub=value")
    value = _yaml(key, text)
    _start_anew(values, key, value)
    *folders, last = key.split(".")
    for folder in folders:
        inner = _named(values.setdefault(folder, {}))
        if not isinstance(inner, dict):
            raise UserError(key, f"a key below a mapping; {folder} holds a value", inner)
        values[folder] = inner
        values = inner
    values[last] = value


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with the numbers of YAML 1.2: 1e-3 is one."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _yaml(key: str, text: str) -> Any:
    """The value of a YAML text. Raises UserError with `key`."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets through what its constructors meet, such as ValueError for the date 2020-13-45.
        raise UserError(key, f"YAML ({' '.join(str(error).split())})", text[:80]) from None


def _start_anew(values: dict[str, Any], key: str, value: Any) -> None:
    """Drop what another value of a key makes meaningless: settings of another network, a number of files."""
    model, ensemble = _named(values.get("model")), values.get("ensemble")
    if key == "model.name" and isinstance(model, dict) and model.get("name", ModelSpec().name) != value:
        values["model"] = {}
    if key == "ensemble.weights" and isinstance(ensemble, dict) and isinstance(value, list):
        ensemble.pop("members", None)


def _names_first(override: str) -> bool:
    """Sorts `model=...` and `model.name=...` before the settings of that model, in whatever order they are given."""
    key = override.partition("=")[0]
    return "." in key and not key.endswith(".name") and key != "ensemble.weights"


def _explained(error: ValidationError) -> UserError:
    """The first complaint of pydantic, in the words of the command line."""
    first = error.errors()[0]
    location = [part for part in first["loc"] if isinstance(part, int) or part in _parts()]
    if first["type"] == "extra_forbidden":
        unknown = str(first["loc"][-1])
        return UserError(
            ".".join(map(str, first["loc"])), f"a known key ({_nearest(unknown, first['loc'][:-1])})", unknown
        )
    key = ".".join(map(str, location)) or "spec"
    if first["type"] == "value_error":
        return UserError(key, str(first["ctx"]["error"]))
    if first["type"] == "missing":
        return UserError(key, "a value", None)
    expected = first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return UserError(
        key,
        "a class number or one of label, ensemble, prediction" if key == "attribution.target" else expected,
        first["input"],
    )


def _parts() -> set[str]:
    """Every word that occurs in a key: pydantic also puts names of union branches into a location."""
    return {part for key, *_ in describe() for part in key.split(".")} | set(Spec.model_fields) | {"as", "samples"}


def _nearest(unknown: str, location: Sequence[Any]) -> str:
    """A hint at the key that was meant: this one in another section, or the closest in spelling, or all there are."""
    elsewhere = [key for key, *_ in describe() if key.rsplit(".", 1)[-1] == unknown]
    model: type[BaseModel] = Spec
    for part in location:
        model = model.model_fields[str(part)].annotation  # type: ignore[assignment]
    siblings = [field.alias or name for name, field in model.model_fields.items()]
    near = elsewhere or difflib.get_close_matches(unknown, siblings, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"one of {', '.join(siblings)}"
