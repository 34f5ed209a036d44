"""A step that is captured and replayed gives the bits of one that runs: here by a twin of CUDA's graphs."""

import warnings

import pytest
import torch

from salcore import step, training
from salcore.data.batches import Batch
from salcore.step import WARM_UP, Step
from salcore.training import fit

CASES = [
    (),
    ("training.objective=guided",),
    ("training.objective=guided", "training.guidance.mode=eval", "training.guidance.of=log_probability"),
    ("training.precision=bfloat16",),
    ("training.optimizer=adadelta", "training.learning_rate=1"),
    ("training.optimizer=sgd", "model.norm=none", "model.dropout=0"),
]


def twin(model, log):
    """What `cuda_graph` does, on a processor: work runs in advance, and then again in the same memory."""
    parameters = list(model.parameters())

    def capture(work, generator):
        for _ in range(WARM_UP):
            work()
        loss = work()
        gradients = [parameter.grad for parameter in parameters]
        assert all(parameter.grad is not None for parameter in parameters)

        def replay():
            log.append("replayed")
            before = [parameter.grad for parameter in parameters]
            loss.copy_(work())
            for gradient, parameter, found in zip(gradients, parameters, before, strict=True):
                gradient.copy_(parameter.grad)
                parameter.grad = found  # a graph writes to memory, and assigns nothing

        return replay, loss

    return capture


@pytest.fixture
def captured(monkeypatch):
    """Steps of the training that follows are captured; the list of what was replayed."""
    log = []

    def make(member, model, objective, kind, device):
        return Step(member, model, objective, kind, device, capture=twin(model, log))

    def begin():
        monkeypatch.setattr(training, "Step", make)
        return log

    return begin


def ended(member, data):
    """Losses and final weights of a training."""
    rows, last = [], None
    for record in fit(member, data):
        rows.append((record.train_loss, record.eval_loss, record.eval_accuracy))
        last = {name: value.clone() for name, value in record.state["model"].items()}
    return rows, last


@pytest.mark.parametrize("overrides", CASES, ids=lambda case: " ".join(case) or "standard")
def test_a_training_by_replay_ends_with_the_same_bits(small, captured, overrides):
    """Batch-norm, dropout, masking and a last batch of another size among it."""
    _, data, members = small(*overrides)
    expected, weights = ended(members[1], data)
    log = captured()
    found, others = ended(members[1], data)
    assert found == expected
    assert all(torch.equal(others[name], weights[name]) for name in weights)
    full, rest = divmod(len(data.train), members[1].training.batch_size)
    assert rest > 1
    assert len(log) == full * members[1].training.epochs


def test_a_step_that_cannot_be_captured_runs_and_says_so(small, monkeypatch):
    def refuse(work, generator):
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    _, data, members = small()
    expected, weights = ended(members[0], data)
    monkeypatch.setattr(training, "Step", lambda *given: Step(*given, capture=refuse))
    with pytest.warns(UserWarning, match="without a CUDA graph, more slowly: operation not permitted") as told:
        found, others = ended(members[0], data)
    assert len(told) == 1
    assert found == expected
    assert all(torch.equal(others[name], weights[name]) for name in weights)


def test_casts_that_are_kept_would_be_seen_so_none_are_where_a_capture_fails(small, monkeypatch):
    """Both passes of a guided step share what is kept, and their gradients are then added in bfloat16."""

    def refuse(work, generator):
        raise RuntimeError("out of memory")

    _, data, members = small("training.objective=guided", "training.precision=bfloat16", "training.epochs=1")
    found = {}
    for name in ("captured", "refused", "kept"):

        def make(member, model, *rest, name=name):
            capture = {"captured": twin(model, []), "refused": refuse, "kept": None}[name]
            return Step(member, model, *rest, capture=capture)

        monkeypatch.setattr(training, "Step", make)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = ended(members[0], data)[1]
    assert all(torch.equal(found["captured"][name], value) for name, value in found["refused"].items())
    assert not all(torch.equal(found["kept"][name], value) for name, value in found["refused"].items())


@pytest.mark.parametrize(
    ("name", "device", "captures"),
    [("small_cnn", "cpu", False), ("small_cnn", "cuda", True), ("python:a.b:c", "cuda", False)],
)
def test_graphs_are_of_stock_networks_on_a_gpu(small, monkeypatch, name, device, captures):
    _, data, members = small()
    member = members[0]
    monkeypatch.setattr(step.torch, "Generator", lambda device: None)
    model = member.model.model_copy(update={"name": name})
    found = Step(type(member)(**vars(member) | {"model": model}), torch.nn.Linear(1, 1), None, data.kind, device)
    assert (found._capture is not None) == captures


def test_sequences_with_padding_run_as_they_are(small):
    """Their lengths differ from batch to batch, and some networks read them."""
    _, _, members = small()
    network = torch.nn.Linear(4, 3)
    made = Step(members[0], network, None, "series", "cpu", capture=lambda work, generator: pytest.fail("captured"))
    made._run = lambda batch: "run"
    inputs, valid = torch.zeros(2, 4, 5), torch.ones(2, 5, dtype=torch.bool)
    assert made(Batch(inputs, torch.zeros(2, dtype=torch.int64), valid)) == "run"
