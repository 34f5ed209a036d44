"""The one forwarder of records to MLflow, and the only importer of mlflow.

Workers append to the run directory; a thread of the driver looks there and sends what MLflow lacks (`jobs.forwarding`).
A server that is down holds up nothing and loses nothing. MLflow's fluent interface is global to the process and local
to threads: only the client with explicit run ids is used, and only by that thread.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self

from jobs.forwarding import Ending, Forwarder, Metric, Run, Tracked
from jobs.records import redacted
from jobs.table_forwarding import TableForwarder
from salcore.errors import UserError
from salcore.members import Member
from salcore.spec import Spec
from salcore.storage import Store

SERVERS = ("http://", "https://", "sqlite:", "postgresql", "mysql", "mssql", "databricks")
POLL_S = 2.0
LONGEST_PAUSE_S = 60.0

_log = logging.getLogger(__name__)


def tracking_uri(spec: Spec, store: Store) -> str:
    """Where records of a run go: `tracking.uri`, or the SQLite file `runs/mlflow.db` of the current folder.

    Inside a Ray job, whose current folder is a temporary copy, the file lies beside the run directory. Raises UserError
    for a URI that names no tracking server or database, and inside a Ray job for a run directory on an object store.
    """
    if spec.tracking.uri:
        if not spec.tracking.uri.startswith(SERVERS):
            raise UserError("tracking.uri", "http(s)://HOST:PORT or sqlite:///FILE", redacted(spec.tracking.uri))
        return spec.tracking.uri
    if not os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return f"sqlite:///{Path('runs', 'mlflow.db').absolute()}"
    if store.local is None:
        raise UserError("tracking.uri", "an MLflow server: inside a Ray job no file beside an object store can be kept")
    return f"sqlite:///{store.local.parent / 'mlflow.db'}"


def client(uri: str) -> Any:
    """An MLflow client, quiet, and with such patience that an outage is noticed in seconds."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient  # takes seconds: the run starts meanwhile

    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if (database := _sqlite_file(uri)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri)


def forwarder_of(server: "Server", tracked: Tracked) -> Forwarder:
    """The forwarder of an ensemble: with a run for each member, or a table where they are too many for that."""
    many = tracked.spec.ensemble.members > tracked.spec.tracking.member_runs
    return (TableForwarder if many else Forwarder)(server, tracked)


class Tracker:
    """Forwards a run to MLflow in the background.

    As a context it starts with the block, and ends with it if `finish` was not called: KILLED for Ctrl-C, FAILED for
    another error. `tell` hears, once per outage, that the server is away, and that it is back. `forwarder` knows what
    the runs below the parent are. `connect` makes the client: tests put one there that fails.
    """

    def __init__(
        self,
        store: Store,
        spec: Spec,
        members: Sequence[Member],
        *,
        fingerprint: str,
        uri: str,
        tell: Callable[[str], None] = _log.warning,
        poll_s: float = POLL_S,
        forwarder: Callable[["Server", Tracked], Forwarder] = forwarder_of,
        connect: Callable[[str], Any] = client,
    ) -> None:
        self._tracked = Tracked(store=store, spec=spec, members=members, fingerprint=fingerprint, uri=uri)
        self._tell, self._poll_s, self._connect, self._forwarder = tell, poll_s, connect, forwarder
        self._ending: Ending | None = None
        self._wake, self._tried, self._over = threading.Event(), threading.Event(), threading.Event()
        self._open = self._away = self._all_sent = False
        self._thread = threading.Thread(target=self._forward_until_over, daemon=True, name="mlflow-forwarder")

    def start(self) -> None:
        """Begin to forward; returns at once, whatever the server does."""
        self._thread.start()

    def ready(self, wait_s: float = 10.0) -> bool:
        """Whether the runs stand and mlflow.json names them; waits for the first attempt, not for an outage to end."""
        self._tried.wait(wait_s)
        return self._open

    def finish(
        self,
        status: Literal["FINISHED", "FAILED", "KILLED"],
        *,
        metrics: Mapping[str, float] | None = None,
        artifacts: Sequence[str] = (),
        wait_s: float = 15.0,
    ) -> bool:
        """Send the rest and put statuses right; whether everything was sent within `wait_s`.

        Without `start` it does the whole work: so is sent later what could not be sent while the run went on. `metrics`
        are the run's own; `artifacts` are files of the run directory, and those that do not exist are left out.
        """
        self._ending = Ending(status=status, metrics=dict(metrics or {}), artifacts=tuple(artifacts))
        if self._thread.ident is None:
            self.start()
        self._wake.set()
        self._thread.join(wait_s)
        self._over.set()
        self._wake.set()
        return self._all_sent

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ending is None:
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            self.finish("KILLED" if interrupted else "FAILED" if kind else "FINISHED")

    def _forward_until_over(self) -> None:
        forwarder, pause = None, self._poll_s
        while not self._over.is_set():
            ending = self._ending  # read before the files, so that the last of them are seen
            try:
                forwarder = forwarder or self._forwarder(
                    Server(self._connect(self._tracked.uri), self._tracked.uri), self._tracked
                )
                self._open = True
                self._tried.set()
                forwarder.forward(ending)
                self._heard()
                pause = self._poll_s
                if ending is not None:
                    self._all_sent = True
                    return
            except Exception as error:  # whatever it is, the run must go on, and the user hears of it
                forwarder, pause = None, min(2 * pause, LONGEST_PAUSE_S)
                self._missed(error)
                self._tried.set()
            self._wake.wait(pause if self._ending is None else min(pause, 1.0))
            self._wake.clear()

    def _missed(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            reason = redacted(" ".join(str(error).split()))[:160] or type(error).__name__
            where = redacted(self._tracked.uri)
            self._tell(f"MLflow at {where} takes nothing now ({reason} ...): the run goes on, the rest is sent later")

    def _heard(self) -> None:
        if self._away:
            self._away = False
            self._tell(f"MLflow at {redacted(self._tracked.uri)} is back")


class Server:
    """The few things that are asked of MLflow, in our words. Whatever goes wrong is raised."""

    def __init__(self, client: Any, uri: str) -> None:
        self._client, self._uri = client, uri

    def experiment(self, name: str) -> str:
        """Id of the experiment, made if there is none; beside an SQLite file lie the artifacts, in `mlartifacts`."""
        standing = self._client.get_experiment_by_name(name)
        if standing is not None:
            return standing.experiment_id
        database = _sqlite_file(self._uri)
        location = (database.parent / "mlartifacts" / name).as_uri() if database is not None else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # its page opens on runs, not on language models
        return self._client.create_experiment(name, artifact_location=location, tags=kind)

    def runs(self, experiment: str, tags: Mapping[str, str]) -> list[Run]:
        """All runs of an experiment that have these tags and are not deleted."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs, token = [], None
        while True:
            page = self._client.search_runs([experiment], wanted, page_token=token)
            runs += [_standing(run) for run in page]
            token = page.token
            if not token:
                return runs

    def create(self, experiment: str, name: str, began_ms: int, tags: Mapping[str, str]) -> Run:
        """A new run."""
        return _standing(self._client.create_run(experiment, start_time=began_ms, tags=dict(tags), run_name=name))

    def values(self, run: str, key: str) -> set[tuple[int, float]]:
        """The (step, value) pairs that stand of a metric."""
        return {(point.step, point.value) for point in self._client.get_metric_history(run, key)}

    def log(
        self,
        run: str,
        *,
        metrics: Sequence[Metric] = (),
        parameters: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Record these, in batches of what MLflow takes: 1,000 metrics, 100 parameters or 100 tags."""
        from mlflow.entities import Metric as Value
        from mlflow.entities import Param, RunTag

        entries: list[tuple[str, int, list[Any]]] = [
            ("params", 100, [Param(key, value) for key, value in (parameters or {}).items()]),
            ("tags", 100, [RunTag(key, value) for key, value in (tags or {}).items()]),
            ("metrics", 1000, [Value(each.key, each.value, each.at_ms, each.step) for each in metrics]),
        ]
        for kind, most, values in entries:
            for first in range(0, len(values), most):
                self._client.log_batch(run, **{kind: values[first : first + most]}, synchronous=True)

    def tag(self, run: str, key: str, value: str) -> None:
        """Set a tag."""
        self._client.set_tag(run, key, value)

    def untag(self, run: str, key: str) -> None:
        """Remove a tag."""
        self._client.delete_tag(run, key)

    def set_status(self, run: str, status: str, ended_ms: int) -> None:
        """Set a run's status, and its end unless it is RUNNING."""
        if status == "RUNNING":
            self._client.update_run(run, status=status)
        else:
            self._client.set_terminated(run, status, end_time=ended_ms)

    def delete(self, run: str) -> None:
        """Delete a run."""
        self._client.delete_run(run)

    def upload(self, run: str, name: str, content: bytes) -> None:
        """Record a file as an artifact of the same name."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, PurePosixPath(name).name)
            file.write_bytes(content)
            inside = str(PurePosixPath(name).parent)
            self._client.log_artifact(run, str(file), artifact_path=None if inside == "." else inside)


def _standing(run: Any) -> Run:
    info, data = run.info, run.data
    return Run(
        id=info.run_id, status=info.status, began_ms=info.start_time, parameters=dict(data.params), tags=dict(data.tags)
    )


def _sqlite_file(uri: str) -> Path | None:
    scheme, separator, path = uri.partition(":///")
    return Path(path.partition("?")[0]).absolute() if separator and scheme.startswith("sqlite") else None
