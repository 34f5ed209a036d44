from dataclasses import replace

import numpy as np
import pytest

from salcore.figures.signs import DASH, PERCENT
from salcore.report.accuracy import Accuracy
from salcore.report.facts import Alike, Facts, Lead, MethodFacts, Samples, main_method, ranked
from salcore.report.findings import (
    distrust,
    findings,
    how_accurate,
    how_much_is_real,
    how_sure,
    least_noisy,
    more_members,
    trained,
    varied,
    warnings,
    who_differs,
)
from salcore.report.left_out import LeftOut
from salcore.report.methods import needed
from salcore.report.outlying import outlying
from salcore.report.stopping import stopped
from salcore.spec import parse
from salcore.statistics import Estimate, members_for
from salcore.until import Round

UNKNOWN = Estimate(value=np.nan, low=np.nan, high=np.nan)
SPEC = parse("name: toy\nensemble: {members: 10}\ntraining: {epochs: 3}")


def method(
    name, debiased, *, members=10, samples=100, non_negative=False, one_sign=False, significant=0.25, cosines=()
):
    estimate = Estimate(value=debiased, low=debiased - 0.1, high=debiased + 0.1)
    same = {"scale_free": debiased} | dict.fromkeys(("snr", "debiased", "at_30"), estimate)
    likenesses = dict.fromkeys(("ssim", "ssim_pairwise", "cosine", "spearman", "signs", "top"), 0.5)
    rest = {"negatives": 0, "null": members**-0.5, "residual": np.nan, "non_negative": non_negative}
    alike, found = Alike(**likenesses, significant=significant), outlying(dict(enumerate(cosines)))
    return MethodFacts(
        name=name, members=members, samples=samples, **same, **rest, one_sign=one_sign, alike=alike, outlying=found
    )


def samples(snr, drowned):
    zeros = dict.fromkeys(("label", "target", "prediction"), np.zeros(len(snr), int))
    number, confidence = np.arange(len(snr)) + 100, np.ones(len(snr))
    told = {"snr": np.asarray(snr, float), "drowned": np.asarray(drowned), "confidence": confidence}
    return Samples(method="gradient", sample=number, **zeros, **told)


def facts(methods=(), **changes):
    values = {
        "planned": 10, "trained": tuple(range(10)), "failures": {}, "accuracy": None, "methods": tuple(methods),
        "main": main_method(tuple(methods)), "lead": None, "samples": None,
    }  # fmt: skip
    return Facts(**(values | changes))


def accuracy(members, at_chance=()):
    value = Estimate(value=0.95, low=0.93, high=0.97)
    return Accuracy(members=members, ensemble=value, guessing=0.1, at_chance=at_chance, samples=200)


def test_what_was_trained():
    told = trained(facts(), SPEC, " (100 images)")
    assert told.startswith("10 members of small_cnn, 3 epochs of standard training each, on digits (100 images).")
    assert "failed" not in told


def test_failed_and_missing_members_are_counted_apart():
    told = trained(facts(trained=(0, 1, 3), failures={2: "NaN"}), SPEC)
    assert "1 member failed." in told
    assert "6 members of the 10 planned not trained yet." in told


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.epochs=0"], "untrained"),
        (["training.objective=guided"], "saliency guided training"),
        (["ensemble.weights=[a.pt]"], "from trained weight files"),
    ],
)
def test_other_ways_of_training(overrides, words):
    spec = parse("name: toy", overrides)
    assert words in trained(facts(), spec)


def test_only_what_is_drawn_varies():
    assert varied(SPEC) == "in the seeds of initial weights, the order of batches and the network's own randomness"
    assert varied(parse("ensemble: {vary: [order]}")) == "in the seeds of the order of batches"
    assert "every seed is shared" in varied(parse("ensemble: {vary: [masking]}"))
    guided = parse("ensemble: {vary: [masking, augment]}\ntraining: {objective: guided, augment: {flip: true}}")
    assert varied(guided) == "in the seeds of augmentation and masking"


def test_accuracy_is_told_in_per_cent():
    found = how_accurate(accuracy({0: 0.9, 1: 0.8}), 2)
    for words in ("85.0", "lowest 80.0", "highest 90.0", "ensemble on 95.0", "93.0", "97.0"):
        assert words in found.answer
    assert not found.caution


def test_a_member_at_chance_is_named():
    found = how_accurate(accuracy({0: 0.9, 3: 0.1, 4: 0.1}, (3, 4)), 3)
    assert found.caution
    assert f"No better than guessing (10.0{PERCENT}): members 3 and 4." in found.answer


def test_too_few_samples_to_tell_a_member_from_guessing_are_said_to_be():
    even = replace(accuracy({0: 1.0, 1: 1.0}), guessing=0.5, samples=8)
    told = f"Too few samples outside the largest class to tell a member from guessing (50.0{PERCENT})."
    assert told in how_accurate(even, 2).answer
    assert told not in how_accurate(replace(even, samples=10), 2).answer
    assert list(warnings(facts(accuracy=even))) == []


def test_the_least_noisy_method_is_that_of_highest_debiased_snr():
    found = least_noisy(facts([method("gradient", 0.5), method("smoothgrad", 0.8)]))
    assert found.answer.startswith("smoothgrad: debiased SNR 0.80")
    assert "1.25 times more noise" in found.answer


def test_methods_without_negative_values_are_not_ranked_unless_alone():
    relu = method("gradcam", 3.0, non_negative=True)
    found = least_noisy(facts([method("gradient", 0.5), relu]))
    assert found.answer.startswith("gradient")
    assert "Not ranked: gradcam" in found.answer
    assert ranked((relu,)) == [relu]
    assert least_noisy(facts([relu])).answer.startswith("gradcam")


def test_the_main_method_explains_all_samples_and_exact_agreement_ranks_first():
    some, exact = method("smoothgrad", 0.9, samples=50), method("linear", np.inf)
    assert main_method((method("gradient", 0.5), some)) == "gradient"
    assert main_method((method("gradient", 0.5), exact)) == "linear"
    assert main_method((method("gradient", np.nan),)) == "gradient"
    assert main_method(()) is None


@pytest.mark.parametrize(("low", "words", "caution"), [(0.1, "can be told apart", False), (-0.1, "cannot tell", True)])
def test_how_sure_follows_the_interval_of_the_difference(low, words, caution):
    lead = Lead(first="a", second="b", difference=Estimate(value=0.3, low=low, high=0.6 - low))
    found = how_sure(facts([method("a", 0.8), method("b", 0.5)], lead=lead))
    assert words in found.answer
    assert found.caution is caution


def test_how_sure_with_too_little():
    assert "only one method" in how_sure(facts([method("a", 0.8)])).answer
    lead = Lead(first="a", second="b", difference=UNKNOWN)
    exact = Lead(first="a", second="b", difference=UNKNOWN)
    assert "equal" in how_sure(facts([method("a", np.inf), method("b", 0.5)], lead=exact)).answer
    assert "3 are needed" in how_sure(facts([method("a", 0.8), method("b", 0.5)], lead=lead)).answer


def test_distrusted_samples_are_counted_and_named():
    found = distrust(samples([0.9, 0.1, 0.5, 0.2, np.nan], [False, True, False, True, True]))
    assert f"2 of 4 samples (50.0{PERCENT})" in found.answer
    assert "samples 101, 103 and 102" in found.answer
    assert found.caution
    assert not distrust(samples([0.9, 0.8], [False, False])).caution
    assert "Unknown" in distrust(samples([np.nan], [False])).answer


def test_samples_without_noise_are_trusted():
    found = distrust(samples([np.inf, np.inf, np.nan], [False, False, False]))
    assert found.answer == "None of 2: all members' maps by gradient are equal."
    assert not found.caution
    mixed = distrust(samples([np.inf, 0.9, 0.1], [False, False, True]))
    assert f"1 of 3 samples (33.3{PERCENT})" in mixed.answer
    assert "have samples 102 and 101." in mixed.answer


@pytest.mark.parametrize("debiased", [np.inf, np.nan])
def test_nothing_is_called_unreal_where_nothing_was_tested(debiased):
    """Maps that are equal have no noise, and those that are all zero have no signal either."""
    found = how_much_is_real(facts([method("gradient", debiased, members=3, significant=0.0)]))
    assert found.answer.startswith("Unknown: all 3 maps of gradient are equal")
    assert found.caution


def test_twice_the_snr_takes_four_times_the_members():
    found = more_members(method("gradient", 0.5, members=16))
    assert "has an SNR of 2.00" in found.answer
    assert "Twice that SNR takes 64 members" in found.answer
    assert f"noise of 10{PERCENT} takes 400" in found.answer
    assert found.answer.startswith("Yes")
    assert more_members(method("gradient", 4.0, members=9)).answer.startswith("Hardly")


@pytest.mark.parametrize("debiased", [0.13, 0.5, 1.7])
def test_the_members_named_reach_the_target_and_one_fewer_does_not(debiased):
    count = members_for(debiased, 5.0)
    assert np.sqrt(count) * debiased >= 5.0 - 1e-9
    assert np.sqrt(count - 1) * debiased < 5.0


@pytest.mark.parametrize(("debiased", "words"), [(np.nan, "Unknown"), (0.0, "no signal"), (np.inf, "agree exactly")])
def test_more_members_at_the_edges(debiased, words):
    assert words in more_members(method("gradient", debiased)).answer


def test_warnings_name_failures_chance_and_too_few():
    found = facts(trained=(0, 1), failures={2: "loss became NaN"}, accuracy=accuracy({0: 0.9, 1: 0.1}, (1,)))
    told = list(warnings(found))
    assert len(told) == 3
    assert "Member 2" in told[0]
    assert "loss became NaN" in told[0]
    assert "member 1 (10.0" in told[1]
    assert list(warnings(facts())) == []


def test_every_question_is_answered_once_in_order():
    methods = [method("gradient", 0.5), method("smoothgrad", 0.8)]
    lead = Lead(first="smoothgrad", second="gradient", difference=Estimate(value=0.3, low=0.1, high=0.5))
    full = facts(methods, accuracy=accuracy({0: 0.9, 1: 0.9}), lead=lead, samples=samples([1.0, 0.5], [False, True]))
    found = list(findings(full, SPEC))
    words = ("trained", "accurate", "least noisy", "sure", "real", "trusted", "more members", "reproduced")
    assert all(word in finding.question for word, finding in zip(words, found, strict=True))
    assert found[-1].command == "python -m jobs.ensemble toy.yaml"
    assert "nan" not in " ".join(finding.answer for finding in found)


def test_maps_that_are_not_finite_are_counted_and_named():
    left = LeftOut(method="gradient", maps=9, total=1000, members=(3, 5), samples=(17, 40, 41, 44, 47, 60, 70))
    one = LeftOut(method="lime", maps=1, total=1000, members=(2,), samples=(9,))
    told = [each for each in findings(facts(left_out=(left, one)), SPEC) if "none of the numbers" in each.question]
    assert len(told) == 1
    assert told[0].caution
    assert told[0].answer.startswith(
        "gradient: 9 of 1000 maps are not finite (members 3 and 5; samples 17, 40, 41, 44, 47 and 2 more). "
        "lime: 1 of 1000 maps is not finite (member 2; sample 9). "
    )
    assert not [each for each in findings(facts(), SPEC) if "none of the numbers" in each.question]


def test_how_much_is_real_is_of_the_main_method_and_names_a_better_one():
    found = how_much_is_real(
        facts([method("smoothgrad", 0.8, significant=0.123), method("lime", 0.5, significant=0.4)])
    )
    assert found.answer.startswith(f"Of a map of smoothgrad, 12.3{PERCENT} of the pixels")
    assert f"Most by lime: 40.0{PERCENT}." in found.answer
    lifted = method("gradcam", 0.5, one_sign=True, significant=0.9)
    assert "Most by" not in how_much_is_real(facts([method("gradient", 0.8), lifted])).answer
    assert how_much_is_real(facts([method("gradient", 0.1, significant=0.0)])).caution
    assert "Unknown" in how_much_is_real(facts([method("gradient", np.nan, significant=np.nan)])).answer
    assert "Unknown" in how_much_is_real(facts()).answer


def test_methods_nearly_of_one_sign_are_not_ranked_either():
    found = least_noisy(facts([method("gradient", 0.5), method("gradcam", 3.0, one_sign=True)]))
    assert found.answer.startswith("gradient")
    assert "Not ranked: gradcam" in found.answer


USUAL = (0.50, 0.52, 0.51, 0.49, 0.50, 0.505, 0.495, 0.515)


def test_a_member_that_stands_out_is_named_with_its_cosine():
    first, second = method("gradient", 0.5, cosines=(*USUAL, 0.1)), method("lime", 0.5, cosines=(*USUAL, 0.5))
    found = who_differs(facts([first, second]))
    assert found.answer.startswith("Yes, member 8, by 1 of 2 methods")
    assert "the cosine of member 8 to the others' mean map is 0.10; half of the members are above 0.50" in found.answer
    assert not [each for each in findings(facts([second]), SPEC) if "stand out" in each.question]
    assert [each for each in findings(facts([first]), SPEC) if "stand out" in each.question]


def test_outliers_lie_below_three_and_a_half_scaled_deviations_and_nowhere_else():
    values = np.array(USUAL)
    median = np.median(values)
    reach = 3.5 * 1.4826 * np.median(np.abs(values - median))

    def named(value):  # a ninth member so placed changes median and deviation a little: hold the rule to its own words
        found = np.append(values, value)
        deviation = np.median(np.abs(found - np.median(found)))
        return outlying(dict(enumerate(found))).outliers, value < np.median(found) - 3.5 * 1.4826 * deviation

    for value in np.linspace(median - 3 * reach, median + 3 * reach, 41):
        outliers, expected = named(value)
        assert (8 in outliers) == expected
        assert set(outliers) <= {8}
    assert named(median - 3 * reach)[0] == (8,)
    assert named(median + 3 * reach)[0] == ()


def test_extremes_are_named_few_members_have_no_outlier_and_equal_ones_neither():
    found = outlying({4: 0.5, 7: 0.1, 9: 0.8, 2: np.nan})
    assert (found.least, found.most, found.median, found.outliers) == ((7, 0.1), (9, 0.8), 0.5, ())
    assert outlying(dict.fromkeys(range(9), 0.5)).outliers == ()
    assert outlying(dict.fromkeys(range(9), 0.5) | {8: 0.481}).outliers == ()
    assert outlying(dict.fromkeys(range(9), 0.5) | {8: 0.479}).outliers == (8,)
    assert outlying({0: 0.5}) is None
    assert outlying({0: np.nan, 1: np.nan}) is None


def test_members_needed_take_their_interval_from_the_debiased_snr():
    assert needed(Estimate(value=0.5, low=0.4, high=0.8), 2.0) == "16 (7 to 25)"
    assert needed(Estimate(value=0.5, low=np.nan, high=np.nan), 10.0) == "400"
    assert needed(Estimate(value=0.5, low=0.0, high=0.8), 2.0) == "16 (7 to more than 10,000)"
    assert needed(Estimate(value=0.05, low=0.01, high=0.1), 10.0) == "more than 10,000"
    assert needed(Estimate(value=5.0, low=4.0, high=6.0), 2.0) == "1"
    for unknown in (0.0, np.nan):
        assert needed(Estimate(value=unknown, low=unknown, high=0.3), 2.0) == DASH
    assert needed(Estimate(value=np.inf, low=np.nan, high=np.nan), 2.0) == "1"


UNTIL = parse("name: toy\nensemble: {members: 9, until: {width: 0.1, first: 5, step: 2}}")


def look(members, width, failed=()):
    return Round(members=members, value=0.6, low=0.6 - width / 2, high=0.6 + width / 2, failed=failed)


def test_an_ensemble_says_why_it_stopped():
    early = facts(looks=(look(5, 0.2), look(7, 0.09)), trained=tuple(range(7)), planned=7)
    told = trained(early, UNTIL)
    assert "Stopped at 7 of at most 9 members, since" in told
    assert f"the 95{PERCENT} interval of the mean SNR is 0.09 wide (asked: 0.1)." in told
    assert "not trained yet" not in told
    assert not next(findings(early, UNTIL)).caution


def test_an_ensemble_says_that_all_its_members_were_not_enough():
    late = facts(looks=(look(5, 0.5), look(7, 0.4), look(9, 0.3)), trained=tuple(range(9)), planned=9)
    told = stopped(late.looks, UNTIL.ensemble)
    assert told.startswith("All 9 members were not enough: ")
    assert "0.3 wide (asked: 0.1); about " in told
    assert next(findings(late, UNTIL)).caution


def test_an_ensemble_that_goes_on_says_how_far_it_is():
    going = facts(looks=(look(5, 0.2),), trained=tuple(range(6)), planned=9)
    assert stopped(going.looks, UNTIL.ensemble).startswith("Not settled yet: with 5 of at most 9 members")
    assert "At most 9 are trained" in stopped((), UNTIL.ensemble)
    assert "is not defined" in stopped((look(5, np.nan),), UNTIL.ensemble)
