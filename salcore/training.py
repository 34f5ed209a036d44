"""Training one member: a generator of epoch records that knows neither Ray nor MLflow nor files.

Every generator is seeded by (member, purpose, epoch), and the global ones are forked per epoch, so the state at the end
of an epoch is all that a resumed training needs: no generator state is saved, and a member that is interrupted ends
with the same bits.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from salcore import optimisation, seeds
from salcore.data import Data, Part
from salcore.data.batches import epoch_batches, inputs_of
from salcore.errors import UserError
from salcore.models import build, load_weights
from salcore.models.quick import quick
from salcore.objectives import OBJECTIVES
from salcore.objectives.attention import attention_rows
from salcore.padding import bound
from salcore.precision import at_least_float32
from salcore.step import Step

if TYPE_CHECKING:
    from salcore.members import Member
    from salcore.spec import AttentionSpec, ModelSpec


TURN = 8
"""Steps until a training hands on to one beside it (`salcore.lanes`): on a GPU they wait in its stream's queue."""


class Diverged(ArithmeticError):
    """The loss of a member became infinite or not a number: the member fails, the others go on."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of a member's history, and the state from which training would go on.

    Losses are means over samples (nats), accuracies are shares, seconds are wall time. `state` holds live tensors: use
    it before asking for the next epoch.
    """

    epoch: int
    train_loss: float
    eval_loss: float
    eval_accuracy: float
    learning_rate: float
    seconds: float
    state: dict[str, Any] = field(repr=False, compare=False)

    def row(self) -> dict[str, float]:
        """The record without its state."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "state"}


def fit(
    member: "Member", data: Data, *, device: str | torch.device = "cpu", state: dict[str, Any] | None = None
) -> Iterator[Epoch]:
    """Train `member` on `data` and yield a record after each epoch; one record of epoch 0 if there is nothing to train.

    `state` is that of an earlier record: training goes on after it, bit for bit as if it had never stopped. With
    `training.patience` it stops early, and the last record's state holds the model of the lowest validation loss.

    Raises Diverged for a loss that is not finite, UserError for weights that do not fit.
    """
    training, data = member.training, teachable(member, data)
    model = quick(_start(member, data).to(device), member.model)
    if member.weights or not training.epochs:
        yield _record(
            member, 0, math.nan, model, data, device, 0.0, time.perf_counter(), state={"model": model.state_dict()}
        )
        return
    optimizer = optimisation.optimizer(model.parameters(), training)
    schedule = optimisation.schedule(optimizer, training, steps_per_epoch(len(data.train), training.batch_size))
    step = Step(member, model, OBJECTIVES[training.objective], data.kind, device)
    finite = _finite(model)  # what has to stay so; a buffer may hold a mask of minus infinity
    best: dict[str, Any] = {"loss": math.inf, "epoch": 0, "model": None}
    done = 0
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        best, done = state["best"], state["epoch"]
    for epoch in range(done + 1, training.epochs + 1):
        if _patience_over(training.patience, best, epoch - 1):
            return
        started, rate = time.perf_counter(), optimizer.param_groups[0]["lr"]
        loss = _train_epoch(member, model, optimizer, schedule, data, epoch, device, step)
        state = {
            "epoch": epoch,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        }
        record = _record(member, epoch, loss, model, data, device, rate, started, state)
        if not finite <= _finite(model) or (len(data.validation) and not math.isfinite(record.eval_loss)):
            raise Diverged(f"the network is not finite after epoch {epoch}: try a smaller training.learning_rate")
        if training.patience and record.eval_loss < best["loss"]:
            copy = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            best = {"loss": record.eval_loss, "epoch": epoch, "model": copy}
        record.state["best"] = best
        yield record


def teachable(member: "Member", data: Data) -> Data:
    """The data, without the training samples that teach nothing: those whose class is not known, but by attention."""
    known = data.train.labels[data.train.index] >= 0
    if member.training.objective == "attention" or known.all():
        return data
    return replace(data, train=replace(data.train, index=data.train.index[known]))


def final_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights a training ends with: the best where it stopped early by validation, else the last."""
    best = state.get("best")
    return best["model"] if best and best["model"] is not None else state["model"]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    part: Part,
    data: Data,
    device: str | torch.device,
    batch_size: int,
    hand_on: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy of `model` in eval mode; NaN for an empty part.

    `hand_on` is called after every batch: see `salcore.seeds.Fork`.
    """
    if not len(part):
        return math.nan, math.nan
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    hits = torch.zeros((), dtype=torch.int64, device=device)
    for inputs, labels, valid, _ in epoch_batches(part, data, batch_size=batch_size, order=None, device=device):
        logits = bound(model, valid)(inputs)
        loss += nn.functional.cross_entropy(at_least_float32(logits), labels, reduction="sum")
        hits += (logits.argmax(1) == labels).sum()
        hand_on()
    model.train(was_training)
    return float(loss) / len(part), float(hits) / len(part)


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Steps of one epoch: a remainder of one sample joins the batch before it, since batch-norm cannot use one sample.

    >>> steps_per_epoch(256, 128), steps_per_epoch(257, 128), steps_per_epoch(258, 128), steps_per_epoch(1, 128)
    (2, 2, 3, 1)
    """
    full, rest = divmod(samples, batch_size)
    return max(full + (rest > 1), 1)


def _start(member: "Member", data: Data) -> nn.Module:
    with seeds.forked(member.seeds["init"]):
        model = build(member.model, input_shape=data.shape, classes=len(data.classes))
    if member.weights:
        load_weights(model, member.weights, key=f"ensemble.weights.{member.index}")
    elif member.start:
        load_weights(model, member.start, key=f"ensemble.start.{member.index}")
    return model


def _train_epoch(
    member: "Member",
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    data: Data,
    epoch: int,
    device: str | torch.device,
    step: Step,
) -> float:
    """One pass over the training part; the mean loss over samples. The device is synchronised once, at the end."""
    training = member.training
    batches = epoch_batches(
        data.train,
        data,
        batch_size=training.batch_size,
        order=seeds.generator(member.seeds["order"], epoch),
        augment=training.augment,
        augment_generator=seeds.generator(member.seeds["augment"], epoch),
        device=device,
    )
    total = torch.zeros((), dtype=torch.float64, device=device)
    model.train()
    step.begin(epoch)
    with seeds.forked(member.seeds["model"], epoch) as fork:
        for number, batch in enumerate(batches, 1):
            loss = step(batch)
            optimizer.step()
            schedule.step()
            total += loss * len(batch.inputs)
            if number % TURN == 0:
                fork.hand_on()
    mean = float(total) / len(data.train)
    if not math.isfinite(mean):
        raise Diverged(f"the training loss is {mean} in epoch {epoch}: try a smaller training.learning_rate")
    return mean


def _record(
    member: "Member",
    epoch: int,
    loss: float,
    model: nn.Module,
    data: Data,
    device: str | torch.device,
    rate: float,
    started: float,
    state: dict[str, Any],
) -> Epoch:
    with seeds.forked(member.seeds["model"], epoch, 1) as fork:  # a user's network may draw in eval mode too
        eval_loss, accuracy = evaluate(model, data.validation, data, device, 512, fork.hand_on)
    return Epoch(
        epoch=epoch,
        train_loss=loss,
        eval_loss=eval_loss,
        eval_accuracy=accuracy,
        learning_rate=rate,
        seconds=time.perf_counter() - started,
        state=state,
    )


def _finite(model: nn.Module) -> set[str]:
    """The names of the parameters and buffers without a value that is infinite or not a number.

    An epoch's last step may break a network whose training loss, taken before that step, was still finite.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    finite = torch.stack([torch.isfinite(value).all() for _, value in named]).tolist() if named else []
    return {name for (name, _), whole in zip(named, finite, strict=True) if whole}


def _patience_over(patience: int | None, best: dict[str, Any], epoch: int) -> bool:
    return patience is not None and epoch - best["epoch"] >= patience


def check(member: "Member", data: Data) -> None:
    """Refuse early what training could only find out late. Raises UserError."""
    if member.training.patience and not len(data.validation):
        raise UserError("training.patience", "a validation part to stop by: set data.validation_fraction above 0")
    if not len(teachable(member, data).train) and member.training.epochs and not member.weights:
        raise UserError("data.name", "training samples" + (" whose class is known" if len(data.train) else ""))
    if member.taught_by is not None:
        from salcore import explanations  # here, as a training itself needs no spec

        check_attention(member.model, member.training.attention, data)
        explanations.check(member, data)


def check_attention(model: "ModelSpec", attention: "AttentionSpec", data: Data) -> None:
    """Refuse layers and heads that the network does not have, tried on two texts. Raises UserError."""
    if data.tokenizer is None:
        raise UserError("data.tokenizer", "a tokenizer, as attention is taught to language models alone", None)
    with seeds.forked(0), torch.no_grad():
        network = build(model, input_shape=data.shape, classes=len(data.classes), start=False)
        if not hasattr(network, "attended"):
            expected = "transformers:NAME, a language model whose attention can be read"
            raise UserError("model.name", expected, model.name)
        inputs, valid = inputs_of(data.train, data.train.index[:2], data)
        counted = torch.ones(inputs.shape, dtype=torch.bool) if valid is None else valid
        _, attentions = network.attended(inputs, valid=valid)  # type: ignore[operator]
        try:
            attention_rows(attentions, counted, layers=attention.layers, heads=attention.heads, query=attention.query)
        except ValueError as error:
            key, _, told = str(error).partition(": expected ")
            expected, _, got = told.partition(", got ")
            raise UserError(f"training.attention.{key.strip('`')}", f"{expected} of this network", got) from None
