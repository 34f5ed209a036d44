"""What all commands share: arguments, exit statuses and interruption.

Exit status 0: done; 1: something failed; 2: the user's mistake, told in one line; 130: interrupted, with one line on
how to go on.
"""

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from salcore import layout
from salcore.data.root import data_root
from salcore.errors import Damaged, UserError
from salcore.paths import expanded
from salcore.settings import settings_of, taken
from salcore.spec import Spec, describe, from_dict, parse
from salcore.storage import Store, is_remote

SPECS = Path(__file__).parent / "specs"
WITH_PATHS = {"folder", "npz", "parquet", "eraser", "sst", "uea"}
"""Names of data sets that go on with a path (`salcore.data.ARGUMENTS`, whose import would take seconds)."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What was asked for on the command line: the spec, where the run goes, and switches."""

    spec: Spec
    store: Store
    plan: bool
    retry_failed: bool
    ensemble_of: Store | None = None
    """The finished run whose ensemble explains the spec's data, where SPEC is a run and the data is another."""


def run(program: str, description: str, action: Callable[[Command], int], argv: Sequence[str] | None = None) -> int:
    """Read a command that takes SPEC or RUN, do `action`, and give the exit status."""
    return guarded(program, lambda arguments: action(read(program, description, arguments)), argv)


def guarded(program: str, action: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Do `action` on the arguments; returns the exit status.

    A UserError becomes one line and status 2, a damaged file, a storage that fails and too little memory one line and
    status 1, and an interruption one line and status 130.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    again = shlex.join(["python", "-m", f"jobs.{program}", *arguments])
    on_termination()
    try:
        return action(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Damaged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a store that is read-only or gone
        told = " ".join(str(error).split())
        print(f"stopped: {told}; what is finished is kept. Make room or mend it, then go on with: {again}",
              file=sys.stderr)  # fmt: skip
        return 1
    except MemoryError as error:
        print(f"error: not enough memory ({error}): ask for fewer or smaller samples", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; what is finished is kept. Go on with: {again}", file=sys.stderr, flush=True)
        return 130


def on_termination() -> None:
    """Treat SIGTERM as Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def read(program: str, description: str, arguments: Sequence[str]) -> Command:
    """The command of `arguments`. Raises UserError."""
    parser = Parser(
        prog=f"python -m jobs.{program}",
        description=description,
        epilog=_keys(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("spec", metavar="SPEC", help="a YAML file, the name of one in jobs/specs, or a run directory")
    parser.add_argument("overrides", metavar="key.sub=value", nargs="*", help="changes of the spec; values are YAML")
    directory = "where everything goes: a folder or s3://bucket/run (default: runs/NAME)"
    parser.add_argument("--run-dir", metavar="DIR", help=directory)
    parser.add_argument("--plan", action="store_true", help="print what would be done and how long it takes, then stop")
    parser.add_argument("--retry-failed", action="store_true", help="try failed members again")
    given = parser.parse_intermixed_args(arguments)
    spec, home = find_spec(given.spec, given.overrides)
    directory = given.run_dir or home or f"runs/{spec.name}"
    check_lasting(directory)
    borrows = home is not None and any(override.startswith(("data=", "data.name=")) for override in given.overrides)
    return Command(
        spec=spec,
        store=Store(directory),
        plan=given.plan,
        retry_failed=given.retry_failed,
        ensemble_of=Store(home) if home is not None and borrows else None,
    )


def check_lasting(place: str, option: str = "--run-dir") -> None:
    """Refuse a place for results that would vanish with the job that writes them. Raises UserError."""
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") and not (is_remote(place) or Path(place).is_absolute()):
        expected = "an absolute path or a URI inside a Ray job, whose working directory is a temporary copy"
        raise UserError(option, expected, place)


def find_spec(source: str, overrides: Sequence[str] = ()) -> tuple[Spec, str | None]:
    """The spec that SPEC stands for, and its run directory if SPEC is one. Raises UserError."""
    for override in overrides:
        if "=" not in override:
            raise UserError(override, "key.sub=value")
    path, named = Path(source), SPECS / f"{source}.yaml"
    if is_remote(source) or (path.is_dir() and not named.is_file()) or (path / layout.SPEC).is_file():
        store = Store(source)
        if not store.exists(layout.SPEC):
            raise UserError(
                "SPEC", f"a run directory (with a {layout.SPEC}), a YAML file or a name in jobs/specs", source
            )
        return absolute(parse(_text(store.read(layout.SPEC), source), overrides)), source
    file = path if path.is_file() else named
    if not file.is_file():
        known = ", ".join(sorted(spec.stem for spec in SPECS.glob("*.yaml")))
        raise UserError("SPEC", f"a YAML file, a run directory, or one of {known}", source)
    spec = parse(_text(file.read_bytes(), source), overrides)
    if spec.name == "run" and not any(override.startswith("name=") for override in overrides):
        spec = from_dict({**spec.to_dict(), "name": file.stem})
    return absolute(spec), None


def _text(content: bytes, source: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UserError("SPEC", "a YAML file in UTF-8", source) from None


def absolute(spec: Spec) -> Spec:
    """The spec with absolute paths: workers and later commands may stand in another folder."""
    data, model, ensemble = spec.data, spec.model, spec.ensemble
    kind, colon, path = data.name.partition(":")
    if kind in WITH_PATHS and colon:
        data = data.model_copy(update={"name": f"{kind}:{_found(path, spec)}"})
    data = data.model_copy(update={key: _absolute(getattr(data, key)) for key in ("root", "mirror", "vectors")})
    if model.name.startswith("transformers:"):
        from salcore.models import encoders  # here, as it takes seconds

        if encoders.origin(model.name) == "folder":
            place = _absolute(model.name.removeprefix(encoders.PREFIX))
            model = model.model_copy(update={"name": f"{encoders.PREFIX}{place}"})
        if data.tokenizer is not None and expanded(data.tokenizer).is_dir():
            data = data.model_copy(update={"tokenizer": _absolute(data.tokenizer)})
    model = model.model_copy(update={"weights": _absolute(model.weights)})
    for key in ("weights", "start"):
        if files := getattr(ensemble, key):
            ensemble = ensemble.model_copy(update={key: tuple(str(_absolute(path)) for path in files)})
    training = spec.training
    explanations = {"explanations": _absolute(training.attention.explanations)}
    training = training.model_copy(update={"attention": training.attention.model_copy(update=explanations)})
    parameters = spec.parameters
    if parameters is not None:
        parameters = parameters.model_copy(update={"boxes": _absolute(parameters.boxes)})
    changed = {"data": data, "model": model, "ensemble": ensemble, "training": training, "parameters": parameters}
    return spec.model_copy(update=changed)


def main(module: Callable[[], int]) -> None:
    """Leave with the exit status of a command, without waiting for threads that only look on."""
    status = module()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Parser(argparse.ArgumentParser):
    """Tells what is wrong with a command line as a UserError, in one line."""

    def error(self, message: str) -> Any:
        """Raise UserError."""
        raise UserError("command line", f"{self.format_usage().strip()} ({message})")


def _absolute(path: str | None) -> str | None:
    return path if path is None or "://" in path else str(expanded(path).absolute())


def _found(path: str, spec: Spec) -> str | None:
    """The path from here, or where nothing is there, below the folder of data, where there is something."""
    below = data_root(spec.data) / path
    here = "://" in path or expanded(path).exists()
    return str(below.absolute()) if not here and below.exists() else _absolute(path)


def _keys() -> str:
    """The table of keys under `--help`, and the settings of networks and methods."""
    lines = ["keys of a spec (key = default [unit]: meaning):"]
    for key, default, unit, meaning in describe():
        lines.append(f"  {key} = {default}{f' [{unit}]' if unit else ''}: {meaning}")
    from salcore.attribution import METHODS
    from salcore.models import MODELS

    lines += ["", "settings of networks (model.<setting>):"]
    lines += [line for name, builder in MODELS.items() for line in _settings(name, builder)]
    lines += ["", "methods and their settings (attribution.methods: [{name: METHOD, <setting>: value}]):"]
    lines += [line for name, method in METHODS.items() for line in _settings(name, method)]
    return "\n".join(lines)


def _settings(name: str, function: Callable[..., Any]) -> list[str]:
    """A function's name, and below it its settings as a spec writes them: default, and what may stand instead."""
    given = {key: each for key, each in settings_of(function).items() if each.default is not each.empty}
    told = [f"    {key} = {json.dumps(each.default)}: {taken(each)}" for key, each in given.items()]
    return [f"  {name}", *told]
