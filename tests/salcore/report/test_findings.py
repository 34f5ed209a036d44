import numpy as np
import pytest

from salcore.figures.signs import PERCENT
from salcore.report.accuracy import Accuracy
from salcore.report.facts import Facts, Lead, MethodFacts, Samples, main_method, ranked
from salcore.report.findings import (
    distrust,
    findings,
    how_accurate,
    how_sure,
    least_noisy,
    members_for,
    more_members,
    trained,
    varied,
    warnings,
)
from salcore.report.left_out import LeftOut
from salcore.spec import parse
from salcore.statistics import Estimate

UNKNOWN = Estimate(value=np.nan, low=np.nan, high=np.nan)
SPEC = parse("name: toy\nensemble: {members: 10}\ntraining: {epochs: 3}")


def method(name, debiased, *, members=10, samples=100, non_negative=False):
    estimate = Estimate(value=debiased, low=debiased - 0.1, high=debiased + 0.1)
    same = dict.fromkeys(("at_30", "scale_free"), debiased) | dict.fromkeys(("snr", "debiased"), estimate)
    rest = {"ssim": 0.5, "negatives": 0, "null": members**-0.5, "residual": np.nan, "non_negative": non_negative}
    return MethodFacts(name=name, members=members, samples=samples, **same, **rest)


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
    words = ("trained", "accurate", "least noisy", "sure", "trusted", "more members", "reproduced")
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
