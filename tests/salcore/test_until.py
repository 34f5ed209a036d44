"""Adaptive stopping without a cluster: what the looks decide, how they are kept, and what is said of them."""

import math

import pytest
import yaml

from salcore import layout, until
from salcore.errors import UserError
from salcore.members import plan, recipe
from salcore.runs import Run
from salcore.spec import parse
from salcore.statistics import projected_members
from salcore.storage import Store

NAN, INF = math.nan, math.inf


def spec_of(*overrides, members=9, first=3, step=2, width=0.1):
    asked = f"ensemble.until={{width: {width}, first: {first}, step: {step}}}"
    return parse("", [f"ensemble.members={members}", asked, *overrides])


def looks(widths, value=0.5):
    """Looks of these widths by number of members; NaN is an interval that is not defined."""
    return [
        until.Round(members=count, value=value, low=value - width / 2, high=value + width / 2)
        for count, width in widths.items()
    ]


@pytest.mark.parametrize(
    ("members", "first", "step", "expected"),
    [
        (9, 3, 2, [3, 5, 7, 9]),
        (8, 3, 2, [3, 5, 7, 8]),
        (10, 5, 2, [5, 7, 9, 10]),
        (5, 5, 2, [5]),
        (6, 5, 100, [5, 6]),
        (6, 3, 1, [3, 4, 5, 6]),
    ],
)
def test_looks_are_at_first_then_each_step_and_at_all_members_last(members, first, step, expected):
    assert list(until.looks(spec_of(members=members, first=first, step=step).ensemble)) == expected


@pytest.mark.parametrize(
    ("widths", "decision"),
    [
        ({}, (3, False, False)),
        ({3: 0.3}, (5, False, False)),
        ({3: 0.05}, (3, True, True)),
        ({3: 0.3, 5: 0.05}, (5, True, True)),
        ({3: 0.3, 5: 0.05, 7: 0.3, 9: 0.3}, (5, True, True)),  # the first that is narrow, whatever comes after
        ({5: 0.05}, (3, False, False)),  # decided in order: the look at 3 comes first
        ({3: 0.3, 7: 0.05}, (5, False, False)),
        ({3: 0.3, 4: 0.05}, (5, False, False)),  # of another first or step
        ({3: 0.3, 5: 0.3, 7: 0.3}, (9, False, False)),
        ({3: 0.3, 5: 0.3, 7: 0.3, 9: 0.3}, (9, True, False)),
        ({3: 0.3, 5: 0.3, 7: 0.3, 9: 0.05}, (9, True, True)),
        ({3: NAN}, (5, False, False)),
        ({3: NAN, 5: NAN, 7: NAN, 9: NAN}, (9, True, False)),
        ({3: 0.125, 5: 0.3}, (7, False, False)),
    ],
)
def test_the_first_look_that_is_narrow_enough_settles_it(widths, decision):
    found = until.decide(looks(widths), spec_of().ensemble)
    assert (found.members, found.settled, found.reached) == decision
    assert until.decide(list(reversed(looks(widths))), spec_of().ensemble) == found


def test_narrower_means_narrower():
    exact = [until.Round(members=3, value=0.5, low=0.25, high=0.5)]
    assert not until.decide(exact, spec_of(width=0.25).ensemble).settled
    assert until.decide(exact, spec_of(width=0.2501).ensemble).settled


def test_a_look_at_all_members_of_a_smaller_run_is_none_of_a_larger_one():
    taken = looks({3: 0.3, 5: 0.3, 7: 0.3, 8: 0.05})
    assert until.decide(taken, spec_of(members=8).ensemble).reached
    assert until.decide(taken, spec_of(members=12).ensemble).members == 9


def test_the_method_is_the_first_one_or_the_one_that_is_named():
    methods = "attribution.methods=[gradient, {name: gradcam, as: cam}]"
    assert until.method(spec_of(methods)).folder == "gradient"
    assert until.method(spec_of(methods, "ensemble.until.method=cam")).name == "gradcam"
    with pytest.raises(UserError, match=r"a folder name of attribution.methods \(gradient, cam\), got 'gradcam'") as no:
        until.method(spec_of(methods, "ensemble.until.method=gradcam"))
    assert no.value.key == "ensemble.until.method"


def test_looks_are_read_back_as_they_were_written(tmp_path):
    store, spec = Store(tmp_path), spec_of()
    taken = (
        until.Round(members=3, value=INF, low=NAN, high=NAN, failed=(0, 2)),
        until.Round(members=5, value=0.1 + 0.2, low=-1e-17, high=2 / 3),
    )
    assert until.read(store, spec, "abc") == ()
    until.write(store, spec, "abc", reversed(taken))
    found = until.read(store, spec, "abc")
    assert found[1] == taken[1]
    assert (found[0].members, found[0].failed, found[0].value) == (3, (0, 2), INF)
    assert math.isnan(found[0].low)
    assert math.isnan(found[0].high)
    assert "NaN" not in store.read(until.FILE).decode(), "JSON has no such word"


@pytest.mark.parametrize(
    ("override", "stands"),
    [
        *[(other, True) for other in ("ensemble.members=12", "ensemble.until=0.3", "cluster.slots=1", "name=other")],
        *[("attribution.methods=[gradient, gradcam]", True), ("ensemble.until.method=gradient", True)],
        *[(other, False) for other in ("attribution.target=3", "attribution.draws=member", "data.eval_samples=7")],
        *[("attribution.methods=[{name: gradient, samples: 5}]", False), ("attribution.methods=[gradcam]", False)],
        ("attribution.dtype=float16", False),
    ],
)
def test_looks_stand_as_long_as_what_they_measured_is_the_same(tmp_path, override, stands):
    """Another width, first, step or maximum decides anew on the same looks; other maps need other looks."""
    store = Store(tmp_path)
    until.write(store, spec_of(), "abc", looks({3: 0.3}))
    assert len(until.read(store, spec_of(override), "abc")) == stands
    assert until.read(store, spec_of(), "of other members") == ()


def test_until_is_no_part_of_what_a_member_is():
    without = parse("", ["ensemble.members=9"])
    assert recipe(spec_of(), "data") == recipe(without, "data")
    assert plan(spec_of(), "data") == plan(without, "data")


def test_a_run_is_of_the_members_that_were_settled(tmp_path):
    """More may lie in the directory: they were trained when the run was another."""
    store, spec = Store(tmp_path), spec_of()
    mark = recipe(spec, "data")
    store.write(layout.SPEC, yaml.safe_dump({**spec.to_dict(), "fingerprints": {"member": mark}}).encode())
    for index in (0, 1, 2, 4, 5):
        store.write_json(layout.member_file(index, "member.json"), {})
    for index in (3, 8):
        store.write_json(layout.member_file(index, "failed.json"), {"reason": "nan"})
    undecided = Run(tmp_path)
    assert (undecided.planned, undecided.members, set(undecided.failures)) == (9, (0, 1, 2, 4, 5), {3, 8})
    until.write(store, spec, mark, looks({3: 0.3, 5: 0.05}))
    settled = Run(tmp_path)
    assert (settled.planned, settled.members, set(settled.failures)) == (5, (0, 1, 2, 4), {3})
    until.write(store, spec, "of other members", looks({3: 0.05}))
    assert Run(tmp_path).planned == 9


def test_a_look_is_told_with_what_it_takes():
    ensemble = spec_of(width=0.1, members=30).ensemble
    [wide, close, narrow, last] = looks({3: 1.4, 5: 0.12, 7: 0.09, 30: 0.15})
    needed = {each.members: projected_members(each.width, 0.1, each.members) for each in (wide, close, last)}
    assert until.told(close, ensemble) == (
        f"5 members: SNR 0.500 (0.440 to 0.560), interval 0.12 wide; 0.1 asked, about {needed[5]} members projected"
    )
    assert until.told(wide, ensemble).endswith(
        f"about {needed[3]} members projected, more than the at most 30 of ensemble.members: training goes on to 30"
    )
    assert until.told(narrow, ensemble).endswith("interval 0.09 wide, narrower than the 0.1 asked")
    assert until.told(last, ensemble).endswith(
        f"about {needed[30]} members projected, more than the at most 30 of ensemble.members"
    )
    assert needed[5] <= 30 < needed[3]


@pytest.mark.parametrize(
    ("value", "failed", "words"),
    [
        (NAN, (1,), "fewer than 3 of them have finite maps"),
        (0.5, (1,), "fewer than 3 of them have finite maps"),
        (INF, (), "has no noise"),
        (0.5, (), "it is infinite or not defined without one of them"),  # two members agree, the third does not
        (NAN, (), "it is infinite or not defined without one of them"),  # three maps of zeros are finite
    ],
)
def test_an_interval_that_is_not_defined_is_told_with_its_reason(value, failed, words):
    ensemble = spec_of().ensemble
    look = until.Round(members=3, value=value, low=NAN, high=NAN, failed=failed)
    assert words in until.told(look, ensemble)
    assert until.told(look, ensemble).endswith("0.1 asked: training goes on to 9")


def test_what_was_not_reached_is_told_at_the_end_alone():
    ensemble = spec_of().ensemble
    assert until.unreached(looks({3: 0.3, 5: 0.05}), ensemble) is None
    assert until.unreached(looks({3: 0.3}), ensemble) is None
    assert until.unreached([], parse("").ensemble) is None
    taken = looks({3: 0.3, 5: 0.3, 7: 0.3, 9: 0.2})
    expected = f"about {projected_members(0.2, 0.1, 9)} members projected"
    assert expected in until.unreached(taken, ensemble)
    assert "9 members" in until.unreached(taken, ensemble)
