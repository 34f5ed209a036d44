"""The page of parameter-space saliency, answers first."""

from collections.abc import Iterator

import numpy as np

from salcore.blame import agreement, figures, numbers
from salcore.blame.cases import cases
from salcore.blame.galleries import galleries
from salcore.blame.numbers import MEASURES, MODE_NAMES, TUNED
from salcore.blame.results import Blame
from salcore.figures.canvas import BLUE, MUTED, RED, svg
from salcore.figures.signs import chance, number, percent
from salcore.report import html
from salcore.report.findings import Finding
from salcore.report.sections import answers, interval
from salcore.statistics import Estimate

SOURCE = "Where do Models go Wrong? Parameter-Space Saliency Maps for Explainability (Levin et al., 2021)"


def build(blame: Blame) -> str:
    """One self-contained document."""
    name = blame.run.spec.name
    return html.page(f"{name}: which filters are to blame", _body(blame))


def findings(blame: Blame) -> Iterator[Finding]:
    """The answers in the order in which a stranger asks."""
    yield _mistakes(blame)
    yield _salience(blame)
    if "pruning" in blame.parameters.experiments:
        yield from _pruning(blame)
    if "neighbours" in blame.parameters.experiments:
        yield _neighbours(blame)
    if "finetuning" in blame.parameters.experiments:
        yield _finetuning(blame)
    if "masking" in blame.parameters.experiments:
        yield _masking(blame)
    if len(blame.members) > 1:
        yield _stable(blame)


def _body(blame: Blame) -> Iterator[str]:
    yield f"<header><h1>{html.escape(blame.run.spec.name)}: which filters are to blame?</h1>"
    yield html.paragraph(SOURCE, "lead")
    yield "</header>"
    yield answers(findings(blame))
    yield _profiles(blame)
    if "pruning" in blame.parameters.experiments:
        yield _pruning_curves(blame)
    if "neighbours" in blame.parameters.experiments:
        yield galleries(blame)
    if "finetuning" in blame.parameters.experiments:
        yield _tuning_curves(blame)
    if "masking" in blame.parameters.experiments:
        yield cases(blame)
    if len(blame.members) > 1:
        yield _agreement(blame)


def _mistakes(blame: Blame) -> Finding:
    parameters = blame.parameters
    wrong = {
        member: (int(found.wrong.sum()), len(found))
        for member in blame.members
        for found in [blame.profiles(parameters.held_out, member)]
    }
    counts = [count for count, _ in wrong.values()]
    samples = next(iter(wrong.values()))[1]
    studied = min(max(counts), parameters.mistakes or max(counts))
    ends = str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    told = (
        f"{len(blame.filters):,} filters in {len(blame.filters.layers)} layers. On the {samples} {parameters.held_out} "
        f"samples a member makes {ends} mistakes, of which up to {studied} are studied; the {parameters.independent} "
        "samples are where neighbours are searched."
    )
    return Finding(question="What was looked at?", answer=told)


def _salience(blame: Blame) -> Finding:
    more, deep = numbers.salience(blame), numbers.depth(blame)
    deeper = _verdict(deep, "They are deeper", "They are not deeper", "Whether they are deeper is open")
    told = (
        f"{_verdict(more)}: mean standardised profile of wrong samples less that of right ones, {_with(more)}. "
        f"{deeper}: deep half of the layers less early half, wrong less right, {_with(deep)}."
    )
    return Finding(question="Do mistakes make filters salient?", answer=told, caution=not more.low > 0)


def _pruning(blame: Blame) -> Iterator[Finding]:
    budgets = blame.parameters.pruned
    for mode in MODE_NAMES:
        incorrect, corrected = (numbers.pruned(blame, mode, measure) for measure in ("incorrect", "corrected"))
        gain = (incorrect["most"] - incorrect["random"]).average()
        means = {choice: [each.value for each in rows.mean()] for choice, rows in corrected.items()}
        best = {choice: int(np.argmax(values)) for choice, values in means.items()}
        told = (
            f"{_verdict(gain, sign=-1)}: with {budgets[-1]} filters off the incorrect class's confidence changes by "
            f"{_with(incorrect['most'].mean()[-1])} for the most salient, {_with(incorrect['random'].mean()[-1])} for "
            f"random ones, and over all numbers of filters by {_with(gain)} more. At best "
            f"{percent(means['most'][best['most']])} of the mistakes are corrected, with "
            f"{budgets[best['most']]} filters off ({percent(means['random'][best['random']])} with "
            f"{budgets[best['random']]} random ones; difference "
            f"{_with(numbers.gain_at_best(corrected['most'], corrected['random']))})."
        )
        question = f"Does turning salient filters off mend mistakes more than others? ({mode})"
        yield Finding(question=question, answer=told, caution=not gain.high < 0)


def _neighbours(blame: Blame) -> Finding:
    shared = numbers.neighbours_share_pair(blame)["all"]
    told = (
        f"{_verdict(shared.beyond)}: {percent(shared.neighbours.value)} of a mistake's {blame.parameters.neighbours} "
        f"nearest neighbours were mistaken between the same two classes; of all {blame.parameters.independent} samples "
        f"{percent(shared.chance)} are, of all mistakes among them {percent(shared.of_mistakes)}."
    )
    return Finding(question="Are neighbours mistaken alike?", answer=told, caution=not shared.beyond.low > 0)


def _finetuning(blame: Blame) -> Finding:
    budgets = blame.parameters.tuned
    choices, network = numbers.tuned(blame, "neighbours_corrected")
    gain = (choices["most"] - choices["random"]).average()
    told = (
        f"{_verdict(gain)}: one step on the {budgets[-1]} most salient filters for one mistake corrects "
        f"{percent(choices['most'].mean()[-1].value)} of its neighbours, on random filters "
        f"{percent(choices['random'].mean()[-1].value)} (over all numbers of "
        f"filters {_with(gain)} more), on the whole network {percent(network.mean()[0].value)}."
    )
    return Finding(question="Does mending one mistake mend those like it?", answer=told, caution=not gain.low > 0)


def _masking(blame: Blame) -> Finding:
    tests = numbers.masking_tests(blame)
    told = "; ".join(
        f"{name}: correct class {_signed(test.true.value)} (p {chance(test.true_p)}), "
        f"incorrect class {_signed(test.incorrect.value)} (p {chance(test.incorrect_p)})"
        for name, test in tests.items()
    )
    more = numbers.masking_contrast(blame)
    told += (
        f"; salient less random: correct {_signed(more.true.value)} (p {chance(more.true_p)}), incorrect "
        f"{_signed(more.incorrect.value)} (p {chance(more.incorrect_p)})"
    )
    where = "outside the object's box" if blame.has_boxes else "anywhere, as no boxes are given"
    return Finding(
        question="Do the pixels that drive salient filters drive the mistake?",
        answer=f"Masking {percent(blame.parameters.masked)} of the pixels {where}. {told}.",
        caution=not more.incorrect.high < 0,
    )


def _stable(blame: Blame) -> Finding:
    question = "Is the same to blame in every member?"
    layers = agreement.layers(blame)
    if not layers.shared:
        return Finding(question=question, answer="Unknown: no two members make the same mistake.", caution=True)
    told = (
        f"On the mistakes that two members share their profiles correlate over layers by {number(layers.same)} "
        f"({number(layers.different)} for different mistakes)."
    )
    if blame.has("neighbours"):
        lists = agreement.neighbours(blame)
        told += (
            f" They have {percent(lists.same)} of a mistake's neighbours in common ({percent(lists.different)} for "
            "different mistakes)."
        )
    return Finding(question=question, answer=told)


def _profiles(blame: Blame) -> str:
    charts = [
        ("raw", MUTED, "mean gradient", "Mean over the held-out samples, as it is (Fig. 1).", True),
        ("right", BLUE, "standardised", "Standardised, mean over correctly classified samples (Fig. 2, top).", False),
        ("wrong", RED, "standardised", "Standardised, mean over misclassified samples (Fig. 2, bottom).", False),
    ]
    drawn = [
        html.chart(
            svg(figures.profile(blame, name, colour, label, logarithmic=log), f"profile-{name}"), caption, wide=True
        )
        for name, colour, label, caption, log in charts
    ]
    note = (
        "Every layer is as wide as any other, shallow ones left, its filters in descending order. Standardised: how "
        "many deviations a filter's gradient lies above its mean over the held-out samples. These are the samples "
        "shown, so the mean over all is zero, and that over right samples mirrors that over wrong ones."
    )
    return html.section("profiles", "Profiles by layer", html.paragraph(note, "muted"), *drawn)


def _pruning_curves(blame: Blame) -> str:
    pieces = []
    for mode, told in MODE_NAMES.items():
        drawn = []
        for measure, label in MEASURES.items():
            series = {choice: rows.mean() for choice, rows in numbers.pruned(blame, mode, measure).items()}
            figure = figures.curves(blame.parameters.pruned, series, numbers.unit(measure), total=len(blame.filters))
            drawn.append(html.chart(svg(figure, f"pruning-{mode}-{measure}"), label))
        pieces += [f"<h3>{html.escape(mode)}</h3>", html.paragraph(told, "muted"), html.charts(*drawn)]
    note = "Means over all mistakes studied, with 95 % bootstrap intervals over samples (Fig. 3)."
    return html.section("pruning", "Turning filters off", html.paragraph(note, "muted"), *pieces)


def _tuning_curves(blame: Blame) -> str:
    drawn = []
    for measure, label in TUNED.items():
        choices, network = numbers.tuned(blame, measure)
        series = {choice: rows.mean() for choice, rows in choices.items()}
        reference = network.mean()[0]
        figure = figures.curves(
            blame.parameters.tuned, series, numbers.unit(measure), reference=reference, total=len(blame.filters)
        )
        drawn.append(html.chart(svg(figure, f"tuning-{measure}"), label))
    note = (
        f"One step of gradient descent on one mistake, of length {blame.parameters.step:g} times the norm of all "
        "filters' weights whatever is stepped on; its neighbours are mistakes of the independent split (Fig. 6)."
    )
    return html.section("finetuning", "Fine-tuning on one sample", html.paragraph(note, "muted"), html.charts(*drawn))


def _agreement(blame: Blame) -> str:
    found = [("layers (correlation)", agreement.layers(blame))]
    if blame.has("neighbours"):
        found.append(("neighbours (share in common)", agreement.neighbours(blame)))
    names, values = zip(*found, strict=True)
    figure = figures.agreement(
        names, [v.same for v in values], [v.different for v in values], "how alike two members are"
    )
    note = (
        "Filters of different members do not correspond, so members are compared by what does: how a mistake's profile "
        "spreads over layers, and which samples are its neighbours. How alike their maps of the pixels that drive the "
        "salient filters are stands in the run's report, with those of the other methods."
    )
    drawn = html.chart(svg(figure, "agreement"), f"Means over {values[0].shared} mistakes that two members share.")
    return html.section("members", "Is the same to blame in every member?", html.paragraph(note, "muted"), drawn)


def _verdict(
    estimate: Estimate, yes: str = "Yes", no: str = "No", undecided: str = "Not told apart", *, sign: int = 1
) -> str:
    """Which of three holds: the whole interval lies on the side of `sign`, on the other, or on both."""
    ends = sign * estimate.low, sign * estimate.high
    return yes if min(ends) > 0 else no if max(ends) < 0 else undecided


def _with(estimate: Estimate) -> str:
    return f"{_signed(estimate.value)} ({interval(estimate)})"


def _signed(value: float) -> str:
    return number(value, 3)
