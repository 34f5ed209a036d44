"""Run directories made of given maps and logits, in the project's own files, with nothing trained."""

import numpy as np
import pyarrow as pa
import pytest
import yaml

import salcore
from salcore import layout, shards
from salcore.data import load
from salcore.explain import Predictions, _encode_predictions
from salcore.layout import ranges
from salcore.reduce import reduce_range
from salcore.seeds import PURPOSES
from salcore.spec import DataSpec, from_dict
from salcore.storage import Store
from salcore.summary import read_stats, summarise, write_stats

SHARD = 8


@pytest.fixture(scope="session")
def digits():
    """The first 20 evaluation samples of digits: numbers and labels."""
    data = load(DataSpec(name="digits", eval_samples=20))
    return data.evaluation.index, data.evaluation.labels[data.evaluation.index]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """A function that writes a run, in a folder of its own, and opens it."""

    def make(
        name,
        maps,
        sample,
        label,
        logits,
        *,
        classes=10,
        data="digits",
        failures=(),
        planned=None,
        spec=None,
        lengths=None,
    ):
        members = next(iter(maps.values())).shape[0]
        folder = tmp_path_factory.mktemp("runs") / name
        store = Store(folder)
        values = {
            "name": name,
            "data": {"name": data, "eval_samples": len(sample)},
            "ensemble": {"members": planned or members + len(failures)},
            "attribution": {"shard_samples": SHARD, "methods": [_entry(m, len(x[0]), sample) for m, x in maps.items()]},
        }
        resolved = from_dict(values | (spec or {})).to_dict() | {"fingerprints": {"members": "0123abcd" * 8}}
        store.write(layout.SPEC, yaml.safe_dump(resolved, sort_keys=False).encode())
        for member in range(members):
            _write_member(store, member, classes)
            _write_logits(store, member, sample, label, logits[member])
        for member in failures:
            store.write_json(layout.member_file(member, "failed.json"), {"reason": "loss became NaN <in epoch 2>"})
        for method, values in maps.items():
            _write_method(store, method, values, sample, label, lengths)
        names = [name for name in store.files("stats") if name.endswith(".arrow")]
        ordered = [name for method in maps for name in names if name.startswith(f"stats/{method}/")]
        store.write_parquet(layout.SUMMARY, summarise(read_stats(store, name) for name in ordered))
        return salcore.open(folder)

    return make


def _entry(method, count, sample):
    return {"name": method} if count == len(sample) else {"name": method, "samples": count}


def _write_member(store, member, classes):
    record = {
        "index": member,
        "fingerprint": f"member-{member}",
        "classes": [f"class {k} & co" for k in range(classes)],
        "seeds": {purpose: 100 * member + place for place, purpose in enumerate(PURPOSES)},
        "metrics": {"eval_accuracy": 0.9},
        "weights_sha256": "feed" * 16,
        "weights_bytes": 1,
        "torch": "2.11.0",
    }
    store.write_json(layout.member_file(member, "member.json"), record)
    rows = [
        {
            "epoch": e,
            "train_loss": 1 / e,
            "eval_loss": 1 / e,
            "eval_accuracy": 1 - 0.5 / e,
            "learning_rate": 0.01,
            "seconds": 2.0,
        }
        for e in (1, 2, 3)
    ]
    store.write_parquet(layout.member_file(member, "history.parquet"), pa.Table.from_pylist(rows))


def _write_logits(store, member, sample, label, logits):
    for part in ranges(len(sample), SHARD):
        cut = slice(part.start, part.stop)
        found = Predictions(label=label[cut], prediction=logits[cut].argmax(1), logits=logits[cut])
        name = f"{layout.member_folder(member)}/{layout.LOGITS}/{layout.part_file(part.part)}"
        store.write(name, _encode_predictions(found, sample[cut], "mark"))


def _write_method(store, method, maps, sample, label, lengths):
    for part in ranges(maps.shape[1], SHARD):
        cut, opened = slice(part.start, part.stop), []
        for member, values in enumerate(maps):
            name = f"{layout.maps_folder(method, member)}/{layout.part_file(part.part)}"
            columns = {"sample": sample[cut], "label": label[cut], "target": label[cut], "prediction": label[cut]}
            columns |= {} if lengths is None else {"length": lengths[cut]}
            columns = {key: column[: len(values[cut])] for key, column in columns.items()}
            shards.write(store, name, shards.encode(**columns, maps=values[cut], metadata={"member": member}))
            opened.append(shards.read(store, name))
        reduced = reduce_range(opened, members=range(len(maps)), inputs_digest="inputs", metadata={"method": method})
        write_stats(store, f"{layout.stats_folder(method)}/{layout.part_file(part.part)}", reduced)


@pytest.fixture(scope="session")
def noisy():
    """A function that makes maps `(M, N, *shape)`: one signal for all members, and noise that is independent."""

    def make(members, samples, snr, *, shape=(1, 8, 8), seed=0):
        rng = np.random.default_rng(seed)
        signal = rng.standard_normal((samples, *shape))
        signal /= np.sqrt((signal**2).mean(axis=tuple(range(1, signal.ndim)), keepdims=True))
        noise = rng.standard_normal((members, samples, *shape))
        return (np.reshape(snr, (-1, *[1] * len(shape))) * signal + noise).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def logits():
    """A function that makes logits `(M, N, K)` of which a share of samples is right, for each member."""

    def make(labels, accuracies, classes=10):
        count = len(labels)
        wrong = (np.maximum(labels, 0) + 1) % classes
        out = np.zeros((len(accuracies), count, classes), np.float32)
        for member, share in enumerate(accuracies):
            named = np.where(np.arange(count) < round(share * count), np.maximum(labels, 0), wrong)
            out[member, np.arange(count), named] = 1.0 + np.arange(count) / count
        return out

    return make
