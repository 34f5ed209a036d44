"""`jobs.study`: the papers' experiments on digits, from the command to the table and the page."""

import json
from types import SimpleNamespace

import pytest
from pyarrow import parquet

import salcore
from jobs import ensembles
from jobs.command import find_spec
from jobs.ensembles import grown, place_of
from jobs.study import study
from salcore.complete import complete
from salcore.spec import parse

TABLE = (
    "study.data={digits: {name: digits, train_samples: 200}}",
    "study.networks=[{name: small_cnn, width: 4}]",
    "study.members=3",
    "study.epochs=2",
    "study.eval_samples=40",
    "study.few=6",
    "study.precision=float32",
    "study.perturbations=150",
)


@pytest.fixture(scope="module")
def run(job, ray_cluster, tmp_path_factory):
    """A function that does a study in a folder of this module, where ensembles are shared."""
    folder = tmp_path_factory.mktemp("studies")

    def do(name, *overrides):
        finished = job(study, name, *overrides, "--run-dir", folder / name)
        return folder / name, finished

    return do


@pytest.fixture(scope="module")
def noise_table(run):
    folder, finished = run("noise_table", *TABLE)
    assert finished.status == 0, finished.err
    return folder, finished


def rows(folder):
    return {row["what"]: row for row in parquet.read_table(folder / "study.parquet").to_pylist()}


def test_every_method_stands_in_the_table(noise_table):
    folder, finished = noise_table
    found = rows(folder)
    ensemble = salcore.open(next((folder.parent / "ensembles").iterdir()))
    assert len(ensemble.methods) == 10
    for row in ensemble.summary.to_pylist():
        ours = found[f"digits-small_cnn: {row['method']}"]
        assert (ours["ours"], ours["low"]) == (row["snr_at_30"], row["snr_at_30_low"])
    assert "digits-small_cnn: gradient" in finished.out
    page = (folder / "report" / "index.html").read_text()
    assert page.count("<svg") == 1
    assert "Table 1" in page


@pytest.mark.parametrize("name", ["noise_convergence", "noise_samples", "noise_similarity"])
def test_studies_that_share_an_ensemble_train_it_once(run, noise_table, name):
    before = {path: path.stat().st_mtime_ns for path in noise_table[0].parent.glob("ensembles/*/members/*/member.json")}
    folder, finished = run(name, *TABLE)
    assert finished.status == 0, finished.err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "digits-small_cnn is finished" in finished.out
    assert len(list((folder.parent / "ensembles").iterdir())) == 1
    assert rows(folder)
    assert "<svg" in (folder / "report" / "index.html").read_text()


def test_the_norm_of_the_mean_is_that_of_the_statistics(run, noise_table):
    folder, _ = run("noise_convergence", *TABLE)
    ensemble = salcore.open(next((folder.parent / "ensembles").iterdir()))
    norms = ensemble.column("gradient", "mean_norm")
    ratio = sorted(norms[:, -1] / norms[:, 0])
    ours = rows(folder)["digits-small_cnn: norm of the mean, 3 members / 1"]
    assert ours["ours"] == pytest.approx((ratio[19] + ratio[20]) / 2)
    assert ours["low"] < ours["ours"] < ours["high"]


def test_a_method_without_maps_is_left_out_and_told(run):
    """A stock ResNet18's last block is one cell at 32 pixels, and smaller still here."""
    overrides = ["study.networks=[resnet18]", "study.data={digits: {name: digits, image_size: 32, train_samples: 60}}"]
    overrides += ["attribution.methods=[gradient, {name: gradcam, as: gradcam_top}]", "study.precision=float32"]
    folder, finished = run("noise_table", *overrides, "study.epochs=0", "study.eval_samples=8", "study.members=2")
    assert finished.status == 0, finished.err
    assert "digits-resnet18: left out, " in finished.out
    assert "gradcam_top" in finished.out
    top = rows(folder)["digits-resnet18: gradcam_top"]
    assert top["ours"] != top["ours"], "NaN: there is none"
    assert "no such layer of more than one cell" in top["note"]


def test_guided_and_standard_ensembles_are_held_against_each_other(run):
    overrides = ("study.data=digits", "study.train_samples=200", "study.eval_samples=40", "study.epochs=2")
    folder, finished = run("noise_guided", *overrides, "study.members=3", "study.mask_fractions=[0.5]")
    assert finished.status == 0, finished.err
    found = rows(folder)
    gain = found["k0.5-lambda1: debiased snr, gradient, guided less standard"]["ours"]
    both = [found[f"{name}: debiased SNR"]["ours"] for name in ("standard", "k0.5-lambda1")]
    assert gain == pytest.approx(both[1] - both[0])


def test_a_plan_trains_nothing(job, tmp_path):
    finished = job(study, "noise_guided", "study.data={name: digits}", "study.train_samples=200",
                   "study.eval_samples=40", "--plan", "--run-dir", tmp_path / "plan")  # fmt: skip
    assert finished.status == 0, finished.err
    assert finished.out.count("members  6 x small_cnn") == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "other"), [("--run-dir", "--ensembles"), ("--ensembles", "--run-dir")])
def test_inside_a_ray_job_both_folders_outlast_it(job, tmp_path, monkeypatch, option, other):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    finished = job(study, "noise_guided", "study.data=digits", "--plan", option, "mine", other, tmp_path / "lasting")
    assert finished.status == 2, finished
    assert finished.err.startswith(f"error: {option}: expected an absolute path or a URI inside a Ray job")
    assert finished.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "key", "told"),
    [
        (("noise_tables",), "NAME", "noise_table"),
        (("noise_guided", "study.weight=[1]"), "study.weight", "weights"),
        (("noise_guided", "study.members=few"), "study.members", "a whole number"),
        (("noise_guided", "study.members"), "study.members", "axis=value"),
        (("noise_guided", "study.mask_fractions=[2]"), "training.guidance.mask_fraction", "1"),
        (("noise_guided", "trainig.epochs=1"), "trainig", "training"),
        (("noise_architecture", "study.data=digits"), "study.data", "widths"),
        (("noise_architecture", "study.widths=[]"), "study", "--help"),
        (("noise_guided", "study.mask_fractions=[abc]"), "study", "--help"),
        (("noise_table", "study.networks=[]"), "study", "an ensemble"),
        (("noise_table", "study.networks=[small_cnn, {name: small_cnn, width: 4}]"), "study.networks", "different"),
        (("noise_guided", "study.data=2020-13-45"), "study.data", "YAML"),
        (("noise_table", "study.networks=[2020-01-01]"), "model.name", "'2020-01-01'"),
        (("noise_table", "study.data={mine: 2020-01-01}"), "data.name", "'2020-01-01'"),
        (("noise_guided", "attribution.methods=[smoothgrad]"), "attribution.methods", "gradient"),
    ],
)
def test_mistakes_are_told_in_one_line(job, tmp_path, arguments, key, told):
    finished = job(study, *arguments, "--run-dir", tmp_path / "study")
    assert finished.status == 2, finished
    assert finished.err.startswith(f"error: {key}: expected ")
    assert finished.err.count("\n") == 1
    assert told in finished.err


def spec(**changes):
    values = {"data": {"name": "digits", "eval_samples": 20}, "ensemble": {"members": 4}, **changes}
    return parse(json.dumps(values))


def test_an_ensemble_s_place_is_what_its_members_are():
    place = place_of(spec(), "runs")
    assert place == place_of(spec(attribution={"methods": ["deeplift"]}), "runs")
    assert place == place_of(spec(ensemble={"members": 9}), "runs")
    assert place == place_of(spec(data={"name": "digits", "eval_samples": 90, "mirror": "elsewhere"}), "runs")
    assert place == place_of(spec(model={"name": "small_cnn", "width": 16}), "runs"), "16 is the default"
    others = (
        spec(training={"epochs": 4}),
        spec(model={"name": "small_cnn", "width": 8}),
        spec(ensemble={"members": 4, "vary": ["init"]}),
        spec(ensemble={"members": 4, "root_seed": 1}),
        spec(data={"name": "digits", "train_samples": 100}),
    )
    assert len({place, *(place_of(each, "runs") for each in others)}) == 6


def test_a_shared_ensemble_only_grows():
    before = spec(ensemble={"members": 6}, attribution={"methods": ["gradient", {"name": "gradcam", "as": "top"}]})
    found = grown(spec(attribution={"methods": ["deeplift", "gradient"]}), before, planned=6)
    assert [method.folder for method in found.attribution.methods] == ["gradient", "top", "deeplift"]
    assert (found.ensemble.members, found.data.eval_samples) == (6, 20)
    stopped = spec(ensemble={"members": 30, "until": 0.1})
    assert grown(spec(), stopped, planned=7).ensemble.members == 7, "where it was stopped"


@pytest.mark.parametrize(("before", "asked", "samples"), [(10, 5, 10), (5, 10, 10), (None, 5, None), (5, None, None)])
def test_samples_that_a_method_explains_are_kept(before, asked, samples):
    first, second = (
        spec(attribution={"methods": [{"name": "gradient", "samples": count}]}) for count in (before, asked)
    )
    assert grown(second, first, planned=4).attribution.methods[0].samples == samples


def test_a_method_of_other_settings_is_as_it_is_asked_for():
    first, second = (
        spec(attribution={"methods": [{"name": "smoothgrad", "num_samples": count, "samples": samples}]})
        for count, samples in ((8, 20), (4, 10))
    )
    found = grown(second, complete(first), planned=4).attribution.methods[0]
    assert (found.settings["num_samples"], found.samples) == (4, 10)


def test_directories_of_earlier_versions_keep_their_names():
    """A fixed name: keys that came later leave it as it is at their defaults."""
    spec, _ = find_spec("fashion_small_cnn")
    assert place_of(spec, "runs").endswith("-4064e61c")
    other = parse("", ["data=fashion_mnist", "data.labelled=0.5"])
    assert place_of(other, "runs") != place_of(parse("", ["data=fashion_mnist"]), "runs")


def test_only_ensembles_of_the_same_slots_are_trained_together(monkeypatch, tmp_path):
    together = []
    small = ("data.train_samples=100", "model.name=small_cnn", "attribution.methods=[gradient]", "ensemble.members=2")
    specs = {
        name: parse(
            "name: one\ndata: {name: digits}",
            [*small, f"training.threads={threads}", f"training.epochs={epochs}", f"cluster.attempts={attempts}"],
        )
        for name, threads, epochs, attempts in (("a", 1, 1, 3), ("b", 2, 1, 3), ("c", 1, 2, 3), ("d", 1, 3, 9))
    }
    monkeypatch.setattr(ensembles.start, "nodes", list)
    monkeypatch.setattr(ensembles.start, "room", lambda *given, **grows: SimpleNamespace(slots=1))
    monkeypatch.setattr(ensembles.Source, "of", lambda data, spec: None)
    monkeypatch.setattr(ensembles.train, "train", lambda runs, room, **settings: together.extend(runs))
    monkeypatch.setattr(ensembles.stages, "follow", lambda *given, **settings: None)
    ensembles._train_together(ensembles.plan(specs, str(tmp_path)))
    epochs = [[(member.training.pinned, member.training.epochs) for member in run.members] for run in together]
    assert epochs == [[(1, 1)] * 2, [(1, 2)] * 2]
