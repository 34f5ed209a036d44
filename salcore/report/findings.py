"""The answers at the top of a page, as plain sentences that follow from numbers and from nothing else."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from salcore import until
from salcore.figures.signs import PERCENT, ROOT_M, TIMES, counted, number, percent
from salcore.report import copied
from salcore.report.accuracy import Accuracy
from salcore.report.facts import Facts, MethodFacts, Samples, ranked
from salcore.report.left_out import LeftOut, listed
from salcore.report.stopping import stopped
from salcore.statistics import Estimate, mean_map_snr, members_for

if TYPE_CHECKING:
    from salcore.spec import Spec

CLEAN = 0.1
"""Share of noise in a mean map below which more members change little that is seen."""

UNDEFINED = "Unknown: no SNR is defined. It takes finite maps of 2 members at least, not all zero."


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A question a reader comes with, its answer (to be wary of, with `caution`), and what to type."""

    question: str
    answer: str
    caution: bool = False
    command: str = ""


def findings(facts: Facts, spec: "Spec", sizes: str = "") -> Iterator[Finding]:
    """The answers in the order in which a stranger asks. `sizes` describes the data set, where it could be had."""
    answer = trained(facts, spec, sizes)
    unreached = until.unreached(facts.looks, spec.ensemble) is not None
    caution = bool(facts.failures) or unreached
    yield Finding(question="What was trained, on what?", answer=answer, caution=caution)
    yield how_accurate(facts.accuracy, len(facts.trained))
    yield least_noisy(facts)
    yield how_sure(facts)
    yield how_much_is_real(facts)
    if any(method.outlying and method.outlying.outliers for method in facts.methods):
        yield who_differs(facts)
    if facts.left_out:
        yield unusable(facts.left_out)
    if facts.samples is not None:
        yield distrust(facts.samples)
        main = next(method for method in facts.methods if method.name == facts.main)
        yield more_members(main)
    yield reproduced(facts, spec)


def trained(facts: Facts, spec: "Spec", sizes: str = "") -> str:
    """Members, network and data in two sentences."""
    training, count = spec.training, len(facts.trained)
    objective = "saliency guided training" if training.objective == "guided" else "standard training"
    if spec.ensemble.weights:
        how = f"{_members(count)} of {spec.model.name} from trained weight files"
    elif training.epochs == 0:
        how = f"{_members(count)} of {spec.model.name}, untrained"
    else:
        epochs = f"{training.epochs} epoch{'s' * (training.epochs != 1)}"
        how = f"{_members(count)} of {spec.model.name}, {epochs} of {objective} each"
    lost = facts.planned - count - len(facts.failures)
    rest = f" {_members(len(facts.failures))} failed." if facts.failures else ""
    if spec.ensemble.until is not None:
        rest += f" {stopped(facts.looks, spec.ensemble)}"
    elif lost > 0 and facts.lender is None:
        rest += f" {_members(lost)} of the {facts.planned} planned not trained yet."
    samples = f"{spec.data.name}{sizes}"
    told = f"on {samples}" if facts.lender is None else copied.explained(facts.lender, samples)
    return f"{how}, {told}. They differ {varied(spec)}.{rest}"


def varied(spec: "Spec") -> str:
    """What differs between members, in words: of what the spec varies, only what this training draws at all."""
    training = spec.training
    drawn = {
        "init": "initial weights",
        "order": "the order of batches",
        "augment": "augmentation" if training.augment.crop or training.augment.flip else "",
        "model": "the network's own randomness",
        "masking": "masking" if training.objective == "guided" else "",
    }
    named = [words for purpose, words in drawn.items() if words and purpose in spec.ensemble.vary]
    if not named:
        return "in nothing: every seed is shared"
    return "in the seeds of " + (named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}")


def how_accurate(accuracy: Accuracy | None, members: int) -> Finding:
    """Members' accuracies, the ensemble's, and who is at chance."""
    question = "How accurate are they?"
    if accuracy is None:
        return Finding(question=question, answer="Unknown: the explained samples have no labels.")
    shares = list(accuracy.members.values())
    single = f"{percent(shares[0])} of {accuracy.samples} evaluation samples are classified rightly."
    if members < 2:
        answer = single
    else:
        answer = (
            f"A member is right on {percent(float(np.mean(shares)))} of {accuracy.samples} evaluation samples on "
            f"average (lowest {percent(min(shares))}, highest {percent(max(shares))}); the ensemble on "
            f"{percent(accuracy.ensemble.value)}{_between(accuracy.ensemble, share=True)}."
        )
    if accuracy.at_chance:
        answer += f" No better than guessing ({percent(accuracy.guessing)}): {listed('member', accuracy.at_chance)}."
    if not accuracy.tells_chance:
        told = "Too few samples outside the largest class to tell a member from guessing"
        answer += f" {told} ({percent(accuracy.guessing)})."
    return Finding(question=question, answer=answer, caution=bool(accuracy.at_chance))


def least_noisy(facts: Facts) -> Finding:
    """The method of highest debiased SNR, and what that number means."""
    question = "Which method is least noisy?"
    order = ranked(facts.methods)
    if not order:
        return Finding(question=question, answer=UNDEFINED, caution=True)
    best = order[0]
    answer = f"{best.name}: debiased SNR {number(best.debiased.value)}{_between(best.debiased)}. {_meaning(best)} "
    answer += "Least noisy means most repeatable, not most right."
    others = [method for method in facts.methods if method.lifted and method is not best]
    if others:
        names = ", ".join(method.name for method in others)
        answer += f" Not ranked: {names}, whose maps are nearly all of one sign, so that noise alone lifts their SNR."
    return Finding(question=question, answer=answer)


def how_sure(facts: Facts) -> Finding:
    """Whether the two best methods can be told apart: the paired jackknife interval of their difference."""
    question = "How sure is that?"
    if facts.lead is None:
        return Finding(question=question, answer="There is only one method to rank.")
    lead, order = facts.lead, ranked(facts.methods)
    gap = lead.difference
    if math.isinf(order[0].debiased.value):
        return Finding(question=question, answer=f"As sure as can be: all members' maps by {lead.first} are equal.")
    if not math.isfinite(gap.low):
        return Finding(question=question, answer="Too few members for an interval: 3 are needed.", caution=True)
    told = f"{lead.first} leads {lead.second} by {number(gap.value)} (95{PERCENT} interval {_range(gap)}, over members)"
    sure = gap.low > 0
    verdict = (
        "so the two can be told apart" if sure else "an interval that holds 0: these members cannot tell the two apart"
    )
    uneven = order[0].samples != order[1].samples
    note = f" They explain different numbers of samples ({order[0].samples} and {order[1].samples})." if uneven else ""
    few = " With so few members the interval itself is rough." if order[0].members < 5 else ""
    return Finding(question=question, answer=f"{told}: {verdict}.{note}{few}", caution=not sure)


def how_much_is_real(facts: Facts) -> Finding:
    """The share of a map that differs from zero beyond training noise, by the main method and the best one."""
    question = "How much of a map is real?"
    main = next((method for method in facts.methods if method.name == facts.main), None)
    if main is None or math.isnan(share := main.alike.significant):
        answer = "Unknown: it takes finite maps of 2 members at least."
        return Finding(question=question, answer=answer, caution=True)
    if not math.isfinite(main.debiased.value):
        answer = f"Unknown: all {main.members} maps of {main.name} are equal, and without noise nothing is tested."
        return Finding(question=question, answer=answer, caution=True)
    # An offset that all maps share makes all of a map significant: methods of one sign are not compared.
    signed = (method for method in facts.methods if not method.lifted and not math.isnan(method.alike.significant))
    best = max(signed, key=lambda method: method.alike.significant, default=main)
    answer = (
        f"Of a map of {main.name}, {percent(share)} of the {facts.nouns.long} differ from zero beyond the noise "
        f"of {main.members} training runs (mean over samples)."
    )
    if best.alike.significant > share:
        answer += f" Most by {best.name}: {percent(best.alike.significant)}."
    answer += " In each map at most 1 in 20 of them is expected to be false; more members find more."
    return Finding(question=question, answer=answer, caution=share == 0)


def who_differs(facts: Facts) -> Finding:
    """The members whose maps are far less like the others' than is usual among them."""
    found = {each.name: each.outlying for each in facts.methods if each.outlying and each.outlying.outliers}
    members = sorted({member for each in found.values() for member in each.outliers})
    name, worst = min(found.items(), key=lambda each: each[1].least[1] - each[1].median)
    answer = (
        f"Yes, {listed('member', members)}, by {len(found)} of {len(facts.methods)} methods: the maps are much less "
        f"like the others' than is usual here. By {name}, the cosine of member {worst.least[0]} to the others' mean "
        f"map is {number(worst.least[1])}; half of the members are above {number(worst.median)}."
    )
    return Finding(question="Does any member stand out?", answer=answer, caution=True)


def unusable(left_out: tuple[LeftOut, ...]) -> Finding:
    """Which maps hold NaN or infinity, and what became of them."""
    answer = ". ".join(map(str, left_out))
    answer += ". They hold NaN or infinity. Each sample's numbers are over the members that are left for it."
    return Finding(question="Which maps are in none of the numbers?", answer=answer, caution=True)


def distrust(samples: Samples) -> Finding:
    """How many samples have a mean map that is mostly noise, and which are worst."""
    question = "Which samples' maps are not to be trusted?"
    defined, noisy = ~np.isnan(samples.snr), np.isfinite(samples.snr)
    if not defined.any():
        return Finding(question=question, answer=UNDEFINED, caution=True)
    drowned, total = int(samples.drowned[defined].sum()), int(defined.sum())
    if not noisy.any():
        return Finding(question=question, answer=f"None of {total}: all members' maps by {samples.method} are equal.")
    lowest = [int(samples.sample[i]) for i in np.argsort(samples.snr, kind="stable") if noisy[i]][:3]
    worst = f"The lowest SNR ({samples.method}) {'have' if len(lowest) > 1 else 'has'} {listed('sample', lowest)}."
    if drowned:
        those = "it" if drowned == 1 else "those"
        share = f"{drowned} of {total} samples ({percent(drowned / total)})"
        answer = f"In {share} the noise left in the mean map outweighs its signal: distrust {those}. {worst}"
    else:
        answer = f"None of {total} stands out: in every mean map the signal outweighs the noise that is left. {worst}"
    return Finding(question=question, answer=answer, caution=drowned > 0)


def more_members(method: MethodFacts) -> Finding:
    """What more members would bring: the noise left in a mean map falls as 1 / sqrt(M)."""
    question = "Would more members help?"
    debiased, members = method.debiased.value, method.members
    if math.isnan(debiased):
        return Finding(question=question, answer=UNDEFINED, caution=True)
    if debiased == 0:
        answer = f"Unknown: no signal was found in {method.name} with {members} members, only noise."
        return Finding(question=question, answer=answer, caution=True)
    if math.isinf(debiased):
        return Finding(question=question, answer=f"No: {_members(members)} agree exactly, there is no noise to remove.")
    left = 1 / (mean_map_snr(debiased, members))
    target = members_for(debiased, 2 * mean_map_snr(debiased, members))
    told = (
        f"The mean map of {members} members ({method.name}) has an SNR of {number(1 / left)} "
        f"({ROOT_M} {TIMES} debiased): noise of {percent(left)} of the signal is left in it. "
        f"Twice that SNR takes {counted(target)} members"
    )
    if left <= CLEAN:
        return Finding(question=question, answer=f"Hardly. {told}.")
    clean = members_for(debiased, 1 / CLEAN)
    return Finding(
        question=question,
        answer=f"Yes. {told}, noise of {number(100 * CLEAN, 0)}{PERCENT} takes {counted(clean)}.",
        caution=left > 1,
    )


def reproduced(facts: Facts, spec: "Spec") -> Finding:
    """The command that makes the same run again."""
    question = "How is it reproduced?"
    if facts.lender is not None:
        answer, command = copied.how_again(spec, facts.lender), copied.again(spec, facts.lender)
        return Finding(question=question, answer=answer, command=command)
    answer = (
        f"With the spec at the end of this page saved as {spec.name}.yaml. On the same kind of hardware it gives the "
        "same weights and statistics, bit for bit."
    )
    command = f"python -m jobs.ensemble {spec.name}.yaml"
    return Finding(question=question, answer=answer, command=command)


def warnings(facts: Facts) -> Iterator[str]:
    """What a reader must see before any number: failures, members at chance, too few members."""
    for member, reason in facts.failures.items():
        yield f"Member {member} failed and is in none of the numbers: {reason}"
    if facts.accuracy is not None and facts.accuracy.at_chance:
        shares: Mapping[int, float] = facts.accuracy.members
        told = ", ".join(f"{m} ({percent(shares[m])})" for m in facts.accuracy.at_chance)
        yield f"At chance, so their maps explain nothing learned and count as noise: member {told}."
    if len(facts.trained) < 3:
        yield f"{_members(len(facts.trained))}: intervals over members need at least 3, noise itself at least 2."


def _meaning(method: MethodFacts) -> str:
    value = method.debiased.value
    if value == 0:
        return "No signal is seen above the noise of the seeds."
    if math.isinf(value):
        return "All members' maps are equal."
    if value < 1:
        return f"A single map of it is {number(1 / value)} times more noise of its training run than signal."
    return f"In a single map of it the signal is {number(value)} times the noise of its training run."


def _members(count: int) -> str:
    return f"{count} member{'s' * (count != 1)}"


def _between(estimate: Estimate, *, share: bool = False) -> str:
    if not math.isfinite(estimate.low):
        return ""
    shown = f"{percent(estimate.low)} to {percent(estimate.high)}" if share else _range(estimate)
    return f" (95{PERCENT} interval {shown}, over members)"


def _range(estimate: Estimate) -> str:
    return f"{number(estimate.low)} to {number(estimate.high)}"
