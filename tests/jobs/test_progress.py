"""The progress line: rewritten in a terminal, now and then in a log, with an honest rate."""

import io

import pytest

from jobs import progress
from jobs.progress import LOG_EVERY_S, Progress, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def now(monkeypatch):
    """The time, to be set by the test."""
    moment = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: moment[0])
    return moment


def screen(text):
    """What a terminal shows after `text`."""
    lines = [""]
    for part in text.replace("\n", "\0\n\0").split("\0"):
        if part == "\n":
            lines.append("")
            continue
        for piece in part.split("\r"):
            lines[-1] = piece + lines[-1][len(piece) :]
    return [line.rstrip() for line in lines]


def test_a_terminal_shows_the_newest_line_only(now):
    stream = Terminal()
    shown = Progress(stream)
    shown.update("train", 0, 8, "members", "a long detail that goes away")
    now[0] += 2
    shown.update("train", 1, 8, "members")
    assert screen(stream.getvalue()) == ["train    1/8 members  2 s each  0:14 left"]


def test_a_new_stage_and_a_message_begin_a_new_line(now):
    stream = Terminal()
    shown = Progress(stream)
    shown.update("train", 8, 8, "members")
    shown.update("explain", 0, 96, "shards")
    shown.say("part-00001.arrow is made again")
    shown.update("explain", 1, 96, "shards")
    shown.end()
    shown.end()
    assert screen(stream.getvalue()) == [
        "train    8/8 members",
        "explain   0/96 shards",
        "part-00001.arrow is made again",
        "explain   1/96 shards",
        "",
    ]


def test_a_log_gets_a_line_now_and_then_and_the_last_one(now):
    stream = io.StringIO()
    shown = Progress(stream)
    for done in range(101):
        shown.update("explain", done, 100, "shards")
        now[0] += 0.3
    shown.end()
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    assert lines[0].startswith("explain    0/100 shards")
    assert lines[-1].startswith("explain  100/100 shards")
    assert len(lines) == 1 + int(30 / LOG_EVERY_S) - 1 + 1
    assert all(line == line.rstrip() for line in lines)


def test_what_does_not_change_is_not_written_again(now):
    for stream in (io.StringIO(), Terminal()):
        shown = Progress(stream)
        shown.update("train", 8, 8, "members")
        before = stream.getvalue()
        shown.update("train", 8, 8, "members")
        assert stream.getvalue() == before


@pytest.mark.parametrize(
    ("seconds", "moved", "expected"),
    [(10, 50, "5 shards/s  0:08 left"), (10, 2, "5 s each  7:20 left"), (10, 10, "1 shards/s  1:20 left")],
)
def test_what_was_done_before_does_not_enter_the_rate(now, seconds, moved, expected):
    stream = Terminal()
    shown = Progress(stream)
    shown.update("explain", 10, 100, "shards")
    now[0] += seconds
    shown.update("explain", 10 + moved, 100, "shards")
    assert screen(stream.getvalue()) == [f"explain   {10 + moved}/100 shards  {expected}"]


def test_nothing_moved_has_no_rate(now):
    stream = Terminal()
    shown = Progress(stream)
    shown.update("explain", 3, 100, "shards")
    now[0] += 60
    shown.update("explain", 3, 100, "shards", "still at it")
    assert screen(stream.getvalue()) == ["explain    3/100 shards  still at it"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (75, "1:15"),
        (3599.4, "59:59"),
        (3600, "1:00 h"),
        (90000, "25:00 h"),
    ],
)
def test_time_left(seconds, told):
    assert clock(seconds) == told
