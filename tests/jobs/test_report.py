"""`jobs.report` where MLflow does not answer; what it writes is tested where runs are made."""

import pytest

from jobs import report
from jobs.command import read
from jobs.prepare import begin, prepare
from salcore.member_files import train_member

SPEC = """
data: {name: digits, train_samples: 100, eval_samples: 20}
model: {width: 4}
ensemble: {members: 1}
training: {epochs: 1, batch_size: 32}
tracking: {uri: 'http://ann:secret@host:5000'}
"""


class Away:
    """A tracker whose server takes nothing."""

    def __init__(self, *given, **settings):
        pass

    def finish(self, *given, **settings):
        return False


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A run whose only member is trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SPEC)
    plan = prepare(read("train", "", ["small.yaml", "--run-dir", "run"]))
    begin(plan)
    for member in plan.members:
        train_member(member, plan.data, plan.store)
    return "run"


def test_what_was_not_sent_is_told_without_the_password_of_the_server(trained, monkeypatch, capsys):
    monkeypatch.setattr(report, "Tracker", Away)
    assert report.act(read("report", "", [trained])) == 1
    told = capsys.readouterr()
    assert "run this again when http://host:5000 answers" in told.out
    assert "secret" not in told.out + told.err
