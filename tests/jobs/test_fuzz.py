"""Files that are not as they were written: the same result, remade to the same bytes, or one clear line. Never else.

A tiny run is made in this process, without Ray: each case spoils one of its files and does the whole run again.
"""

import contextlib
import io
import json
import os
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import salcore
from jobs import stages, status
from jobs.command import Command, find_spec, guarded
from jobs.lock import Lock, read_holder
from jobs.prepare import begin, prepare
from jobs.records import member_files, read_member
from salcore import inventory, layout, manifests, until
from salcore.data import load
from salcore.errors import Damaged, UserError
from salcore.explain import Explainer, read_predictions
from salcore.member_files import (
    CHECKPOINT,
    HISTORY,
    RECORD,
    WEIGHTS,
    _resume,
    _unpacked,
    load_member,
    read_record,
    train_member,
    trained,
)
from salcore.spec import describe, parse
from salcore.storage import SEAL, Store
from salcore.summary import read_stats, summarise

TINY = """
name: tiny
data: {name: digits, image_size: 4, train_samples: 30, eval_samples: 9}
model: {name: small_cnn, width: 2, depth: 1}
ensemble: {members: 3, until: {width: 0.0001, first: 3}}
training: {epochs: 2, batch_size: 16}
attribution: {batch_size: 8, shard_samples: 5, methods: [gradient, {name: integrated_gradients, as: ig, num_steps: 2}]}
"""
CASES = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
INTERNAL = ("Traceback", "KeyError", "TypeError", "AttributeError", "struct.error", "IndexError")


# The tiny run


class Scene:
    """A finished run, what its files were, and a way to spoil one and to put all back."""

    def __init__(self, folder):
        self.store = Store(folder)
        spec = parse(TINY)
        self.data = load(spec.data)
        self.command = Command(spec=spec, store=self.store, plan=False, retry_failed=False)
        self.clock = 0
        self.make()
        self.kept = {name: self.store.read(name) for name in self.store.files()}
        for name in self.kept:
            self.put(name, self.kept[name])
        self.make()  # manifests that know these times
        self.kept = {name: self.store.read(name) for name in self.store.files()}
        self.times = {name: info.mtime_ns for name, info in self.store.files().items()}
        plan = self.plan
        self.members, self.resolved, self.recipe = plan.members, plan.spec, plan.fingerprint
        self.alone = {name: read(self, name) for kind, read in ALONE.items() for name in self.names(kind)}
        self.answer, self.results = read_run(self), self.facts()

    def put(self, name, content, time_ns=None):
        """Write a file, at a time that no other has."""
        self.clock += 1_000_000_000
        path = self.store.local / name
        path.write_bytes(content)
        time_ns = time_ns or 1_700_000_000_000_000_000 + self.clock
        os.utime(path, ns=(time_ns, time_ns))

    def restore(self):
        files = self.store.files()
        for name in files.keys() - self.kept.keys():
            self.store.delete(name)
        for name, content in self.kept.items():
            if name not in files or files[name].mtime_ns != self.times[name] or files[name].size != len(content):
                (self.store.local / name).parent.mkdir(parents=True, exist_ok=True)
                self.put(name, content, self.times[name])

    @property
    def plan(self):
        return prepare(self.command, self.data)

    def make(self):
        """What `jobs.ensemble` does, stage by stage, in this process."""
        plan, store = self.plan, self.store
        begin(plan)
        for member in plan.untrained():
            outcome = train_member(member, self.data, store)
            assert outcome.reason is None, outcome
        found = inventory.take(store, plan.spec, self.data, plan.trained())
        worker = Explainer(plan.spec, self.data, plan.trained(), store)
        for item in found.missing:
            found.enter(worker.explain(item))
        found.write()
        for work in stages.ranges_to_reduce(plan, found):
            shards = [f"{layout.maps_folder(work.method, member)}/{work.path}" for member in work.members]
            assert work.bytes == pytest.approx(sum(len(store.read(name)) for name in shards), rel=0.01)
            work.do(store)
        names = [name for name in store.files("stats") if name.endswith(".arrow")]
        table = summarise(read_stats(store, name) for name in sorted(names))
        store.write_parquet(layout.SUMMARY, table)
        row = table.to_pylist()[0]
        look = until.Round(members=3, value=row["snr"], low=row["snr_low"], high=row["snr_high"])
        if not plan.rounds:
            until.write(store, plan.spec, plan.fingerprint, plan.looked([look]).rounds)

    def facts(self):
        """All that the run came to, but for times; weights and histories, which nobody asked for, tell themselves."""
        store, plan = self.store, self.plan
        found = {name: store.read(name) for name in store.files("maps") if name.endswith(".arrow")}
        found[layout.SPEC] = store.read(layout.SPEC)
        for kind in ("summary", "looks", "logits", "statistics", "manifests"):
            for name in self.names(kind):
                found[name] = ALONE[kind](self, name)
        found["members"] = [member.fingerprint for member in plan.trained()]
        return found

    def names(self, kind):
        return [name for name in sorted(self.kept) if KINDS[kind](name)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Scene(tmp_path_factory.mktemp("fuzz") / "run")
    torch.set_num_threads(before)


# What reads a run: notebooks, the report, the forwarder, `jobs.status`; and what reads one of its files


def same(values):
    """Arrays as bytes, so that NaN equals itself."""
    return [(value.shape, value.tobytes()) if isinstance(value, np.ndarray) else repr(value) for value in values]


def columns(table):
    return same([table.column_names, *(column.to_pylist() for column in table.columns)])


def read_run(scene):
    run = salcore.open(scene.store.uri)
    found = [run.members, run.failures, run.methods, run.planned, run.summary.to_pylist(), *run.logits()]
    for method in ("gradient", "ig"):
        found += [run.mean(method), run.variance(method), run.significant(method), run.snr(method)]
        found += [run.metadata(method), run.maps(method, [0, 6]), run.convergence_members(method)]
        found += [run.sample(int(run.column(method, "sample")[0])).snr]
    return same(found)


def read_forwarded(scene):
    files, members = scene.store.files(), scene.members
    records = [read_member(scene.store, member, member_files(files, member.index)) for member in members]
    return [each.stage for each in records], [[p for p in epoch if p.key != "x"] for r in records for epoch in r.epochs]


def index_of(name):
    return int(name.split("/")[1])


def alone_shard(scene, name):
    folder, _, path = name.rpartition("/")
    shard = manifests.read_finished(scene.store, folder, path)
    return same([*(shard.column(each) for each in shard.columns), shard.maps(), shard.metadata, shard.non_finite()])


def alone_manifest(scene, name):
    entries, problems = manifests.scan(scene.store, name.rpartition("/")[0])
    assert len(problems) <= 1
    return [entry._replace(mtime_ns=0) for entry in entries.values()]


def alone_logits(scene, name):
    found = read_predictions(scene.store, name)
    if found is None:
        raise Damaged(f"{scene.store.path(name)} is to be made again")
    return same([found.label, found.prediction, found.logits])


def alone_statistics(scene, name):
    found = read_stats(scene.store, name)
    return [*columns(found.stats), *columns(found.members), found.metadata]


def alone_record(scene, name):
    record = read_record(scene.store, index_of(name))
    return record, trained(scene.store, scene.members[index_of(name)])


def alone_weights(scene, name):
    network = load_member(scene.store, scene.members[index_of(name)], scene.data)
    return same([value.numpy() for value in network.state_dict().values()])


def alone_history(scene, name):
    return columns(salcore.open(scene.store.uri).history(index_of(name)).drop_columns("seconds"))


def alone_summary(scene, name):
    return columns(salcore.open(scene.store.uri).summary)


def alone_looks(scene, name):
    return repr(until.read(scene.store, scene.resolved, scene.recipe))


ALONE = {
    "shards": alone_shard,
    "manifests": alone_manifest,
    "logits": alone_logits,
    "statistics": alone_statistics,
    "summary": alone_summary,
    "records": alone_record,
    "weights": alone_weights,
    "histories": alone_history,
    "looks": alone_looks,
}
KINDS = {
    "shards": lambda name: name.startswith("maps/") and name.endswith(".arrow"),
    "manifests": lambda name: name.endswith(manifests.MANIFEST),
    "logits": lambda name: f"/{layout.LOGITS}/" in name,
    "statistics": lambda name: name.startswith("stats/") and name.endswith(".arrow"),
    "summary": lambda name: name == layout.SUMMARY,
    "records": lambda name: name.endswith(RECORD),
    "weights": lambda name: name.endswith(WEIGHTS),
    "histories": lambda name: name.endswith(HISTORY),
    "looks": lambda name: name == until.FILE,
}


# Mutations


@st.composite
def spoilt(draw, content):
    """The bytes of a file: some flipped, cut off, put in or taken out, or something else altogether."""
    how = draw(st.sampled_from(["flip", "flip", "flip", "set", "cut", "more", "hole", "zeros", "other"]))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    if how == "flip" and content:
        flipped = content[place] ^ (1 << draw(st.integers(0, 7)))
        return content[:place] + bytes([flipped]) + content[place + 1 :]
    if how == "set":
        some = draw(st.binary(min_size=1, max_size=8))
        return content[:place] + some + content[place + len(some) :]
    if how == "cut":
        return content[:place]
    if how == "more":
        return content + draw(st.binary(min_size=1, max_size=40))
    if how == "hole":
        return content[:place] + content[place + draw(st.integers(1, 64)) :]
    if how == "zeros":
        return content[:place] + bytes(len(content) - place)
    return draw(st.sampled_from(OTHERS))


def _others():
    """Whole files of other kinds."""
    checkpoint, parquet, arrow = io.BytesIO(), pa.BufferOutputStream(), pa.BufferOutputStream()
    torch.save({"fingerprint": "other"}, checkpoint)
    table = pa.table({"epoch": [1], "x": ["y"]})
    pq.write_table(table, parquet)
    with pa.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table)
    others = [checkpoint.getvalue(), parquet.getvalue().to_pybytes(), arrow.getvalue().to_pybytes()]
    words = [b"", b"\0", b"null", b"[]", b"{}", b"3", b'"x"', b"\xff\xfe", b"[" * 5000, b"PK\x03\x04", b"ARROW1"]
    return [*others, *words]


OTHERS = _others()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def places(value, path=()):
    """The path of every value in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


@st.composite
def another(draw, value):
    """A JSON value in which one value is replaced or taken away."""
    value = json.loads(json.dumps(value))
    path = draw(st.sampled_from(list(places(value))))
    if not path:
        return draw(JSON)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if draw(st.integers(0, 3)) == 0:
        del parent[path[-1]]
    else:
        parent[path[-1]] = draw(JSON)
    return value


def told(action):
    """What an action gives, or the one line that a command would end with; anything else is let through."""
    lines = io.StringIO()
    found = []
    with contextlib.redirect_stderr(lines), contextlib.redirect_stdout(io.StringIO()):
        code = guarded("ensemble", lambda _: found.append(action()) or 0, [])
    text = lines.getvalue()
    assert code in {0, 1, 2}
    assert text.count("\n") == (code != 0), text
    assert not any(word in text for word in INTERNAL), text
    return code, found, text


# Damage to what a run holds


def spoil_each(scene, kind, cases, check, mutate=spoilt):
    """Spoil files of a kind, one at a time, and check what comes of it."""

    @given(st.data())
    @settings(CASES, max_examples=cases)
    def spoil(data):
        name = data.draw(st.sampled_from(scene.names(kind)))
        content = data.draw(mutate(scene.kept[name]))
        if content == scene.kept[name]:
            return
        scene.put(name, content)
        try:
            check(name)
        finally:
            scene.restore()

    spoil()


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_file_reads_as_before_or_is_named(scene, kind):
    def check(name):
        code, found, line = told(lambda: ALONE[kind](scene, name))
        assert found == [scene.alone[name]] if code == 0 else scene.store.path(name) in line, line

    spoil_each(scene, kind, 150, check)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_a_spoilt_file_is_mended_or_refused(scene, kind):
    def check(name):
        code, found, _ = told(lambda: read_run(scene))
        assert code or found == [scene.answer]
        told(lambda: describe_run(scene.store))
        told(lambda: read_forwarded(scene))
        code, _, line = told(scene.make)
        assert scene.facts() == scene.results if code == 0 else str(scene.store) in line, line

    spoil_each(scene, kind, 12, check)


def describe_run(store):
    return status.describe(salcore.open(store.uri), time.time())


# JSON whose values are replaced


@st.composite
def otherwise(draw, content):
    """A JSON file with another value somewhere in it, written by hand: its checksum is as it was."""
    return json.dumps(draw(another(json.loads(content)))).encode()


@pytest.mark.parametrize("kind", ["manifests", "records", "looks"])
def test_json_with_another_value_is_named_or_made_again(scene, kind):
    def check(name):
        code, found, line = told(lambda: ALONE[kind](scene, name))
        assert found == [scene.alone[name]] if code == 0 else scene.store.path(name) in line, line

    spoil_each(scene, kind, 150, check, otherwise)


@pytest.mark.parametrize("kind", ["manifests", "records", "looks"])
def test_json_with_another_value_and_no_checksum_is_of_no_harm(scene, kind):
    """As an earlier version wrote it: its types are still looked at."""

    def check(name):
        for action in (lambda: ALONE[kind](scene, name), lambda: describe_run(scene.store)):
            assert told(action)[0] in {0, 1, 2}
        told(scene.make)

    def unsealed(content):
        return another({key: each for key, each in json.loads(content).items() if key != SEAL}).map(
            lambda value: json.dumps(value).encode()
        )

    spoil_each(scene, kind, 40, check, unsealed)


def test_another_spec_in_the_run_directory_is_the_users_mistake_or_refused(scene):
    """Whatever stands in spec.yaml, no command ends in a traceback, and no member is trained over by another."""
    whole = yaml.safe_load(scene.kept[layout.SPEC])

    @given(another(whole).map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode()) | spoilt_spec(scene))
    @settings(CASES, max_examples=150)
    def change(content):
        scene.put(layout.SPEC, content)
        try:
            code, found, line = told(lambda: read_run_of(scene))
            told(lambda: describe_run(scene.store))
            told(lambda: prepare(scene.command, scene.data))
            assert code or found == [True], line
        finally:
            scene.restore()

    change()


def spoilt_spec(scene):
    return spoilt(scene.kept[layout.SPEC])


def read_run_of(scene):
    """Whether what can be read of the run under this spec is of the maps that are there."""
    spec, _ = find_spec(str(scene.store))
    run = salcore.open(scene.store.uri)
    kept = {salcore.spec.parse(scene.kept[layout.SPEC]).attribution.shard_samples}
    if {spec.attribution.shard_samples, run.spec.attribution.shard_samples} != kept:
        return True  # another cut of the samples: an earlier spec's files are no part of this run
    return all(run.mean(method).shape[1:] == (1, 4, 4) for method in {"gradient", "ig"} & {*run.methods})


# What only exists while a run goes on


def test_a_spoilt_checkpoint_is_passed_over_and_the_member_comes_out_the_same(scene, tmp_path):
    """CRC errors that torch itself would read over are found; only the intact state is gone on with."""
    store, member = Store(tmp_path / "half"), scene.members[1]
    name = layout.member_file(1, CHECKPOINT)

    def stop(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_member(member, scene.data, store, on_epoch=stop)
    whole = store.read(name)
    assert len(_resume(store, member)[0]) == 1
    history = scene.store.read_parquet(layout.member_file(1, HISTORY)).drop_columns("seconds")
    weights = scene.kept[layout.member_file(1, WEIGHTS)]

    def state(found):
        return sorted((key, repr(value)) for key, value in found.items()) if found else None

    intact = state(_unpacked(whole)["state"])

    @given(spoilt(whole))
    @settings(CASES, max_examples=400)
    def spoil(content):
        found = _unpacked(content)
        assert found is None or state(found["state"]) == intact

    @given(spoilt(whole))
    @settings(CASES, max_examples=30)
    def resume(content):
        for each in store.files():
            store.delete(each)
        store.write(name, content)
        assert train_member(member, scene.data, store).reason is None
        assert store.read(layout.member_file(1, WEIGHTS)) == weights
        assert store.read_parquet(layout.member_file(1, HISTORY)).drop_columns("seconds") == history

    spoil()
    resume()


def test_a_spoilt_lock_is_taken_over_or_respected(scene, tmp_path):
    store = Store(tmp_path / "run")
    with Lock(store):
        whole = store.read(layout.LOCK)

    @given(spoilt(whole) | another(json.loads(whole)).map(lambda value: json.dumps(value).encode()))
    @settings(CASES, max_examples=300)
    def spoil(content):
        store.write(layout.LOCK, content)
        with contextlib.suppress(Damaged):
            read_holder(store)
        with contextlib.suppress(UserError), Lock(store):
            assert store.exists(layout.LOCK)
        assert set(store.files()) <= {layout.LOCK}

    spoil()


# Specs


KEYS = [key for key, *_ in describe()]
VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 12), st.floats(width=16), st.text(max_size=4)),
    st.sampled_from(["gradient", "small_cnn", "auto", "label", "guided", "float16", "digits", "adam", "wordpiece"]),
    st.lists(st.sampled_from(["gradient", "gradcam", "init", 1, 0.5, None, {"name": "smoothgrad"}]), max_size=3),
    st.dictionaries(st.sampled_from(["name", "width", "depth", "as", "of", "samples"]), JSON, max_size=3),
)


def test_a_random_spec_is_a_plan_or_the_users_mistake(scene, tmp_path, monkeypatch):
    """From the command line to a checked plan: exit status 0 or 2, and one line where it is 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jobs.prepare.load", lambda spec: scene.data)
    file = tmp_path / "fuzz.yaml"

    def plan(arguments):
        spec, _ = find_spec(arguments[0], arguments[1:])
        big = spec.model.settings.get("width", 1), spec.model.settings.get("depth", 1), spec.ensemble.members
        if all(isinstance(each, int) and each <= 64 for each in big):
            prepare(Command(spec=spec, store=Store(tmp_path / "new"), plan=True, retry_failed=False))
        return 0

    @given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=3), st.lists(st.sampled_from(KEYS), max_size=1))
    @settings(CASES, max_examples=500)
    def ask(changes, cleared):
        file.write_text(TINY)
        overrides = [f"{key}={json.dumps(value)}" for key, value in changes] + [f"{key}=" for key in cleared]
        lines = io.StringIO()
        with contextlib.redirect_stderr(lines), contextlib.redirect_stdout(io.StringIO()):
            code = guarded("ensemble", plan, [str(file), *overrides])
        assert code in {0, 2}, lines.getvalue()
        assert lines.getvalue().count("\n") == (code != 0)

    ask()
