"""The main job on a run directory in an object store, behind the S3 protocol: byte for byte what a folder holds."""

import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from pyarrow import fs

import salcore
from jobs.report import report
from jobs.status import status
from salcore.storage import Store

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str) -> Iterator[str]:
    """A bucket on a server of its own, gone with the test."""
    place = urlsplit(s3_endpoint)
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", str(place.hostname), "-p", str(place.port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        over = time.monotonic() + 60
        while not _answers(s3_endpoint):
            assert server.poll() is None
            assert time.monotonic() < over, "the S3 server did not start"
            time.sleep(0.2)
        maker, _ = fs.FileSystem.from_uri("s3://bucket?allow_bucket_creation=true")
        maker.create_dir("bucket")
        yield "s3://bucket"
    finally:
        server.terminate()
        server.wait()


def _answers(endpoint: str) -> bool:
    try:
        with urlopen(endpoint, timeout=5):
            return True
    except URLError:
        return False


@pytest.fixture(scope="module")
def run(bucket, ensemble):
    finished = ensemble("small.yaml", run_dir=f"{bucket}/runs/small")
    assert finished.status == 0, finished.err
    return Store(f"{bucket}/runs/small")


def results(store: Store) -> dict[str, bytes]:
    """Weights, maps and statistics."""
    ends = ("weights.safetensors", ".arrow", "summary.parquet")
    return {name: store.read(name) for name in store.files() if name.endswith(ends) and not name.startswith(".")}


def test_it_holds_what_a_folder_holds(run, whole):
    local = Store(whole[0])
    expected, found = results(local), results(run)
    assert list(found) == list(expected)
    assert [name for name, content in found.items() if content != expected[name]] == []
    assert {*local.files()} - {*run.files()} == {"logs/driver.log"}, "which only this machine's Ray writes"
    assert {*run.files()} <= {*local.files()}, "nothing of Ray's own is left"


def test_it_is_read_as_a_folder_is(run, whole, job):
    there, here = salcore.open(run.uri), salcore.open(whole[0])
    for method in here.methods:
        np.testing.assert_array_equal(there.mean(method), here.mean(method))
        np.testing.assert_array_equal(there.snr(method), here.snr(method))
    told = job(status, run.uri)
    assert told.status == 0
    assert "train    3/3 members trained" in told.out
    assert f"report   {run.uri}/report/index.html" in told.out
    before = run.read("report/index.html")
    again = job(report, run.uri)
    assert again.status == 0, again.err
    assert len(run.read("report/index.html")) == pytest.approx(len(before), rel=0.01)


def test_what_is_missing_or_damaged_there_is_made_again(run, ensemble):
    before = results(run)
    finished = ensemble("small.yaml", run_dir=run.uri)
    assert finished.status == 0, finished.err
    assert "nothing to do" in finished.out
    shard, statistics = "maps/gradient/member=0001/part-00001.arrow", "stats/gradient/part-00002.arrow"
    for name in ("members/0002/member.json", "members/0002/weights.safetensors", statistics):
        run.delete(name)
    run.write(shard, before[shard][:-7])
    mended = ensemble("small.yaml", run_dir=run.uri)
    assert mended.status == 0, mended.err
    assert results(run) == before


def test_two_drivers_on_one_object_store(run, ensemble):
    run.write_json("run.lock", {"host": "elsewhere", "pid": 7, "started": "today", "process_started": 0.0})
    refused = ensemble("small.yaml", "ensemble.members=4", run_dir=run.uri)
    assert refused.status == 2
    assert "process 7 on elsewhere has had s3://bucket/runs/small since today" in refused.err
    run.delete("run.lock")


def test_a_bucket_that_is_not_there_is_named(bucket, ensemble):
    refused = ensemble("small.yaml", run_dir="s3://nobody-s-bucket/run")
    assert refused.status in (1, 2)
    assert "Traceback" not in refused.err
    assert "nobody-s-bucket" in refused.err
