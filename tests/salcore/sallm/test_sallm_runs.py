"""SalLM's runs on a corpus in which one word decides: what students learn, what they start from, what is refused."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

import salcore
from jobs.command import SPECS, Command
from jobs.prepare import prepare
from salcore.data import load
from salcore.errors import UserError
from salcore.explanations import Explanations, explained
from salcore.member_files import train_member
from salcore.members import plan
from salcore.sallm import page, table
from salcore.sallm.variants import networks, stages
from salcore.spec import parse
from salcore.storage import Store
from salcore.studies.row import table as as_table
from salcore.training import fit
from tests.conftest import ROOT
from tests.salcore.sallm.conftest import Chain, spec_of, write_corpus


def weights(chain, run, member=0):
    content = (chain.place / run / "members" / f"{member:04d}" / "weights.safetensors").read_bytes()
    return safetensors.torch.load(content)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_stage_needs_only_what_came_before(taught):
    done = set()
    for stage in stages(taught.spec, str(taught.place)):
        for spec in stage.values():
            needed = (
                {spec.training.attention.explanations}
                | set(spec.ensemble.weights or ())
                | set(spec.ensemble.start or ())
            )
            for path in filter(None, needed):
                assert path.removeprefix(f"{taught.place}/").split("/")[0] in done
        done |= {*stage}
    assert {*networks(taught.spec), *networks(taught.spec).values()} == done


def test_explanations_are_by_the_teachers_own_weights_and_of_every_text(taught):
    assert same(weights(taught, "vanilla"), weights(taught, "explanations"))
    assert same(weights(taught, "sallm", 1), weights(taught, "explanations_2", 1))
    run = salcore.open(taught.place / "explanations")
    assert run.column("input_x_gradient", "sample").tolist() == list(range(160 + 40 + 40))


def test_students_of_the_same_seed_start_alike_and_the_fine_tuned_one_where_its_teacher_ended(taught):
    def start(name):
        prepared = taught.prepared(name)
        member = prepared.members[0]
        untrained = replace(member, training=member.training.model_copy(update={"epochs": 0}))
        return next(fit(untrained, explained(member, prepared.data) if member.taught_by else prepared.data)).state[
            "model"
        ]

    vanilla = start("vanilla")
    assert same(vanilla, start("sallm"))
    assert same(weights(taught, "vanilla"), start("fine_tuned"))
    assert not same(vanilla, start("fine_tuned"))


def test_students_attend_to_what_they_were_shown_of_texts_that_they_never_saw(taught):
    found = taught.results()

    def area(name, by):
        return float(np.nanmean(found.agreement(name, by).area))

    assert area("sallm", "sallm") > area("vanilla", "sallm") + 0.05
    assert area("sallm", "sallm") > area("shuffled", "sallm") + 0.05
    assert area("iterative_2", "iterative_2") > area("vanilla", "iterative_2")
    assert area("semi_supervised", "semi_supervised") > area("vanilla_labelled", "semi_supervised") + 0.05
    assert np.nanmean(found.agreement("sallm", "sallm").chance) == pytest.approx(0.5, abs=0.1)
    rows = {row.what: row for row in table.rows(found)}
    gain = rows["iterative_2: attention finds it more often than that of vanilla"]
    assert gain.ours == pytest.approx(area("iterative_2", "iterative_2") - area("vanilla", "iterative_2"), abs=1e-3)
    assert rows["sallm: attention finds it more often than that of shuffled"].ours > 0.05
    assert rows["vanilla: test accuracy, %"].paper is None, "two classes are not the poster's five"
    right = salcore.open(taught.place / "sallm")
    labels, logits = right.logits()
    assert rows["sallm: test accuracy, %"].ours == pytest.approx(100 * (logits.argmax(2) == labels).mean())
    assert as_table(tuple(rows.values())).num_rows == len(rows)


def test_without_weight_a_student_is_the_vanilla_model(taught, tmp_path):
    attention = taught.spec.training.attention.model_copy(update={"weight": 0.0})
    training = taught.spec.training.model_copy(update={"attention": attention})
    chain = Chain(taught.spec.model_copy(update={"training": training}), tmp_path)
    for name in ("vanilla", "explanations"):
        shutil.copytree(taught.place / name, tmp_path / name)
    prepared = chain.prepared("sallm")
    assert train_member(prepared.members[0], prepared.data, prepared.store).reason is None
    trained, plain = weights(chain, "sallm"), weights(taught, "vanilla")
    for name, value in plain.items():  # the attention is computed another way: equal but for the last bits
        torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=1e-4)


def test_unlabelled_texts_teach_attention_alone(taught):
    prepared = taught.prepared("semi_supervised")
    labels = prepared.data.train.labels[prepared.data.train.index]
    assert (labels == -1).sum() == 80
    vanilla = taught.prepared("vanilla_labelled")
    seen = [record.train_loss for record in fit(vanilla.members[0], vanilla.data)]
    assert np.isfinite(seen).all()
    run = salcore.open(taught.place / "explanations_labelled")
    assert run.spec.attribution.target == "prediction"


def test_the_mean_over_teachers_is_taught_where_it_is_asked_for(taught):
    prepared = taught.prepared("mean_teacher")
    first, second = (explained(member, prepared.data).train.explanation for member in prepared.members)
    assert np.array_equal(first, second)
    own = taught.prepared("sallm")
    first, second = (explained(member, own.data).train.explanation for member in own.members)
    assert not np.array_equal(first, second)


def test_an_interrupted_student_ends_with_the_same_bytes(taught, tmp_path):
    class Stop(BaseException):
        pass

    def stop(record):
        if record.epoch == 2:
            raise Stop

    prepared = taught.prepared("sallm")
    store = Store(str(tmp_path))
    with pytest.raises(Stop):
        train_member(prepared.members[1], prepared.data, store, on_epoch=stop)
    assert train_member(prepared.members[1], prepared.data, store).reason is None
    names = ("members/0001/weights.safetensors",)
    for name in names:
        assert (tmp_path / name).read_bytes() == (taught.place / "sallm" / name).read_bytes()


def test_members_are_others_where_the_explanations_are(taught, tmp_path):
    prepared = taught.prepared("sallm")
    copy = tmp_path / "explanations"
    shutil.copytree(taught.place / "explanations", copy)
    attention = prepared.spec.training.attention.model_copy(update={"explanations": str(copy)})
    moved = prepared.spec.model_copy(
        update={"training": prepared.spec.training.model_copy(update={"attention": attention})}
    )
    digest = prepared.data.digest
    assert [m.fingerprint for m in plan(moved, digest)] == [m.fingerprint for m in prepared.members]
    shards = sorted((copy / "maps" / "input_x_gradient" / "member=0000").glob("*.arrow"))
    content = bytearray(shards[0].read_bytes())
    content[len(content) // 2] ^= 1
    shards[0].write_bytes(content)
    changed = plan(moved, digest)
    assert changed[0].fingerprint != prepared.members[0].fingerprint
    assert changed[1].fingerprint == prepared.members[1].fingerprint
    old = replace(changed[0], taught_by=prepared.members[0].taught_by)
    with pytest.raises(UserError, match="the maps that this training began with"):
        explained(old, prepared.data)


def student(chain, *overrides):
    """What preparing the student `sallm` says when its spec is changed."""
    spec = next(stage["sallm"] for stage in stages(chain.spec, str(chain.place)) if "sallm" in stage)
    changed = parse(yaml.safe_dump(spec.to_dict()), overrides)
    return prepare(Command(spec=changed, store=Store(str(chain.place / "other")), plan=False, retry_failed=False))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.attention.explanations=null"], r"training\.attention\.explanations: expected a run directory"),
        (["training.attention.explanations=/nowhere"], r"training\.attention\.explanations: expected a run directory"),
        (["training.attention.method=lime"], r"training\.attention\.method: expected one of input_x_gradient"),
        (["ensemble.members=3"], r"maps of member 2 by input_x_gradient"),
        (["data.length=5"], r"maps of texts of up to 5 tokens"),
        (["training.attention.layers=[2]"], r"training\.attention\.layers: expected numbers from 0 to 1"),
        (["training.attention.heads=[7]"], r"training\.attention\.heads: expected numbers from 0 to 1"),
    ],
)
def test_explanations_that_do_not_fit_are_refused_in_one_line(taught, overrides, message):
    with pytest.raises(UserError, match=message) as raised:
        student(taught, *overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("change", ["another", "none"])
def test_explanations_of_another_tokenizer_are_refused(taught, tmp_path, change):
    copy = tmp_path / "explanations"
    shutil.copytree(taught.place / "explanations", copy)
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("awful", "lawful"))
    if change == "none":
        tokenizer.unlink()
    with pytest.raises(UserError, match="explanations of the tokens of this spec's tokenizer"):
        student(taught, f"training.attention.explanations={copy}")


def test_explanations_of_other_texts_are_refused(taught, tmp_path):
    folder = tmp_path / "films"
    write_corpus(folder, train=200)
    with pytest.raises(UserError, match=r"training\.attention\.explanations"):
        student(taught, f"data.name=sst:{folder}")


def test_explanations_of_other_texts_of_the_same_lengths_are_refused(taught, tmp_path):
    """Sentences change places with others of as many words: the tokenizer and all lengths are the same."""
    original = Path(taught.spec.data.name.partition(":")[2])
    folder = tmp_path / "films"
    shutil.copytree(original, folder)
    lines = (folder / "train.txt").read_text().splitlines()
    same = sorted(range(len(lines)), key=lambda row: (lines[row].split()[0], len(lines[row].split())))
    for one, other in zip(same[::2], same[1::2], strict=True):
        if len(lines[one].split()) == len(lines[other].split()):
            lines[one], lines[other] = lines[other], lines[one]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="those of other texts under"):
        student(taught, f"data.name=sst:{folder}")


def test_labels_that_training_does_not_know_are_not_explained(taught):
    spec = taught.prepared("explanations_labelled").spec
    data = load(spec.data)
    hidden = data.train.index[data.train.labels[data.train.index] < 0]
    assert len(hidden) == 80
    assert (data.evaluation.labels[hidden] == -1).all()
    assert (data.evaluation.labels >= 0).sum() == 80 + 40 + 40


def test_a_set_without_a_test_split_is_explained_and_measured_in_its_own_numbers(corpus, tmp_path):
    folder = tmp_path / "films"
    shutil.copytree(corpus, folder)
    (folder / "test.txt").unlink()
    chain = Chain(
        spec_of(folder, "sallm.variants=[sallm]", "training.epochs=1", "ensemble.members=1"), tmp_path / "run"
    )
    for stage in stages(chain.spec, str(chain.place)):
        for name in stage:
            chain.do(name)
    found = chain.results()
    run = salcore.open(chain.place / "explanations")
    maps = run.maps("input_x_gradient", found.texts.rows.tolist())[0]
    expected = np.abs(maps) * found.texts.counted.numpy()
    np.testing.assert_allclose(found.explanation("sallm", 0).numpy(), expected, rtol=1e-6)


def test_explanations_of_the_test_part_alone_are_refused(taught):
    with pytest.raises(UserError, match=r"training\.attention\.explanations"):
        student(taught, f"training.attention.explanations={taught.place / 'vanilla'}")


def test_words_with_vectors_have_no_attention_to_teach(taught, tmp_path):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("the 0.1 0.2\nfilm 0.3 0.4\n")
    with pytest.raises(UserError, match=r"data\.tokenizer|model\.name"):
        student(taught, "model={name: bilstm, hidden: 2}", "data.tokenizer=null", f"data.vectors={vectors}")


def test_the_page_shows_variants_beside_the_posters_and_sentences(taught):
    found = taught.results()
    text = page.build(found, tuple(table.rows(found)))
    assert "poster: test" in text
    assert text.count("attention of sallm") >= page.SENTENCES
    assert text.count("<svg") == 2
    for name in found.pairs:
        assert name in text


def test_digests_are_of_the_maps_that_a_member_learns_from(taught):
    attention = taught.prepared("sallm").spec.training.attention
    own, mean = (Explanations.of(attention.model_copy(update={"teachers": teachers})) for teachers in ("own", "mean"))
    assert own.digest(0) != own.digest(1)
    assert mean.digest(0) == mean.digest(1)


def test_the_spec_of_a_student_says_what_it_is_taught(corpus, tmp_path):
    spec = spec_of(corpus)
    students = {name: each for stage in stages(spec, "/x") for name, each in stage.items()}
    assert students["shuffled"].training.attention.shuffled
    assert students["semi_supervised"].data.labelled == 0.5
    assert students["vanilla"].training.objective == "standard"
    assert all(each.tracking.experiment == "tiny" for each in students.values())


def test_the_two_specs_of_sst5_differ_in_the_network_and_its_learning_rate_alone():
    tiny, large = (yaml.safe_load((SPECS / f"sst5_{name}.yaml").read_text()) for name in ("tiny", "bert_base"))
    assert {**tiny.pop("model"), **large.pop("model")}.keys() == {"name", "layers", "width", "heads"}
    assert tiny["data"].pop("vocabulary") == 6000, "BERT brings its own"
    assert tiny["training"].pop("learning_rate") > large["training"].pop("learning_rate")
    assert tiny == large


KILLED = """
import sys
import torch
from pathlib import Path
from salcore.member_files import train_member
from salcore.spec import parse
from salcore.storage import Store
from tests.conftest import ROOT
from tests.salcore.sallm.conftest import Chain

torch.set_num_threads(1)
text, place, folder = sys.argv[1:]
chain = Chain(parse(text), Path(place))
prepared = chain.prepared("sallm")
train_member(prepared.members[0], prepared.data, Store(folder))
"""


def test_a_student_that_is_killed_ends_with_the_same_bytes(taught, tmp_path):
    text = yaml.safe_dump(taught.spec.to_dict())
    command = [sys.executable, "-c", KILLED, text, str(taught.place), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment)
    checkpoint = tmp_path / "members" / "0000" / "checkpoint.pt"
    try:
        until = time.monotonic() + 120
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert checkpoint.exists(), "it was killed before its first epoch, or after its last"
    prepared = taught.prepared("sallm")
    assert train_member(prepared.members[0], prepared.data, Store(str(tmp_path))).reason is None
    name = "members/0000/weights.safetensors"
    assert (tmp_path / name).read_bytes() == (taught.place / "sallm" / name).read_bytes()
