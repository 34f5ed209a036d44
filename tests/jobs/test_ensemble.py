"""The main job on a real cluster: what it leaves, and that its numbers are right."""

import hashlib
import json
import re

import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pyarrow import ipc
from safetensors.torch import load_file

from jobs.reduce import reduce as reduce_command
from jobs.tracking import client
from salcore.data import load
from salcore.layout import LOGITS_INDEX, maps_index
from salcore.models import build
from salcore.spec import parse
from tests.run_files import METHODS, files, maps, parts, statistics, table, tensors, weights

# What a run leaves


def test_leaves_the_files_of_the_contract(whole):
    run, _ = whole
    expected = {"spec.yaml", "mlflow.json", "stats/summary.parquet", "report/index.html", LOGITS_INDEX}
    for member in range(3):
        folder = f"members/{member:04d}"
        expected |= {f"{folder}/{name}" for name in ("member.json", "weights.safetensors", "history.parquet")}
    for method, cut in {"gradient": 3, "integrated_gradients": 3, "gradcam": 2}.items():
        shards = [f"part-{part:05d}.arrow" for part in range(cut)]
        expected |= {f"stats/{method}/{shard}" for shard in shards}
        for member in range(3):
            folder = f"maps/{method}/member={member:04d}"
            expected |= {f"{folder}/manifest.json"} | {f"{folder}/{shard}" for shard in shards}
        expected.add(maps_index(method))
    found = set(files(run))
    assert expected <= found
    others = {name.split("/")[0] if "/logits/" not in name else "logits" for name in found - expected}
    assert others <= {"logits", "logs", "report"}


def test_spec_is_resolved_and_fingerprinted(whole):
    values = yaml.safe_load((whole[0] / "spec.yaml").read_text())
    assert values["training"]["optimizer"] == "adam"
    assert values["ensemble"]["vary"] == ["init", "order", "augment", "model", "masking"]
    assert len(set(values["fingerprints"].values())) == 4


def test_member_record_and_history(whole):
    seeds = set()
    for member in range(3):
        folder = whole[0] / "members" / f"{member:04d}"
        record = json.loads((folder / "member.json").read_text())
        assert record["weights_sha256"] == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
        assert record["index"] == member
        seeds.add(record["seeds"]["init"])
        history = pq.read_table(folder / "history.parquet")
        assert history["epoch"].to_pylist() == [1, 2]
        assert {"train_loss", "eval_loss", "eval_accuracy", "learning_rate", "seconds"} <= set(history.column_names)
        assert record["metrics"]["eval_accuracy"] == history["eval_accuracy"].to_pylist()[-1]
    assert len(seeds) == 3


def test_manifests_name_their_shards(whole):
    for manifest in whole[0].glob("maps/*/*/manifest.json"):
        entries = json.loads(manifest.read_text())["shards"]
        assert [entry["path"] for entry in entries] == [part.name for part in parts(manifest.parent)]
        for entry in entries:
            content = (manifest.parent / entry["path"]).read_bytes()
            assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
            assert entry["rows"] == len(ipc.open_file(content).read_all())


@pytest.mark.parametrize(("method", "extra"), [("gradient", {}), ("integrated_gradients", {"residual": pa.float32()})])
def test_schema_of_map_shards(whole, method, extra):
    schema = ipc.open_file(whole[0] / "maps" / method / "member=0001" / "part-00000.arrow").schema
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "sample": pa.int64(),
        "label": pa.int32(),
        "target": pa.int32(),
        "prediction": pa.int32(),
        "exponent": pa.int16(),
        "map": pa.fixed_shape_tensor(pa.float32(), (1, 8, 8)),
        **extra,
    }
    metadata = json.loads(schema.metadata[b"salcore"])
    assert {"member", "seeds", "method", "settings", "fingerprint", "member_fingerprint", "code_version"} <= set(
        metadata
    )
    assert (metadata["member"], metadata["method"]) == (1, method)


def test_schema_of_statistics(whole):
    schema = ipc.open_file(whole[0] / "stats" / "gradient" / "part-00000.arrow").schema
    tensor = pa.fixed_shape_tensor(pa.float32(), (1, 8, 8))
    expected = [("sample", pa.int64()), ("label", pa.int32()), ("target", pa.int32()), ("count", pa.int32())]
    expected += [("mean", tensor), ("variance", tensor)]
    expected += [(name, pa.float64()) for name in ("snr", "signal2", "noise2", "ssim_to_mean")]
    found = dict(zip(schema.names, schema.types, strict=True))
    assert {name: found[name] for name, _ in expected} == dict(expected)
    assert b"salcore" in schema.metadata


def test_shards_open_in_pandas_and_polars(whole):
    shard = whole[0] / "maps" / "gradient" / "member=0002" / "part-00002.arrow"
    expected = tensors(shard.parent, "map")[80:]
    frame = pandas.read_feather(shard)
    assert len(frame) == 21
    np.testing.assert_array_equal(np.stack(frame["map"]).reshape(expected.shape), expected)
    frame = polars.read_ipc(shard)
    np.testing.assert_array_equal(frame["map"].to_numpy().reshape(expected.shape), expected)


def test_prints_plan_table_and_places(whole):
    run, finished = whole
    lines = finished.out.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("method "))
    assert re.search(r"accuracy +SNR +95 % interval +debiased SNR", lines[head])
    rows = [line.split() for line in lines[head + 1 : head + 4]]
    assert [row[0] for row in rows] == list(METHODS)
    summary = {row["method"]: row for row in pq.read_table(run / "stats" / "summary.parquet").to_pylist()}
    for row in rows:
        low, high = summary[row[0]]["snr_low"], summary[row[0]]["snr_high"]
        assert row[2:6] == [f"{summary[row[0]]['snr']:.3f}", f"{low:.3f}", "to", f"{high:.3f}"]
    assert f"report   {run}/report/index.html" in lines
    assert any(line.startswith("MLflow ") for line in lines)
    assert "train    3/3 members" in finished.err
    assert "explain  24/24 shards" in finished.err


def test_report_loads_nothing(whole):
    page = (whole[0] / "report" / "index.html").read_text()
    assert "gradcam" in page
    loads = re.findall(r"""(?:src|srcset|data|poster|xlink:href)\s*=\s*["']?([^"'\s>]+)""", page)
    assert not [load for load in loads if re.match(r"(?:https?:)?//", load)]
    assert not re.search(r"<link\b[^>]*href=(?![\"']?data:)|@import|url\(\s*['\"]?(?:https?:)?//", page)


# That its numbers are right


def assert_statistics_are_those_of_the_shards(run, members):
    """Woerl et al. Eq. 3 to 5 with ddof = 1, in float64, from the files alone."""
    for method in METHODS:
        stack = np.stack([maps(run, method, member) for member in members])
        got = statistics(run, method)
        mean, variance = stack.mean(0), stack.var(0, ddof=1)
        assert np.abs(got["mean"] - mean).max() <= 1e-6 * np.abs(mean).max()
        assert np.abs(got["variance"] - variance).max() <= 1e-5 * variance.max()
        signal2, noise2 = (mean**2).sum((1, 2, 3)), variance.sum((1, 2, 3))
        snr = np.sqrt(signal2 / noise2)
        assert np.abs(got["snr"] - snr).max() <= 1e-6 * snr.max()
        np.testing.assert_allclose(got["noise2"], noise2, rtol=1e-5)
        np.testing.assert_allclose(got["signal2"], signal2 - noise2 / len(members), atol=1e-5 * signal2.max())
        assert (got["count"] == len(members)).all()
        row = next(r for r in pq.read_table(run / "stats/summary.parquet").to_pylist() if r["method"] == method)
        assert row["snr"] == pytest.approx(snr.mean(), rel=1e-6)
        debiased2 = (signal2 - noise2 / len(members)).mean() / noise2.mean()
        if debiased2 > 0:
            assert row["snr_debiased"] == pytest.approx(np.sqrt(debiased2), rel=1e-5)


def test_statistics_of_float32_shards(whole):
    assert_statistics_are_those_of_the_shards(whole[0], range(3))


def test_float16_is_remade_from_the_same_members(whole, copy, ray_cluster, job):
    before = weights(copy)
    assert job(reduce_command, copy, "attribution.dtype=float16").status == 0
    assert_statistics_are_those_of_the_shards(copy, range(3))
    shard = table(copy / "maps" / "gradient" / "member=0000")
    assert shard.schema.field("map").type == pa.fixed_shape_tensor(pa.float16(), (1, 8, 8))
    assert any(exponent != 0 for exponent in shard["exponent"].to_pylist())
    for member in range(3):
        for method in METHODS:
            one, other = maps(whole[0], method, member), maps(copy, method, member)
            largest = np.abs(one).max((1, 2, 3), keepdims=True)
            assert (np.abs(one - other) <= 2.0**-11 * largest).all()
    assert weights(copy) == before


def test_every_map_is_that_of_its_member_alone(whole):
    """The gradient of the label's logit, from the weights file and plain torch, one image at a time."""
    run = whole[0]
    spec = parse((run / "spec.yaml").read_text())
    data = load(spec.data)
    for member in range(3):
        network = build(spec.model, input_shape=data.shape, classes=10).eval()
        network.load_state_dict(load_file(run / "members" / f"{member:04d}" / "weights.safetensors"))
        folder = run / "maps" / "gradient" / f"member={member:04d}"
        shard, stored = table(folder), maps(run, "gradient", member)
        for row in (0, 39, 40, 100):
            sample = shard["sample"][row].as_py()
            assert shard["label"][row].as_py() == data.evaluation.labels[sample]
            pixels = torch.from_numpy(data.evaluation.values[sample] / 255.0).float()
            centred = (pixels - torch.from_numpy(data.mean)[:, None, None]) / torch.from_numpy(data.std)[:, None, None]
            inputs = centred[None].requires_grad_()
            logits = network(inputs)[0]
            assert logits.argmax() == shard["prediction"][row].as_py()
            (gradient,) = torch.autograd.grad(logits[int(data.evaluation.labels[sample])], inputs)
            np.testing.assert_allclose(stored[row], gradient[0].numpy(), rtol=1e-4, atol=1e-6)


# MLflow


def test_mlflow_has_everything_once(whole, place):
    run = whole[0]
    ids = json.loads((run / "mlflow.json").read_text())
    mlflow = client(f"sqlite:///{place / 'runs' / 'mlflow.db'}")
    parent = mlflow.get_run(ids["parent_run_id"])
    mark = yaml.safe_load((run / "spec.yaml").read_text())["fingerprints"]["member"]
    assert mlflow.get_experiment(parent.info.experiment_id).name == "small"
    assert parent.info.run_name == f"small-{mark[:8]}"
    assert parent.info.status == "FINISHED"
    assert {f"{kind}/{method}" for kind in ("snr", "snr_debiased") for method in METHODS} >= set(
        parent.data.metrics
    ) - {"ensemble/accuracy"}
    assert {"ensemble/accuracy", *(f"snr/{method}" for method in METHODS)} <= set(parent.data.metrics)
    assert parent.data.params["model.width"] == "4"
    assert parent.data.params["training.augment.crop"] == "1"
    artifacts = {item.path for item in mlflow.list_artifacts(parent.info.run_id)}
    assert {"spec.yaml", "stats", "report"} <= artifacts
    assert "report/index.html" in {item.path for item in mlflow.list_artifacts(parent.info.run_id, "report")}
    of_parent = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = mlflow.search_runs([parent.info.experiment_id], of_parent)
    assert sorted(child.info.run_name for child in children) == ["member-0000", "member-0001", "member-0002"]
    for child in children:
        folder = run / "members" / child.info.run_name.removeprefix("member-")
        assert child.info.status == "FINISHED"
        assert child.data.tags["salcore.fingerprint"] == json.loads((folder / "member.json").read_text())["fingerprint"]
        history = pq.read_table(folder / "history.parquet").to_pylist()
        columns = {"train/loss": "train_loss", "eval/loss": "eval_loss", "eval/accuracy": "eval_accuracy"}
        for metric, column in columns.items():
            points = mlflow.get_metric_history(child.info.run_id, metric)
            assert [(p.step, p.value) for p in points] == [(row["epoch"], row[column]) for row in history]
