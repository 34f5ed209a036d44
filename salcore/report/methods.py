"""The methods beside one another: how noisy, how many members that takes, and how alike members' maps are."""

import math
from collections.abc import Iterator, Sequence

from salcore.figures import canvas, charts, method_charts
from salcore.figures.signs import DASH, counted, number, percent
from salcore.report import html
from salcore.report.facts import Facts, MethodFacts
from salcore.report.left_out import listed
from salcore.report.outlying import FEWEST, LEAST, Outlying
from salcore.statistics import PAPER_MEMBERS, Estimate, members_for

WANTED = (2, 5, 10)
"""Signal-to-noise ratios of a mean map that the table of members needed is for."""
NOISE_HEAD = (
    "method", f"at {PAPER_MEMBERS} members", "debiased", "raw", "pure noise", "scale-free", "samples", "no signal",
    "residual",
)  # fmt: skip
NOISE_TOLD = (
    ("SNR", "norm of the mean map over norm of the standard deviation, mean over samples (Woerl et al., 2023, Eq. 5)"),
    ("below a number", "its 95 % interval over members (jackknife): where another ensemble of this size would lie"),
    (f"at {PAPER_MEMBERS} members", "the debiased SNR with the noise of 30 members, as in the paper's tables"),
    (
        "debiased",
        "the SNR of infinitely many members, free of the noise that averaging leaves: compare by it. The root of a "
        "ratio of means over samples, while the raw one is a mean of ratios: it may be the larger where samples differ",
    ),
    ("raw", "the SNR of this run's members as it is; it holds some noise, and more the fewer they are"),
    ("pure noise", "the raw SNR of maps that have nothing in common, 1 / √M"),
    ("scale-free", "the raw SNR where every member's map is brought to unit norm first"),
    ("no signal", "samples whose mean map is no larger than noise alone makes it"),
    ("residual", "how far a map that promises to sum to the change of the score misses it, at the most"),
)
LIKENESS_HEAD = (
    "method", "SSIM", "SSIM of pairs", "cosine", "Spearman", "same sign", "same top 5 %", "significant",
)  # fmt: skip
NULLS = ("white noise", 0.0, 0.0, 0.0, 0.0, 0.5, 0.05, "none")
LIKENESS_TOLD = (
    ("of a member's map", "to the mean map of all the other members; means over members and samples"),
    ("white noise", "what maps without signal give; noise that is smooth, or stronger at some places, gives more"),
    ("SSIM", "structural similarity: how alike local patterns are, 1 if equal"),
    ("SSIM of pairs", "the same of two single members' maps: what two people who train one network each would see"),
    ("cosine", "1 if one map is a multiple of the other, 0 if they have nothing in common"),
    ("Spearman", "correlation of the order in which the two maps rank {units}"),
    ("same sign", "share of {units} at which the member's sign is that of the others' mean"),
    ("same top 5 %", "share of the 5 % strongest {units} that the two have in common"),
    (
        "significant",
        "share of {units} that differ from zero beyond training noise: what is promised stands above the maps",
    ),
)
LIFTED = (
    "* These maps are all, or nearly all, of one sign. Noise alone lifts their SNR above 1: it cannot be compared with "
    "that of signed maps, nor with pure noise as given here."
)


def noise(facts: Facts) -> str:
    """SNR of every method as chart and table, and the members that a wanted SNR takes."""
    drawn = [method for method in facts.methods if math.isfinite(method.debiased.value)]
    pieces = [_noise_charts(drawn)] if drawn else []
    pieces += [html.table(NOISE_HEAD, map(_noise_row, facts.methods)), html.pairs(NOISE_TOLD)]
    if any(method.lifted for method in facts.methods):
        pieces.append(html.paragraph(LIFTED, "muted"))
    pieces.append("<h3>Members needed</h3>")
    pieces.append(html.table(("method", *(f"for an SNR of {snr}" for snr in WANTED)), map(_needed_row, facts.methods)))
    told = (
        "Members whose mean map has that SNR: it grows as their root, so twice the SNR takes four times the members. "
        "In brackets what the ends of the debiased SNR's interval give. A dash: no signal was found, or too little is "
        "known."
    )
    return html.section("methods", "Noise of the methods", *pieces, html.paragraph(told, "muted"))


def likeness(facts: Facts) -> str:
    """How alike members' maps are, beside maps of pure noise, and the members at the extremes."""
    drawn = [m for m in facts.methods if math.isfinite(m.at_30.value) and math.isfinite(m.alike.ssim)]
    pieces, shown = _likeness_tables(facts), []
    if drawn:
        names, ssim = [m.name for m in drawn], [m.alike.ssim for m in drawn]
        figure = method_charts.ssim_by_snr(names, [m.at_30 for m in drawn], ssim)
        caption = "A dot is a method: further right is less noisy, further up its maps look more alike."
        shown.append(html.chart(canvas.svg(figure, "ssim"), caption))
    extremes = [(method.name, method.outlying) for method in facts.methods if method.outlying is not None]
    if extremes:
        cosines, outliers = [each.cosines for _, each in extremes], [each.outliers for _, each in extremes]
        figure = charts.likeness_of_members([name for name, _ in extremes], cosines, outliers)
        caption = "A dot is a member: further right its maps are more like those of the others."
        shown.append(html.chart(canvas.svg(figure, "members"), caption))
        pieces += ["<h3>Members at the extremes</h3>", _extremes(extremes)]
    if shown:
        pieces.insert(0, html.charts(*shown))
    return html.section("likeness", "How alike members' maps are", *pieces)


def needed(debiased: Estimate, snr: float) -> str:
    """Members that an SNR of the mean map takes, with those of the interval's ends: the lower the SNR, the more.

    >>> needed(Estimate(value=0.5, low=0.4, high=0.6), 2.0), needed(Estimate(value=0.01, low=0.0, high=0.4), 2.0)
    ('16 (12 to 25)', 'more than 10,000')
    """
    value, low, high = (members_for(each, snr) for each in (debiased.value, debiased.high, debiased.low))
    if math.isnan(value) or debiased.value == 0:
        return DASH
    told = counted(value)
    if math.isnan(low) or counted(low) == counted(high) or told == counted(math.inf):
        return told
    return f"{told} ({counted(low)} to {counted(high)})"


def with_interval(estimate: Estimate) -> str:
    """A value and, on a line below, its interval."""
    if math.isnan(estimate.low):
        return number(estimate.value, 3)
    return f"{number(estimate.value, 3)}\n{number(estimate.low)} to {number(estimate.high)}"


def _noise_charts(drawn: Sequence[MethodFacts]) -> str:
    names, debiased, members = [m.name for m in drawn], [m.debiased for m in drawn], drawn[0].members
    snr = method_charts.method_snr(names, debiased, [m.snr.value for m in drawn], members)
    averaged = method_charts.mean_map_snr(names, [e.value for e in debiased], members)
    return html.charts(
        html.chart(canvas.svg(snr, "methods"), "One member's map: further right is less noisy."),
        html.chart(canvas.svg(averaged, "averaging"), "The mean map: its SNR grows as the root of the members."),
    )


def _noise_row(method: MethodFacts) -> tuple[object, ...]:
    return (
        _starred(method),
        *(with_interval(estimate) for estimate in (method.at_30, method.debiased, method.snr)),
        number(method.null), method.scale_free, method.samples, method.negatives, _residual(method.residual),
    )  # fmt: skip


def _needed_row(method: MethodFacts) -> tuple[str, ...]:
    return _starred(method), *(needed(method.debiased, snr) for snr in WANTED)


def _likeness_tables(facts: Facts) -> list[str]:
    """Numbers and what they mean."""
    places = [place for place, name in enumerate(LIKENESS_HEAD) if _has(facts, name)]
    rows = [[row[place] for place in places] for row in (NULLS, *map(_likeness_row, facts.methods))]
    told = [(name, facts.nouns.told(text)) for name, text in LIKENESS_TOLD if _has(facts, name)]
    return [html.table([LIKENESS_HEAD[place] for place in places], rows), html.pairs(told)]


def _has(facts: Facts, likeness: str) -> bool:
    """Whether a likeness is defined: SSIM is of images and of series, whose maps have two axes."""
    return facts.kind != "text" or "SSIM" not in likeness


def _likeness_row(method: MethodFacts) -> tuple[object, ...]:
    alike = method.alike
    numbers = alike.ssim, alike.ssim_pairwise, alike.cosine, alike.spearman, alike.signs, alike.top
    return (_starred(method), *numbers, percent(alike.significant))


def _extremes(found: Sequence[tuple[str, Outlying]]) -> str:
    """The members least and most like the others, and who falls out of the row."""
    head = ("method", "least like the others", "most like the others", "median cosine", "outliers")
    told = (
        "Mean cosine, over samples, of a member's maps to the mean map of the others. An outlier lies further than 3.5 "
        f"robust standard deviations (scaled median absolute deviations), and {LEAST:g} at least, below the median. "
        f"Chance alone names one in up to 1 of 10 ensembles; with fewer than {FEWEST} members none is named."
    )
    return html.table(head, _extreme_rows(found)) + html.paragraph(told, "muted")


def _extreme_rows(found: Sequence[tuple[str, Outlying]]) -> Iterator[tuple[object, ...]]:
    for name, each in found:
        ends = (f"member {member} ({number(cosine)})" for member, cosine in (each.least, each.most))
        yield name, *ends, each.median, listed("member", each.outliers) if each.outliers else "none"


def _starred(method: MethodFacts) -> str:
    return f"{method.name} *" if method.lifted else method.name


def _residual(value: float) -> str:
    """Largest completeness residual; a dash where the method promises none."""
    return DASH if value is None or math.isnan(value) else f"{value:.1e}"
