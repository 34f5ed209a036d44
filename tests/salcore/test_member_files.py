"""A member on storage: trained once, resumed to the same bytes, and failing alone with its reason."""

import io
import json
import math

import pytest
import torch

from salcore import training
from salcore.errors import Damaged, UserError
from salcore.layout import member_file, member_folder
from salcore.member_files import (
    CHECKPOINT,
    FAILED,
    HISTORY,
    RECORD,
    WEIGHTS,
    failed,
    load_member,
    read_history,
    read_record,
    train_member,
    trained,
)
from salcore.models import build, load_weights
from salcore.storage import Store


def stop_after(epoch):
    def on_epoch(record):
        if record.epoch == epoch:
            raise KeyboardInterrupt

    return on_epoch


def history(store, member):
    table = store.read_parquet(member_file(member.index, HISTORY))
    return table.drop_columns("seconds").to_pylist()


def bytes_of(store, member, name=WEIGHTS):
    return store.read(member_file(member.index, name))


def without_seconds(record):
    return record | {"metrics": {key: value for key, value in record["metrics"].items() if key != "seconds"}}


def test_a_trained_member_leaves_record_weights_and_history_only(small, store):
    _, data, members = small()
    outcome = train_member(members[0], data, store)
    assert (outcome.index, outcome.reason) == (0, None)
    assert set(store.files()) == {member_file(0, name) for name in (RECORD, WEIGHTS, HISTORY)}
    record = read_record(store, 0)
    assert record["fingerprint"] == members[0].fingerprint
    assert record["seeds"] == members[0].seeds
    assert record["metrics"]["epoch"] == 3
    assert [row["epoch"] for row in history(store, members[0])] == [1, 2, 3]
    assert (record["classes"], record["shape"]) == (list(data.classes), [1, 8, 8])
    assert record["mean"] == data.mean.tolist()


def test_the_saved_network_is_the_trained_one_in_eval_mode(small, store):
    _, data, members = small()
    *_, last = training.fit(members[0], data)
    train_member(members[0], data, store)
    model = load_member(store, members[0], data)
    assert not any(module.training for module in model.modules())
    for name, value in last.state["model"].items():
        assert torch.equal(model.state_dict()[name], value)


def test_training_again_does_nothing(small, store):
    _, data, members = small()
    train_member(members[0], data, store)
    before = store.files()
    outcome = train_member(members[0], data, store, on_epoch=stop_after(1))
    assert (outcome.reason, outcome.seconds) == (None, 0)
    assert store.files() == before


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_interrupted_between_epochs_and_resumed_it_is_the_same_bytes(small, store, tmp_path, epoch):
    _, data, members = small("training.patience=3")
    other = Store(tmp_path / "other")
    train_member(members[1], data, other)
    with pytest.raises(KeyboardInterrupt):
        train_member(members[1], data, store, on_epoch=stop_after(epoch))
    assert not trained(store, members[1])
    assert store.exists(member_file(1, CHECKPOINT))
    epochs = []
    train_member(members[1], data, store, on_epoch=lambda record: epochs.append(record.epoch))
    assert epochs == list(range(epoch + 1, 4))
    assert bytes_of(store, members[1]) == bytes_of(other, members[1])
    assert history(store, members[1]) == history(other, members[1])
    assert without_seconds(read_record(store, 1)) == without_seconds(read_record(other, 1))
    assert not store.exists(member_file(1, CHECKPOINT))


def truncated(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "spoil",
    [truncated, lambda content: content[:10], lambda content: b"", lambda content: b"garbage" * 99],
    ids=["half", "head", "empty", "garbage"],
)
def test_a_damaged_checkpoint_is_passed_over(small, store, spoil):
    _, data, members = small()
    with pytest.raises(KeyboardInterrupt):
        train_member(members[0], data, store, on_epoch=stop_after(2))
    store.write(member_file(0, CHECKPOINT), spoil(bytes_of(store, members[0], CHECKPOINT)))
    epochs = []
    train_member(members[0], data, store, on_epoch=lambda record: epochs.append(record.epoch))
    assert epochs == [1, 2, 3]
    assert trained(store, members[0])


def test_a_checkpoint_with_one_altered_bit_is_passed_over(small, store, tmp_path):
    """`torch.load` reads it without a word: it does not look at the checksums of its archive."""
    _, data, members = small()
    other, name = Store(tmp_path / "other"), member_file(0, CHECKPOINT)
    train_member(members[0], data, other)
    with pytest.raises(KeyboardInterrupt):
        train_member(members[0], data, store, on_epoch=stop_after(2))
    whole = store.read(name)
    value = torch.load(io.BytesIO(whole), weights_only=True)["state"]["model"]
    tensor = next(each for each in value.values() if each.numel() > 8)
    place = whole.index(tensor.numpy().tobytes())
    altered = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    assert torch.load(io.BytesIO(altered), weights_only=True)["fingerprint"] == members[0].fingerprint
    store.write(name, altered)
    epochs = []
    train_member(members[0], data, store, on_epoch=lambda record: epochs.append(record.epoch))
    assert epochs == [1, 2, 3]
    assert bytes_of(store, members[0]) == bytes_of(other, members[0])


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_checkpoint_or_a_weight_file_is_executed(small, store, tmp_path):
    mark = tmp_path / "executed"
    spec, data, members = small()
    buffer = io.BytesIO()
    torch.save({"fingerprint": members[0].fingerprint, "history": [], "state": Evil(mark)}, buffer)
    store.write(member_file(0, CHECKPOINT), buffer.getvalue())
    assert train_member(members[0], data, store).reason is None
    (tmp_path / "evil.pt").write_bytes(buffer.getvalue())
    network = build(spec.model, input_shape=data.shape, classes=len(data.classes))
    with pytest.raises(UserError):
        load_weights(network, str(tmp_path / "evil.pt"), key="ensemble.weights.0")
    assert not mark.exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)["state"].close()
    assert mark.exists(), "this test can fail"


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"fingerprint": 3}', "{", '{"weights_bytes": "x"}'])
def test_a_record_that_is_none_is_named_with_what_to_do(small, store, content):
    _, data, members = small("training.epochs=0")
    train_member(members[0], data, store)
    store.write(member_file(0, RECORD), content.encode())
    for action in (lambda: trained(store, members[0]), lambda: load_member(store, members[0], data)):
        with pytest.raises(Damaged, match=r"members/0000/member\.json .*delete the member's folder"):
            action()


def test_a_record_whose_numbers_were_altered_is_named(small, store):
    _, data, members = small("training.epochs=1")
    train_member(members[0], data, store)
    record = json.loads(bytes_of(store, members[0], RECORD))
    record["metrics"]["eval_accuracy"] = 0.99
    store.write(member_file(0, RECORD), json.dumps(record).encode())
    with pytest.raises(Damaged, match="altered after it was written"):
        read_record(store, 0)


def test_a_history_of_an_altered_page_is_named(small, store):
    _, data, members = small("training.epochs=3")
    train_member(members[0], data, store)
    content = bytes_of(store, members[0], HISTORY)
    store.write(member_file(0, HISTORY), content[:60] + bytes([content[60] ^ 1]) + content[61:])
    with pytest.raises(Damaged, match=r"history\.parquet"):
        read_history(store, 0)


def test_a_checkpoint_that_is_no_mapping_is_passed_over(small, store, tmp_path):
    _, data, members = small()
    torch.save([1, 2], tmp_path / "list.pt")
    store.write(member_file(0, CHECKPOINT), (tmp_path / "list.pt").read_bytes())
    assert train_member(members[0], data, store).reason is None


def test_a_checkpoint_of_another_fingerprint_is_passed_over(small, store, tmp_path):
    _, data, members = small("training.learning_rate=0.02")
    with pytest.raises(KeyboardInterrupt):
        train_member(members[0], data, store, on_epoch=stop_after(2))
    _, data, (member, _) = small()
    other = Store(tmp_path / "other")
    for place in (store, other):
        train_member(member, data, place)
    assert bytes_of(store, member) == bytes_of(other, member)
    assert len(history(store, member)) == 3


def test_storage_that_fails_to_read_a_checkpoint_does_not_lose_it(small, store, monkeypatch):
    _, data, members = small()
    with pytest.raises(KeyboardInterrupt):
        train_member(members[0], data, store, on_epoch=stop_after(2))
    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", lambda self, name: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output"):
            train_member(members[0], data, store)
    assert store.exists(member_file(0, CHECKPOINT))


def test_a_member_of_another_fingerprint_is_not_trained(small, store):
    _, data, members = small()
    train_member(members[0], data, store)
    _, _, others = small("training.epochs=4")
    assert trained(store, members[0])
    assert not trained(store, others[0])
    assert not trained(store, members[1])


def test_truncated_or_missing_weights_are_trained_again(small, store):
    _, data, members = small()
    train_member(members[0], data, store)
    content = bytes_of(store, members[0])
    for spoil in (lambda name: store.write(name, truncated(content)), store.delete):
        spoil(member_file(0, WEIGHTS))
        assert not trained(store, members[0])
        train_member(members[0], data, store)
        assert bytes_of(store, members[0]) == content


def test_altered_weights_are_refused(small, store):
    _, data, members = small()
    train_member(members[0], data, store)
    content = bytearray(bytes_of(store, members[0]))
    content[-1] ^= 1
    store.write(member_file(0, WEIGHTS), bytes(content))
    with pytest.raises(ValueError, match=r"members/0000/weights\.safetensors was altered"):
        load_member(store, members[0], data)


def test_a_member_that_is_not_trained_cannot_be_loaded(small, store):
    _, data, members = small()
    with pytest.raises(FileNotFoundError, match="member 1 is not trained"):
        load_member(store, members[1], data)


def spoil_epoch(monkeypatch, error, *, member, epoch):
    """Let the objective of one member raise, or be NaN, in one epoch."""
    original = training._train_epoch

    def spoiled(current, *arguments):
        if (current.index, arguments[4]) == (member, epoch):
            raise error
        return original(current, *arguments)

    monkeypatch.setattr(training, "_train_epoch", spoiled)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (training.Diverged("the training loss is nan in epoch 2"), "the training loss is nan in epoch 2"),
        (RuntimeError("shapes cannot be multiplied"), "RuntimeError: shapes cannot be multiplied"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_a_failing_member_tells_its_reason_and_the_others_go_on(small, store, monkeypatch, error, reason):
    _, data, members = small()
    spoil_epoch(monkeypatch, error, member=0, epoch=2)
    outcomes = [train_member(member, data, store) for member in members]
    assert [outcome.reason for outcome in outcomes] == [reason, None]
    assert store.read_json(member_file(0, FAILED)) == {
        **{"reason": reason, "epoch": 2, "attempts": 1},
        "fingerprint": members[0].fingerprint,
    }
    assert [failed(store, member) for member in members] == [reason, None]
    assert [trained(store, member) for member in members] == [False, True]
    assert len(history(store, members[0])) == 1


def test_a_failure_of_another_fingerprint_is_none_of_this_member(small, store, monkeypatch):
    _, data, members = small()
    spoil_epoch(monkeypatch, training.Diverged("nan"), member=0, epoch=1)
    train_member(members[0], data, store)
    _, _, others = small("training.epochs=4")
    assert failed(store, others[0]) is None


def test_a_failed_member_that_is_retried_with_success_has_not_failed(small, store, monkeypatch):
    _, data, members = small()
    with monkeypatch.context() as patch:
        spoil_epoch(patch, RuntimeError("out of memory"), member=0, epoch=3)
        train_member(members[0], data, store)
    assert train_member(members[0], data, store).reason is None
    assert failed(store, members[0]) is None
    assert not store.exists(member_file(0, FAILED))
    assert len(history(store, members[0])) == 3


@pytest.mark.parametrize("name", [HISTORY, CHECKPOINT, WEIGHTS, RECORD])
def test_storage_that_fails_is_everybodys_matter(small, store, monkeypatch, name):
    _, data, members = small("training.epochs=1")
    write = Store.write

    def full(self, path, content):
        if path.endswith(name):
            raise OSError(28, "No space left on device")
        write(self, path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", full)
        with pytest.raises(OSError, match="No space left"):
            train_member(members[0], data, store)
    assert not trained(store, members[0])
    assert not store.exists(member_file(0, FAILED))
    assert train_member(members[0], data, store).reason is None


def test_a_gpu_that_fails_is_not_a_members_failure(small, store, monkeypatch):
    """It takes no more work of this process: the members that follow would all fail by it."""
    _, data, members = small()
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with monkeypatch.context() as patch:
        spoil_epoch(patch, error, member=0, epoch=2)
        with pytest.raises(torch.AcceleratorError):
            train_member(members[0], data, store)
    assert not store.exists(member_file(0, FAILED))
    assert train_member(members[0], data, store).reason is None


def test_untrained_members_and_the_users_own_are_recorded_too(small, store, tmp_path):
    spec, data, (member, _) = small("training.epochs=0")
    train_member(member, data, store)
    assert not store.exists(member_file(0, CHECKPOINT))
    assert "train_loss" not in read_record(store, 0)["metrics"]  # which is not a number
    assert math.isfinite(read_record(store, 0)["metrics"]["eval_loss"])
    torch.manual_seed(3)
    mine = build(spec.model, input_shape=data.shape, classes=10)
    torch.save(mine.state_dict(), tmp_path / "mine.pt")
    _, _, (own,) = small(f"ensemble.weights=[{tmp_path / 'mine.pt'}]", "ensemble.members=1")
    other = Store(tmp_path / "other")
    train_member(own, data, other)
    loaded = load_member(other, own, data).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in mine.state_dict().items())
    assert read_record(other, 0)["weights_from"] == str(tmp_path / "mine.pt")


def test_weights_that_do_not_fit_fail_their_member_with_a_reason(small, store, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "mine.pt")
    _, data, (member,) = small(f"ensemble.weights=[{tmp_path / 'mine.pt'}]", "ensemble.members=1")
    assert "ensemble.weights.0" in train_member(member, data, store).reason
    assert list(store.files(member_folder(0))) == [member_file(0, FAILED)]
