"""The sections of a spec, each a frozen and validated value with its defaults."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from salcore.spec.parameters import ParametersSpec
from salcore.spec.parts import Open, Part, listed, named, told, wide
from salcore.spec.sallm import SallmSpec
from salcore.spec.search import SearchSpec
from salcore.spec.training import TrainingSpec

Purpose = Literal["init", "order", "augment", "model", "masking"]


class DataSpec(Part):
    """The data set and its splits."""

    name: str = told(
        "images: digits, mnist, fashion_mnist, cifar10, imagenette, pasted, folder:PATH, npz:PATH, parquet:PATH or "
        "python:package.module:function; series: mnist_series, uea:PATH (.ts or .npz) or synthetic:NAME; "
        "text: eraser:PATH or sst:PATH",
        default="digits",
    )
    root: str | None = told(
        "where downloads and memory maps are kept; null: SALCORE_DATA or ~/.cache/salcore", default=None
    )
    mirror: str | None = told("folder or URL that holds the original files of a named set", default=None)
    image_size: int | None = told("resize to this height and width; null: as they are", "pixels", default=None, ge=1)
    length: int | None = told(
        "cut or pad series and texts to this length; null: the longest", "steps or words", default=None, ge=1
    )
    cut: bool = told(
        "cut texts beyond data.length, or beyond what the tokenizer's model takes; false: refuse them", default=True
    )
    vectors: str | None = told("file of word vectors in GloVe's text format, plain or .gz, for texts", default=None)
    tokenizer: str | None = told(
        "texts as tokens for a language model: wordpiece (trained on the training texts), or a tokenizer by its name "
        "on the hub or its folder; null: words and their vectors, or what the network transformers:NAME asks for",
        default=None,
    )
    vocabulary: int = told("tokens of a wordpiece that is trained", "tokens", default=8_000, ge=100)
    train_samples: int | None = told(
        "training samples, validation included unless it is the set's own; null: all", "samples", default=None, ge=2
    )
    validation_fraction: float | None = told(
        "share of the training samples held out for validation; null: the set's own validation split (texts)",
        default=0.2,
        ge=0,
        lt=1,
    )
    labelled: float = told(
        "share of the training samples whose labels are known, stratified; the objective attention takes the others "
        "too, as unlabelled text",
        default=1.0,
        gt=0,
        le=1,
    )
    eval_samples: int = told("samples of the test split that are explained, stratified", "samples", default=512, ge=1)
    eval_split: Literal["test", "all"] = told(
        "what is evaluated and explained: samples of the test split, or every sample of the training, validation and "
        "test splits, in the order of the files (texts)",
        default="test",
    )
    split_seed: int = told("fixes which samples fall into which part", default=0, ge=0)


class ModelSpec(Open):
    """The network. Further keys are settings of the network named (`--help` lists them)."""

    name: str = told(
        "of images: small_cnn, mnist_cnn or a torchvision classifier; of series: lstm, input_cell_lstm, tcn or "
        "transformer; of texts: bilstm or transformers:NAME (a type such as bert, from scratch, or a model on the hub "
        "or in a folder); of any: python:package.module:function",
        default="small_cnn",
    )
    weights: str | None = told("file of weights to start from (fine-tuning)", default=None)


class UntilSpec(Part):
    """When an ensemble is large enough (`salcore.until`)."""

    width: float = told("stop where the 95 % interval of the mean SNR is narrower than this", gt=0)
    method: str | None = told("folder name of the method whose SNR it is; null: the first one", default=None)
    first: int = told("members before the first look", "members", default=5)
    step: int = told("members added between looks", "members", default=2, ge=1)

    @field_validator("first")
    @classmethod
    def _enough_for_an_interval(cls, first: int) -> int:
        if first < 3:
            raise ValueError(f"3 or more members before the first look, as a jackknife needs 3, got {first}")
        return first


class EnsembleSpec(Part):
    """How many networks, and what differs between them."""

    members: int = told("independently seeded networks; with until: at most so many", "members", default=10, ge=1)
    until: Annotated[UntilSpec | None, BeforeValidator(wide)] = told(
        "train in rounds until the 95 % jackknife interval (high - low) of the mean SNR is narrower than this number; "
        "or {width, method: null (the first one), first: 5 (members before the first look), step: 2 (members added "
        "between looks)}; null: train all members",
        default=None,
    )
    root_seed: int = told("every seed of every member derives from it", default=0, ge=0)
    vary: Annotated[tuple[Purpose, ...], BeforeValidator(listed)] = told(
        "what differs between members; a purpose left out is member 0's for all", default=get_args(Purpose)
    )
    weights: Annotated[tuple[str, ...] | None, BeforeValidator(listed)] = told(
        "trained weight files, one per member; nothing is trained", default=None, min_length=1
    )
    start: Annotated[tuple[str, ...] | None, BeforeValidator(listed)] = told(
        "weight files that members start from and go on training, one per member", default=None, min_length=1
    )

    @field_validator("until")
    @classmethod
    def _first_look_within_members(cls, until: UntilSpec | None, known: ValidationInfo) -> UntilSpec | None:
        most = known.data.get("members")
        if until is not None and most is not None and most < until.first:
            what = f"ensemble.members, the most that are trained, to be {until.first} (its first look) or more"
            raise ValueError(f"{what}, got {most}")
        return until

    @model_validator(mode="before")
    @classmethod
    def _one_member_per_file(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for key in ("weights", "start"):
            files = values.get(key)
            if isinstance(files, list | tuple) and files:
                values = {"members": len(files), **values}
                if values["members"] != len(files):
                    raise ValueError(f"as many files in {key} as members ({values['members']}), got {len(files)}")
        return values

    @model_validator(mode="after")
    def _start_of_a_training(self) -> Self:
        if self.start is not None and self.weights is not None:
            raise ValueError("ensemble.start or ensemble.weights, whose networks are not trained, got both")
        return self


class MethodSpec(Open):
    """One attribution method. Further keys are its settings."""

    name: str = told("a name in METHODS")
    as_: str | None = Field(default=None, alias="as", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    samples: int | None = told("explain only the first so many samples; null: all", "samples", default=None, ge=1)

    @property
    def folder(self) -> str:
        """Name of the method's folder in `maps/` and `stats/`: unique in a run."""
        return self.as_ or self.name


def _entry(value: Any) -> Any:
    return (
        [{"name": entry} if isinstance(entry, str) else entry for entry in value] if isinstance(value, list) else value
    )


class AttributionSpec(Part):
    """Which maps are made of which class."""

    target: Literal["label", "ensemble", "prediction"] | Annotated[int, Field(ge=0)] = told(
        "class that is explained: label, ensemble (the members' majority), prediction (each member's own: its SNR "
        "mixes classes) or a class number",
        default="label",
    )
    draws: Literal["shared", "member"] = told(
        "noise, masks and random baselines of methods: shared by all members, so that none of it enters the variance "
        "over members, or each member's own, as if every explanation were made once",
        default="shared",
    )
    dtype: Literal["float32", "float16"] = told(
        "of stored maps; float16 keeps one power-of-two scale per map", default="float32"
    )
    batch_size: int = told("samples of one explaining pass", "samples", default=64, ge=1)
    shard_samples: int = told("samples of one shard", "samples", default=512, ge=1)
    keep_maps: bool = told(
        "whether members' maps are stored; if not, they are made where they are reduced, twice, in memory that does "
        "not grow with the members",
        default=True,
    )
    methods: Annotated[tuple[MethodSpec, ...], BeforeValidator(lambda v: listed(_entry(v)))] = told(
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


class ClusterSpec(Part):
    """Where it runs. No key here changes a result."""

    slots: int | Literal["auto"] = told(
        "members trained at the same time; auto: what cores or GPUs hold", "slots", default="auto"
    )
    gpus_per_slot: float | Literal["auto"] = told(
        "GPUs of one slot; slots of a fraction, such as 0.25, train side by side in one process where they make up "
        "a GPU; auto: 1 where there are any",
        "GPUs",
        default="auto",
    )
    attempts: int = told(
        "crashes of a slot after which the member or trial at hand is given up", "attempts", default=3, ge=1
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


class TrackingSpec(Part):
    """Where MLflow records go."""

    uri: str | None = told("MLflow server; null: the file runs/mlflow.db", default=None)
    experiment: str | None = told("MLflow experiment; null: the run's name", default=None)
    member_runs: int = told(
        "up to so many members each have an MLflow run of their own; of more there is a table on the parent",
        "members",
        default=200,
        ge=0,
    )


class Spec(Part):
    """Everything a run is."""

    name: str = Field(
        default="run",
        description="name of the run, its folder and its MLflow experiment",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
    )
    data: Annotated[DataSpec, BeforeValidator(named)] = told("data set", default=DataSpec())
    model: Annotated[ModelSpec, BeforeValidator(named)] = told("network", default=ModelSpec())
    ensemble: EnsembleSpec = told("ensemble", default=EnsembleSpec())
    training: TrainingSpec = told("training", default=TrainingSpec())
    attribution: AttributionSpec = told("attribution", default=AttributionSpec())
    cluster: ClusterSpec = told("cluster", default=ClusterSpec())
    tracking: TrackingSpec = told("tracking", default=TrackingSpec())
    search: SearchSpec = told("search over k and lambda", default=SearchSpec())
    parameters: ParametersSpec | None = told("parameter-space saliency; null: none", default=None)
    sallm: SallmSpec | None = told("students of saliency explanations; null: none", default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values with every default written out, as `spec.yaml` holds them, but for sections not asked for."""
        unasked = {
            "search": self.search == SearchSpec(),
            "parameters": self.parameters is None,
            "sallm": self.sallm is None,
        }
        return self.model_dump(mode="json", by_alias=True, exclude={name for name, left in unasked.items() if left})
