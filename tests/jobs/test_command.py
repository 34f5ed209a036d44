"""The command line: what SPEC stands for, where a run goes, and how every end is told."""

import os
import shlex
import signal
import subprocess
import sys

import pytest
import yaml

from jobs import command
from jobs.command import SPECS, absolute, find_spec, guarded, read
from salcore import layout
from salcore.attribution import METHODS
from salcore.data import ARGUMENTS
from salcore.errors import UserError
from salcore.models import MODELS
from salcore.settings import settings_of
from salcore.spec import describe, parse
from salcore.storage import Store


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of the user's own, no Ray job, and the handler of SIGTERM as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def asked(*arguments):
    return read("ensemble", "Train.", arguments)


def refused(*arguments):
    with pytest.raises(UserError) as error:
        asked(*arguments)
    return error.value.key, str(error.value)


def finished_run(folder, **values):
    spec = parse(yaml.safe_dump(values))
    resolved = spec.to_dict() | {"fingerprints": {"member": "abc"}}
    Store(folder).write(layout.SPEC, yaml.safe_dump(resolved).encode())
    return spec


@pytest.mark.parametrize("name", [path.stem for path in SPECS.glob("*.yaml")])
def test_every_named_spec_is_valid_and_named_after_its_file(name, here):
    found = asked(name)
    assert found.spec.name == name
    assert found.store.local == here / "runs" / name


def test_a_path_is_a_spec_named_after_its_file_unless_it_says_otherwise(here):
    (here / "mine.yaml").write_text("ensemble: {members: 3}")
    assert asked("mine.yaml").spec.name == "mine"
    assert asked("mine.yaml", "name=other").spec.name == "other"
    assert asked(str(here / "mine.yaml"), "ensemble.members=4").spec.ensemble.members == 4
    (here / "named.yaml").write_text("name: second")
    assert asked("named.yaml").spec.name == "second"
    assert asked("named.yaml").store.local == here / "runs" / "second"


def test_a_run_directory_is_its_own_spec_and_place(here):
    spec = finished_run(here / "old", name="x", ensemble={"members": 3}, data={"name": "digits"})
    found = asked("old")
    assert (found.spec, found.store.local) == (spec, here / "old")
    assert found.ensemble_of is None
    assert asked("old", "ensemble.members=5").spec.ensemble.members == 5
    uri = (here / "old").as_uri()
    assert asked(uri).store.uri == uri


def test_a_run_with_other_data_lends_its_ensemble(here):
    finished_run(here / "old", name="x")
    found = asked("old", "data=folder:pictures", "--run-dir", "new")
    assert found.ensemble_of.local == here / "old"
    assert found.store.local == here / "new"
    assert found.spec.data.name == f"folder:{here / 'pictures'}"


def test_run_dir_comes_before_all_else(here):
    finished_run(here / "old", name="x")
    for source in ("digits", "old"):
        assert asked(source, "--run-dir", "there").store.local == here / "there"


def test_options_may_stand_anywhere(here):
    found = asked("--plan", "digits", "ensemble.members=3", "--run-dir", "x", "training.epochs=1", "--retry-failed")
    assert (found.plan, found.retry_failed) == (True, True)
    assert (found.spec.ensemble.members, found.spec.training.epochs) == (3, 1)
    assert not asked("digits").plan


def test_an_interrupted_command_says_how_to_go_on_as_a_shell_takes_it(capsys):
    arguments = ["digits", "ensemble.vary=[init, order]", "--run-dir", "a b"]

    def interrupt(given):
        raise KeyboardInterrupt

    assert command.guarded("ensemble", interrupt, arguments) == 130
    [line] = capsys.readouterr().err.strip().splitlines()
    again = line.partition("Go on with: ")[2]
    assert shlex.split(again) == ["python", "-m", "jobs.ensemble", *arguments]


@pytest.mark.parametrize(
    ("arguments", "key", "words"),
    [
        (["digit"], "SPEC", "digits"),
        (["no/such.yaml"], "SPEC", "no/such.yaml"),
        (["."], "SPEC", "a run directory (with a spec.yaml)"),
        (["digits", "epochs"], "epochs", "key.sub=value"),
        (["digits", "training.epoch=3"], "training.epoch", "did you mean epochs?"),
        (["digits", "ensemble.members=0"], "ensemble.members", "got 0"),
        (["digits", "--run-dir", "nosuch://x/y"], "--run-dir", "nosuch"),
        ([], "command line", "SPEC"),
        (["digits", "--nosuch"], "command line", "--nosuch"),
    ],
)
def test_mistakes_name_their_key_in_one_line(arguments, key, words):
    found, message = refused(*arguments)
    assert found == key
    assert words in message
    assert "\n" not in message


def test_a_spec_that_is_no_text_is_the_users_mistake(here):
    (here / "picture.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    assert refused("picture.yaml")[0] == "SPEC"


def test_a_relative_run_directory_is_refused_inside_a_ray_job(here, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for arguments in (["digits"], ["digits", "--run-dir", "x"]):
        key, message = refused(*arguments)
        assert key == "--run-dir"
        assert "temporary copy" in message
    assert asked("digits", "--run-dir", str(here / "x")).store.local == here / "x"
    assert asked("digits", "--run-dir", (here / "y").as_uri()).store.local == here / "y"


def test_paths_of_a_spec_mean_the_folder_they_were_given_in(here):
    spec, _ = find_spec(
        "digits", ["data.root=r", "data.mirror=https://a/b", "model.weights=~/w.pt", "ensemble.weights=[a.pt, /b.pt]"]
    )
    assert (spec.data.root, spec.data.mirror) == (str(here / "r"), "https://a/b")
    assert spec.model.weights == os.path.expanduser("~/w.pt")  # noqa: PTH111 - an independent way to say it
    assert spec.ensemble.weights == (str(here / "a.pt"), "/b.pt")
    assert find_spec("digits", ["data.vectors=v.gz"])[0].data.vectors == str(here / "v.gz")
    for kind in (name for name, argument in ARGUMENTS.items() if argument == "PATH"):
        assert find_spec("digits", [f"data.name={kind}:x"])[0].data.name == f"{kind}:{here / 'x'}"
    assert find_spec("digits", ["data.name=synthetic:middle"])[0].data.name == "synthetic:middle"
    assert find_spec("digits", ["data.name=python:a.b:c"])[0].data.name == "python:a.b:c"
    assert find_spec("digits")[0].data.mirror is None


def ending(error):
    def action(_):
        if error is not None:
            raise error
        return 0

    return action


def test_exit_statuses(capsys):
    assert guarded("ensemble", ending(None), []) == 0
    assert guarded("ensemble", lambda _: 1, []) == 1
    assert guarded("ensemble", ending(UserError("training.epochs", "a number", "x")), []) == 2
    assert capsys.readouterr().err == "error: training.epochs: expected a number, got 'x'\n"
    assert guarded("ensemble", ending(KeyboardInterrupt()), []) == 130
    with pytest.raises(ZeroDivisionError):  # anything else is a bug, which keeps its traceback
        guarded("ensemble", ending(ZeroDivisionError()), [])


def test_a_termination_is_an_interruption():
    def action(_):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    assert guarded("ensemble", action, []) == 130


def test_run_reads_then_acts(capsys):
    assert command.run("ensemble", "Train.", lambda found: found.spec.ensemble.members, ["digits"]) == 8
    assert command.run("ensemble", "Train.", lambda _: pytest.fail("acted"), ["digits", "a.b=1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_lists_every_key_with_default_and_unit_and_every_setting(capsys):
    with pytest.raises(SystemExit) as left:
        asked("--help")
    assert left.value.code == 0
    text = capsys.readouterr().out
    for key, default, unit, meaning in describe():
        assert f"  {key} = {default}{f' [{unit}]' if unit else ''}: {meaning}" in text
    for name, function in (MODELS | METHODS).items():
        given = [key for key, each in settings_of(function).items() if each.default is not each.empty]
        section = text.split(f"\n  {name}\n", 1)[1].split("\n  ", len(given) + 1)
        assert [line.split(" = ")[0].strip() for line in section[: len(given)]] == given
    for words in ("width = 16: a whole number of 1 or more", 'of = "gradient": a text or a mapping\n', "--run-dir DIR"):
        assert words in text


@pytest.mark.parametrize(("line", "status"), [("return 0", 0), ("return 1", 1), ("raise ValueError('bug')", 1)])
def test_a_process_leaves_with_the_status_and_without_waiting_for_threads(line, status):
    code = (
        "import threading, time\nfrom jobs import command\ndef act():\n    threading.Thread(target=time.sleep, "
        f"args=(60,), daemon=True).start()\n    print('said')\n    {line}\ncommand.main(act)"
    )
    root = SPECS.parents[1]
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert (finished.returncode, finished.stdout) == (status, "said\n")
    assert ("ValueError: bug" in finished.stderr) is ("raise" in line)


def test_data_are_found_here_or_below_the_folder_of_data(tmp_path, monkeypatch):
    (tmp_path / "data" / "sst5").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SALCORE_DATA", str(tmp_path / "data"))
    asked = parse("data: 'sst:sst5'")
    assert absolute(asked).data.name == f"sst:{tmp_path / 'data' / 'sst5'}"
    (tmp_path / "here" / "sst5").mkdir()
    assert absolute(asked).data.name == f"sst:{tmp_path / 'here' / 'sst5'}"
    assert absolute(parse("data: 'sst:nowhere'")).data.name == f"sst:{tmp_path / 'here' / 'nowhere'}"
