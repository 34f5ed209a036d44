"""The section `training`: how one member is trained, and what its objectives take."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from salcore.spec.parts import Part, listed, told

Layers = Literal["last", "all"] | Annotated[tuple[int, ...], BeforeValidator(listed)]
"""The last layer, all of them, or some by number, from 0."""


class GuidanceSpec(Part):
    """Saliency guided training (Ismail et al., 2021, Algorithm 1); read where `training.objective` is guided."""

    mask_fraction: float = told("k: share of an input's features that is masked", default=0.5, ge=0, le=1)
    weight: float = told("lambda: weight of the KL divergence", default=1.0, ge=0)
    ranking: Literal["signed", "magnitude"] = told(
        "mask the lowest gradients (published code) or the smallest in magnitude (the paper's words)", default="signed"
    )
    of: Literal["logit", "log_probability"] = told("gradient of the label's logit, or log-probability", default="logit")
    mode: Literal["train", "eval"] = told(
        "gradient from the shared pass in train mode, or a pass of its own in eval mode (published code)",
        default="train",
    )
    fill: Literal["uniform", "background", "previous_word"] | None = told(
        "uniform between the sample's own minimum and maximum (images, series), background (the top-left pixel of "
        "images) or previous_word (text); null: previous_word for text, else uniform",
        default=None,
    )
    detach_target: bool = told("no gradient through f(x) in the divergence", default=False)


class AttentionSpec(Part):
    """The attention loss of SalLM; read where `training.objective` is attention."""

    explanations: str | None = told("run directory whose maps are what attention is taught", default=None)
    method: str | None = told("folder name of its method; null: the first one", default=None)
    teachers: Literal["own", "mean"] = told(
        "member m learns from the maps of member m, or every one from the mean over all of them", default="own"
    )
    weight: float = told("lambda: weight of the attention loss", default=1.0, ge=0)
    sign: Literal["magnitude", "positive"] = told(
        "how much a token matters: by magnitude, or by what speaks for the class alone", default="magnitude"
    )
    binary: Literal["top", "threshold"] | None = told(
        "mark the greatest share of a text's tokens, or those of so much of its greatest; null: shares, not binarized",
        default="top",
    )
    top: float = told("binary top: share of a text's tokens, rounded up", default=0.2, gt=0, le=1)
    threshold: float = told("binary threshold: share of the text's greatest value", default=0.5, gt=0, le=1)
    words: bool = told("explain whole words: each piece has the sum over its word", default=False)
    shuffled: bool = told("a control: each text's values stand on other tokens of it, drawn at random", default=False)
    divergence: Literal["kl", "mse", "cosine"] = told("what is between attention and explanation", default="kl")
    layers: Layers = told("layers that are taught: last, all, or some by number, from 0", default="last")
    heads: Literal["mean", "each"] | Annotated[tuple[int, ...], BeforeValidator(listed)] = told(
        "heads that are taught: their mean, each by itself, or some by number, each by itself", default="mean"
    )
    query: Literal["class", "mean"] = told(
        "whose attention: the classification token's, or the mean over all tokens that count", default="class"
    )


class AugmentSpec(Part):
    """Random changes of training images, drawn per sample and epoch; off by default."""

    crop: int = told("random crop after padding by this many black pixels", "pixels", default=0, ge=0)
    flip: bool = told("random horizontal flip", default=False)


class TrainingSpec(Part):
    """How one member is trained."""

    epochs: int = told("passes over the training part; 0: untrained networks", "epochs", default=3, ge=0)
    batch_size: int = told("samples of one step", "samples", default=128, ge=1)
    optimizer: Literal["adam", "adamw", "sgd", "adadelta"] = told("rule of the step", default="adam")
    schedule: Literal["one_cycle", "step", "cosine", "constant"] = told(
        "course of the learning rate", default="one_cycle"
    )
    learning_rate: float = told("largest learning rate", default=0.01, gt=0)
    weight_decay: float = told("L2 penalty (adamw: decoupled)", default=0.0, ge=0)
    momentum: float = told("of sgd", default=0.9, ge=0, lt=1)
    milestones: Annotated[tuple[int, ...], BeforeValidator(listed)] = told(
        "schedule step: after these epochs the rate is multiplied by decay", "epochs", default=(15, 25)
    )
    decay: float = told("schedule step: the factor", default=0.5, gt=0, le=1)
    patience: int | None = told(
        "stop after so many epochs without a lower validation loss and keep the best; null: never",
        "epochs",
        default=None,
        ge=1,
    )
    precision: Literal["float32", "bfloat16"] = told(
        "of passes (autocast), of training and of maps, but for those of DeepLIFT and DeepSHAP", default="float32"
    )
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = told(
        "processor threads of one slot, part of what a member is; auto: those that train all members soonest, measured "
        "for two seconds, then kept in spec.yaml",
        "threads",
        default=1,
    )
    objective: Literal["standard", "guided", "attention"] = told(
        "cross-entropy, saliency guided training, or attention taught by explanations", default="standard"
    )
    guidance: GuidanceSpec = told("saliency guided training", default=GuidanceSpec())
    attention: AttentionSpec = told("attention taught by explanations (SalLM)", default=AttentionSpec())
    augment: AugmentSpec = told("augmentation", default=AugmentSpec())

    @property
    def pinned(self) -> int:
        """Threads of one slot. Raises ValueError while they are still to be measured."""
        if self.threads == "auto":
            raise ValueError("`training.threads`: expected a number, which `jobs.prepare` puts in place of auto")
        return self.threads
