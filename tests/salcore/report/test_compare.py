import numpy as np
import pytest

from salcore.errors import UserError
from salcore.moments import Moments
from salcore.report import compare, comparison_page, comparison_table
from salcore.report.compare import _without_each, debiased_without
from salcore.report.facts import gather, leave_one_out
from salcore.report.resample import bootstrap, over_members
from salcore.studies import summaries


@pytest.fixture
def make(make_run, digits, noisy, logits):
    sample, label = digits

    def build(name, snr, *, accuracy=0.9, members=8, count=20, seed=0):
        maps = {"gradient": noisy(members, count, snr, seed=seed)}
        return make_run(name, maps, sample[:count], label[:count], logits(label[:count], [accuracy] * members))

    return build


def by_name(found):
    return {each.quantity: each for each in found.differences}


def test_a_run_beside_itself_differs_in_nothing(make):
    run = make("a", 0.7)
    for each in compare([run, run]).differences:
        assert each.values[0] == each.values[1]
        assert each.members.value == 0
        assert each.over_samples == (0, 0)


def test_a_true_difference_is_found_with_its_sign(make):
    found = by_name(compare([make("a", 0.5), make("b", 1.0, accuracy=0.6, seed=1)]))
    snr = found["Debiased SNR, gradient"]
    assert snr.values == pytest.approx((0.5, 1.0), abs=0.06)
    assert snr.members.low < 0.5 < snr.members.high
    assert snr.members.low > 0.3
    assert snr.over_samples[0] > 0
    single = found["Accuracy of a member"]
    assert single.members.value == pytest.approx(-0.3)
    assert single.over_samples[1] < 0


def test_equal_runs_are_not_told_apart(make):
    found = by_name(compare([make("a", 0.7), make("b", 0.7, seed=5)]))["Debiased SNR, gradient"]
    assert found.members.low < 0 < found.members.high


def test_samples_are_paired_by_their_number(make, make_run, digits, noisy, logits):
    sample, label = digits
    order = np.random.default_rng(0).permutation(20)
    maps, z = noisy(5, 20, np.linspace(0.1, 2, 20)), logits(label, [0.5] * 5)
    first = make_run("a", {"gradient": maps}, sample, label, z)
    second = make_run("b", {"gradient": maps[:, order]}, sample[order], label[order], z[:, order])
    for each in compare([first, second]).differences:
        assert each.over_samples == pytest.approx((0, 0), abs=1e-12)


def test_only_common_samples_count_and_it_is_said(make):
    found = compare([make("a", 0.7), make("b", 0.7, count=12)])
    assert {each.samples for each in found.differences} == {12}
    assert any("12 samples are common to a and b, of up to 20" in note for note in found.notes)


def test_what_cannot_be_compared_is_refused_in_one_line(make, make_run, digits, noisy, logits):
    sample, label = digits
    z = logits(label, [0.9] * 3)
    run = make("a", 0.7)
    other = make_run("b", {"smoothgrad": noisy(3, 20, 0.5)}, sample, label, z)
    apart = make_run("c", {"gradient": noisy(3, 20, 0.5)}, sample + 10_000, label, z)
    relabelled = make_run("d", {"gradient": noisy(3, 20, 0.5)}, sample, (label + 1) % 10, z)
    for runs, words in (
        ([run], "two run directories"),
        ([run, other], "a method in common"),
        ([run, apart], "same samples"),
        ([run, relabelled], "same data set"),
    ):
        with pytest.raises(UserError, match=words):
            compare(runs)


def test_leaving_members_out_agrees_with_reducing_without_them(make):
    run = make("a", 0.7, members=5)
    maps = run.maps("gradient", range(20)).astype(np.float64).reshape(5, 20, -1)
    expected = []
    for member in range(5):
        moments = Moments.from_batch(np.delete(maps, member, axis=0))
        noise2 = moments.variance().sum()
        expected.append(np.sqrt(((moments.mean**2).sum() - noise2 / 4) / noise2))
    np.testing.assert_allclose(debiased_without(run, "gradient", np.arange(20)), expected, rtol=1e-9)
    np.testing.assert_allclose(leave_one_out(run, "gradient")[0], expected, rtol=1e-5)


@pytest.mark.parametrize("there", ["111111", "101101", "100110", "101000", "010000", "000000"])
def test_sums_without_each_member_are_those_of_the_others_alone(there):
    x, there = np.random.default_rng(0).normal(0.3, 1, (6, 5, 7)), np.array([*there]) == "1"
    expected = np.zeros((6, 2))
    for member in range(6):
        others = x[there & (np.arange(6) != member)]
        if len(others) > 1:
            noise2 = others.var(axis=0, ddof=1).sum()
            expected[member] = (others.mean(axis=0) ** 2).sum() - noise2 / len(others), noise2
    np.testing.assert_allclose(_without_each(x, there), expected, rtol=1e-12, atol=1e-12)


def test_maps_that_are_not_finite_are_left_out_of_both_runs(make_run, digits, noisy, logits):
    sample, label = digits
    maps = noisy(5, 20, 0.7)
    maps[1, 3], maps[:3, 5], maps[4, ::2, 0, 2, 2] = np.nan, np.inf, -np.inf
    broken = make_run("broken", {"gradient": maps}, sample, label, logits(label, [0.9] * 5))
    np.testing.assert_allclose(
        debiased_without(broken, "gradient", np.arange(20)), leave_one_out(broken, "gradient")[0], rtol=1e-5
    )
    maps = maps.copy()
    maps[:4, 8] = np.nan
    worse = make_run("worse", {"gradient": maps}, sample, label, logits(label, [0.9] * 5))
    found = compare([broken, worse])
    snr = by_name(found)["Debiased SNR, gradient"]
    assert snr.samples == 19
    assert snr.values[0] == pytest.approx(snr.values[1])
    assert np.isfinite([snr.members.low, *snr.over_samples]).all()
    assert found.notes == (
        "gradient: 1 common samples lack finite maps of 2 members in one of broken and worse: they are left out.",
    )


def test_members_without_a_finite_map_are_none_in_an_interval(make_run, digits, noisy, logits):
    """It is that of the ensemble that lacks them, not a narrower one of more members."""
    sample, label = digits
    whole = {"gradient": noisy(7, 20, 0.9), "smoothgrad": noisy(7, 20, 0.6, seed=1)}
    holed = {name: maps.copy() for name, maps in whole.items()}
    holed["gradient"][[1, 3]] = np.nan
    holed["smoothgrad"][[1, 5]] = np.inf
    z = logits(label, [0.9] * 7)
    run = make_run("holed", holed, sample, label, z)
    both, ours = [0, 2, 4, 6], [0, 2, 4, 5, 6]
    few = make_run("few", {"gradient": whole["gradient"][ours]}, sample, label, z[ours])
    np.testing.assert_allclose(leave_one_out(run, "gradient"), leave_one_out(few, "gradient"), rtol=1e-6)
    expected = debiased_without(few, "gradient", np.arange(20))
    np.testing.assert_allclose(debiased_without(run, "gradient", np.arange(20)), expected, rtol=1e-6)
    assert leave_one_out(run, "gradient", "smoothgrad").shape == (2, len(both))
    assert gather(run).lead.difference == summaries.lead(run, "gradient", "smoothgrad")
    holed["smoothgrad"][both] = np.inf
    holed["smoothgrad"][[1, 3]] = whole["smoothgrad"][[1, 3]]
    apart = make_run("apart", holed, sample, label, z)
    assert np.isnan(gather(apart).lead.difference.low)


def test_the_lead_is_paired_over_members(make_run, digits, noisy, logits):
    sample, label = digits
    common = noisy(6, 20, 0.0)
    maps = {"a": noisy(6, 20, 0.6) + common, "b": noisy(6, 20, 0.6) + common * 1.0001}
    # Names of methods are free as far as a report is concerned.
    run = make_run("lead", maps, sample, label, logits(label, [0.9] * 6))
    lead = gather(run).lead
    assert lead.first == "a"
    assert lead.difference.high - lead.difference.low < 0.01


def test_bootstrap_of_a_mean_has_its_textbook_width():
    values = np.random.default_rng(0).standard_normal(400)
    low, high = bootstrap(lambda counts: counts @ values / 400, 400)
    width = 2 * 1.96 * values.std() / 20
    assert high - low == pytest.approx(width, rel=0.08)
    assert low < values.mean() < high
    assert np.isnan(bootstrap(lambda counts: counts @ values[:1], 1)).all()


def test_the_interval_over_members_of_a_mean_is_that_of_welch():
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 7), rng.normal(0.5, 3, 12)
    without = [(x.sum() - x) / (len(x) - 1) for x in (a, b)]
    found = over_members(*without, b.mean() - a.mean())
    expected = ttest_ind(b, a, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_too_few_members_have_no_interval():
    assert np.isnan(over_members(np.array([1.0]), np.array([1.0, 2.0]), 0.5).low)
    assert np.isnan(over_members(np.array([1.0, np.nan]), np.array([1.0, 2.0]), 0.5).low)


def test_table_and_page_tell_every_difference(make):
    found = compare([make("narrow", 0.5), make("wide", 1.0, seed=1), make("wider", 1.5, members=2, seed=2)])
    table, page = comparison_table(found), comparison_page(found)
    for name in ("narrow", "wide", "wider", "Debiased SNR, gradient", "Accuracy of the ensemble"):
        assert name in table
        assert name in page
    assert "Clearly higher in wide" in page
    assert "Too few members" in page
    assert "nan" not in table
    assert "http" not in page.replace("http://www.w3.org", "")
    columns = [line for line in table.splitlines() if line.startswith("Accuracy of")]
    assert len({len(line) for line in columns[:2]}) == 1
