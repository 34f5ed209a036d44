"""What all tests share: where the real data lies, and one Ray cluster for the tests that need one."""

import contextlib
import io
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("salcore", deadline=None)  # a case is slow where the machine is busy
hypothesis.settings.load_profile("salcore")

ROOT = Path(__file__).resolve().parent.parent

SMALL = """
name: small
data: {name: digits, train_samples: 200, eval_samples: 101}
model: {name: small_cnn, width: 4, norm: batch, dropout: 0.3}
ensemble: {members: 3}
training: {epochs: 2, batch_size: 32, augment: {crop: 1}}
cluster: {slots: 2}
attribution:
  batch_size: 32
  shard_samples: 40
  methods:
    - gradient
    - {name: integrated_gradients, num_steps: 4}
    - {name: gradcam, samples: 50}
"""
"""A network with batch-norm and dropout, ranges of 40, 40 and 21 samples, and a method that explains fewer of them."""

RAY_WARNINGS = {
    "ignore:The ``noload`` loader strategy is deprecated": "MLflow's own use of SQLAlchemy",
    "ignore::DeprecationWarning:ray.data.context": "Ray Data warns of the defaults that it sets itself",
    "ignore:Tip. In future versions of Ray, Ray will no longer override accelerator": "advice at every ray.init",
}
"""Warnings of other people's code in the driver, each with its reason."""


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data: `SALCORE_TEST_DATA`, or `../shared/data` beside the repository."""
    folder = Path(os.environ.get("SALCORE_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not folder.is_dir():
        message = f"no test data at {folder}: set SALCORE_TEST_DATA to the folder that holds fashion_mnist, mnist, ..."
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the user stands: commands of these tests run in it, and its `runs/mlflow.db` is theirs."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "small.yaml").write_text(SMALL)
    return folder


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Where a test may start an S3 server: the place and its keys are in the environment, for workers too."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    known = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in known.items():
            patch.setenv(name, value)
        yield endpoint


@pytest.fixture(scope="session")
def ray_cluster(place: Path, s3_endpoint: str) -> Iterator[None]:
    """One cluster for the whole session; its workers stand in `place`, as they would had the user started it."""
    from cluster import start

    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)  # workers import the rooms, installed or not
        start.start()
    yield
    start.stop()


@pytest.fixture(scope="session")
def job(place: Path) -> Callable[..., Finished]:
    """A function that runs a command of `jobs` in this process, standing in `place`."""

    def run(command: Callable[[list[str]], int], *arguments: str | Path) -> Finished:
        handler, out = signal.getsignal(signal.SIGTERM), io.StringIO()
        with tempfile.TemporaryFile("w+") as err, contextlib.chdir(place), contextlib.redirect_stdout(out):
            try:
                with _descriptor(2, err.fileno()), contextlib.redirect_stderr(err):
                    status = command([str(argument) for argument in arguments])
            finally:
                signal.signal(signal.SIGTERM, handler)
            err.seek(0)
            return Finished(status=status, out=out.getvalue(), err=err.read())

    return run


@pytest.fixture(scope="session")
def ensemble(ray_cluster: None, job: Callable[..., Finished]) -> Callable[..., Finished]:
    """`jobs.ensemble` on the shared cluster: `ensemble(SPEC, overrides..., run_dir=DIR)`."""
    from jobs.ensemble import ensemble as command

    def run(*arguments: str | Path, run_dir: Path) -> Finished:
        return job(command, *arguments, "--run-dir", run_dir)

    return run


@pytest.fixture(scope="session")
def whole(ensemble: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """A finished run of `small.yaml` in two slots, and what it printed. Tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finished = ensemble("small.yaml", run_dir=folder)
    assert finished.status == 0, finished.err
    return folder, finished


@pytest.fixture
def copy(whole: tuple[Path, Finished], tmp_path: Path) -> Path:
    """The finished run in another folder, with the times of its files."""
    return Path(shutil.copytree(whole[0], tmp_path / "copy"))


@contextlib.contextmanager
def _descriptor(number: int, target: int) -> Iterator[None]:
    """Send a file descriptor elsewhere: libraries, and the console that is kept from them, write to it directly."""
    sys.stderr.flush()
    kept = os.dup(number)
    os.dup2(target, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings that Ray and MLflow raise in this process are no errors in the tests that use them."""
    for item in items:
        if {"job", "ray_cluster"} & set(getattr(item, "fixturenames", ())):
            for warning in RAY_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))
