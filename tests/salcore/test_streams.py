"""Streams of a GPU: nobody has one that somebody else has. Here by a stand-in for what torch hands out."""

import itertools
import threading
from types import SimpleNamespace

import pytest
import torch

from salcore import streams


@pytest.fixture(autouse=True)
def pool(monkeypatch):
    """Torch's pool, of three, in turn."""
    handles = itertools.cycle([11, 12, 13])
    device = SimpleNamespace(index=0)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(device=device, cuda_stream=next(handles)))
    monkeypatch.setattr(streams, "POOL", 3)
    monkeypatch.setattr(streams, "_taken", set())


def test_one_that_is_taken_is_not_handed_out_again():
    lane = streams.take()
    others = []
    for _ in range(20):
        graph = streams.take()
        others.append(graph.cuda_stream)
        streams.give_back(graph)
    assert lane.cuda_stream not in others
    assert set(others) == {12, 13}, "those that are given back are"


def test_where_all_are_taken_none_is_shared():
    held = {streams.take().cuda_stream for _ in range(3)}
    assert held == {11, 12, 13}
    with pytest.raises(RuntimeError, match="all 3 streams of the GPU are taken"):
        streams.take()


def test_a_graph_that_ends_while_one_is_taken_gives_its_own_back(monkeypatch):
    """The garbage collector runs where memory is taken, and may find a graph in the midst of `take`."""
    handed, made = streams.take(), torch.cuda.Stream

    def collected():
        streams.give_back(handed)
        return made()

    monkeypatch.setattr(torch.cuda, "Stream", collected)
    taker = threading.Thread(target=streams.take, daemon=True)
    taker.start()
    taker.join(timeout=10)
    assert not taker.is_alive()
