"""Who trains what: members are never lost, never held twice and never counted twice, whatever dies when."""

import copy
from collections import Counter, deque

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from cluster.queue import Ledger, Work
from salcore.members import Outcome, plan
from salcore.spec import parse

MEMBERS = plan(parse("ensemble: {members: 6}"), "data")
SLOTS, ATTEMPTS = 3, 3


def works(count, run=0):
    return [Work(run=run, member=member) for member in MEMBERS[:count]]


def ledger(count, attempts=ATTEMPTS):
    return Ledger(waiting=deque(works(count)), attempts=attempts)


def report(found, slot, work):
    found.done(slot, work.run, Outcome(index=work.member.index, reason=None, seconds=1.0))


def key(work):
    return work.run, work.member.index


def test_slots_take_members_in_order_until_none_is_left():
    found = ledger(3)
    assert [found.take(slot).member.index for slot in (0, 1, 2)] == [0, 1, 2]
    assert found.take(3) is None
    assert not found.finished
    for slot in (2, 0, 1):
        report(found, slot, found.held[slot])
    assert [done.index for _, done in found.outcomes] == [2, 0, 1]
    assert found.finished


def test_the_member_of_a_dead_slot_goes_to_the_next_free_one():
    found = ledger(3)
    lost = found.take(0)
    found.take(1)
    found.lost(0)
    assert found.take(1 + 1).member is lost.member  # before member 2, which waited longer


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_of_members_that_saw_their_process_die_one_at_a_time_is_held_in_a_process(attempts):
    """Slots 0 to 2 are one process, which member 1 brings down whenever it is held: it alone is given up."""
    found = ledger(6, attempts)
    found.process = dict.fromkeys(range(3), "process")
    held = {}
    while not found.finished:
        for slot in range(3):
            held[slot] = found.take(slot)
        if 1 in {work.member.index for work in found.held.values()}:
            for slot in range(3):
                found.lost(slot)
        else:
            for slot, work in list(found.held.items()):
                report(found, slot, work)
    assert [(work.member.index, work.crashes) for work in found.given_up] == [(1, max(attempts, 2))]
    assert found.crashes == max(attempts, 2), "a process's death counts once"
    assert sorted(done.index for _, done in found.outcomes) == [0, 2, 3, 4, 5]
    suspects = ledger(6)
    suspects.process = {0: "one", 1: "one", 2: "other"}
    for slot in range(2):
        suspects.take(slot)
    for slot in range(2):
        suspects.lost(slot)
    assert [suspects.take(slot).crashes for slot in range(3)] == [1, 0, 1]


def test_a_slot_that_comes_back_without_a_word_gives_its_member_up():
    found = ledger(2)
    first = found.take(0)
    again = found.take(0)
    assert again.member is first.member
    assert (again.crashes, found.crashes) == (1, 1)


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_member_that_kills_its_slots_is_given_up_and_the_others_go_on(attempts):
    found = ledger(2, attempts)
    for _ in range(attempts):
        assert found.take(0).member.index == 0
        found.lost(0)
    assert [(work.member.index, work.crashes) for work in found.given_up] == [(0, attempts)]
    assert found.take(0).member.index == 1
    assert not found.finished
    report(found, 0, found.held[0])
    assert found.finished


def test_crashes_count_against_the_member_and_not_the_slot():
    found = ledger(4)
    for member in range(4):
        assert found.take(0).member.index == member
        found.lost(0)
        assert found.take(0).crashes == 1
        report(found, 0, found.held[0])
    assert not found.given_up


def test_a_death_that_is_told_twice_counts_once():
    found = ledger(1)
    found.take(0)
    found.lost(0)
    found.lost(0)
    assert found.crashes == 1
    assert found.take(1).crashes == 1


def test_a_late_report_of_a_member_that_another_slot_holds_changes_nothing():
    found = ledger(1)
    work = found.take(0)
    found.lost(0)
    found.take(1)
    report(found, 0, work)
    assert not found.outcomes
    assert 1 in found.held


def test_members_of_several_runs_are_told_apart():
    found = Ledger(waiting=deque([*works(2, run=0), *works(2, run=1)]))
    while (work := found.take(0)) is not None:
        report(found, 0, work)
    assert [(run, done.index) for run, done in found.outcomes] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_late_report_of_the_same_number_in_another_run_changes_nothing():
    found = Ledger(waiting=deque([*works(1, run=0), *works(1, run=1)]))
    early = found.take(0)
    found.lost(0)
    found.take(1)
    assert key(found.take(0)) == (1, 0)
    report(found, 0, early)
    assert not found.outcomes
    assert key(found.held[0]) == (1, 0)


class Pool(RuleBasedStateMachine):
    """Slots that take, finish and die at any moment, and reports that arrive late, twice or never."""

    started = Bundle("started")

    def __init__(self):
        super().__init__()
        self.work = [*works(4, run=0), *works(3, run=1)]
        self.ledger = Ledger(waiting=deque(self.work), attempts=ATTEMPTS)
        self.crashes = Counter()

    def _note_crash(self, slot):
        if slot in self.ledger.held:
            self.crashes[key(self.ledger.held[slot])] += 1

    @rule(target=started, slot=st.integers(0, SLOTS - 1))
    def take(self, slot):
        self._note_crash(slot)
        return slot, self.ledger.take(slot)

    @rule(taken=consumes(started))
    def finish(self, taken):
        slot, work = taken
        if work is not None:
            report(self.ledger, slot, work)

    @rule(taken=started)
    def report_and_stay_able_to_report_again(self, taken):
        slot, work = taken
        if work is not None:
            report(self.ledger, slot, work)

    @rule(slot=st.integers(0, SLOTS - 1))
    def die(self, slot):
        self._note_crash(slot)
        self.ledger.lost(slot)

    @invariant()
    def every_member_is_in_exactly_one_place(self):
        found = self.ledger
        places = Counter(key(work) for work in [*found.waiting, *found.held.values(), *found.given_up])
        places.update((run, done.index) for run, done in found.outcomes)
        assert places == Counter(key(work) for work in self.work)

    @invariant()
    def crashes_are_those_that_happened(self):
        found = self.ledger
        for work in [*found.waiting, *found.held.values(), *found.given_up]:
            assert work.crashes == self.crashes[key(work)]
        assert found.crashes == self.crashes.total()
        assert all(work.crashes == ATTEMPTS for work in found.given_up)
        assert all(work.crashes < ATTEMPTS for work in [*found.waiting, *found.held.values()])

    @invariant()
    def finished_means_that_nothing_is_left(self):
        left = len(self.work) - len(self.ledger.outcomes) - len(self.ledger.given_up)
        assert self.ledger.finished == (left == 0)

    @precondition(lambda self: not self.ledger.finished)
    @rule()
    def one_honest_slot_can_always_bring_it_to_an_end(self):
        found = copy.deepcopy(self.ledger)
        for slot in list(found.held):
            found.lost(slot)
        while (work := found.take(99)) is not None:
            report(found, 99, work)
        assert found.finished
        assert len(found.outcomes) + len(found.given_up) == len(self.work)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)
