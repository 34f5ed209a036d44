"""The page of SalLM: the variants beside the poster's numbers, and sentences shaded by explanation and by attention."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from salcore.figures.canvas import svg
from salcore.figures.colour import Scale
from salcore.figures.method_charts import grouped
from salcore.figures.signs import number
from salcore.figures.words import LEVELS, LIGHT, levels
from salcore.report import html
from salcore.report.findings import Finding
from salcore.report.sections import answers
from salcore.report.text_view import STYLE, shade_rule, word
from salcore.sallm.intervals import over_seeds_and_texts
from salcore.sallm.results import Sallm, tokens
from salcore.sallm.table import deviation, poster
from salcore.sallm.variants import FIRST, VANILLA
from salcore.studies.page import HEAD
from salcore.studies.row import Row, interval, verdict

SENTENCES = 8
"""Sentences that are shown."""
ABOUT = (
    "Intervals are a bootstrap over texts, with what seeds add drawn beside it; differences are paired by text and "
    "seed. Attention is what the taught layers and heads give to each token, in the mean; what a teacher marks of a "
    "text is what it teaches: the tokens that its map is greatest on. That attention finds them is the chance that a "
    "marked token has more attention than another: 0.5 by chance, whatever share is marked. No student has seen an "
    "explanation of these texts. A student and what it is compared with are held against the same explanations."
)


def build(found: Sallm, rows: Sequence[Row]) -> str:
    """One self-contained document."""
    return html.page(f"{found.spec.name}: attention taught by explanations", _body(found, rows), style=_style())


def findings(found: Sallm, rows: Sequence[Row]) -> Iterator[Finding]:
    """The answers in the order in which a stranger asks."""
    yield _finding("Do students attend to what explanations mark?", rows, "attention finds it more often", FIRST)
    yield _finding("Are they more accurate?", rows, "test accuracy above", FIRST)


def _finding(question: str, rows: Sequence[Row], what: str, name: str) -> Finding:
    chosen = [row for row in rows if what in row.what and row.what.startswith(f"{name}:")]
    if not chosen:
        return Finding(question=question, answer=f"There is no student {name} among the variants.", caution=True)
    told = "; ".join(f"{row.what.partition(': ')[2]} {number(row.ours, 3)} ({interval(row)})" for row in chosen)
    answer = {True: "Yes", False: "No", None: "Not decided"}[chosen[0].holds]
    return Finding(question=question, answer=f"{answer}: {told}.", caution=chosen[0].holds is not True)


def _body(found: Sallm, rows: Sequence[Row]) -> Iterator[str]:
    spec = found.spec
    yield f"<header><h1>{html.escape(spec.name)}</h1>"
    lead = f"{spec.model.name.partition(':')[2]} on {spec.data.name}, {spec.ensemble.members} seeds of every variant"
    yield html.paragraph(lead, "lead")
    yield "</header>"
    yield answers(findings(found, rows))
    variants = html.table(VARIANTS, _variants(found))
    yield html.section(
        "variants", "The variants", f'<div class="wraps">{variants}</div>', html.paragraph(ABOUT, "muted")
    )
    yield html.section("figures", "Accuracy and agreement", html.charts(*_figures(found)))
    yield html.section("sentences", "What they look at", _legend(found), *_sentences(found))
    numbers = html.table(HEAD, map(_cells, rows))
    yield html.section("numbers", "All numbers", f'<div class="wraps">{numbers}</div>')
    made = html.table(("run", "members", "where"), _made(found))
    yield html.section("runs", "Made from", f'<div class="wraps">{made}</div>')


VARIANTS = ("variant", "validation, %", "test, %", "95 % interval", "poster: validation", "poster: test")


def _variants(found: Sallm) -> Iterator[tuple[str, ...]]:
    known = poster(found)
    for name, each in found.all():
        validation, test = 100 * each.validation, 100 * each.right.mean(1)
        paper = known.get(name)
        ends = over_seeds_and_texts(100 * each.right)
        yield (
            name,
            f"{validation.mean():.2f} ± {deviation(validation):.2f}",
            f"{test.mean():.2f} ± {deviation(test):.2f}",
            f"{ends.low:.2f} to {ends.high:.2f}",
            "" if paper is None else f"{paper[0]:.2f} ± {paper[1]:.2f}",
            "" if paper is None else f"{paper[2]:.2f} ± {paper[3]:.2f}",
        )


def _figures(found: Sallm) -> Iterator[str]:
    names = [name for name, _ in found.all()]
    accuracy = {"test": [over_seeds_and_texts(100 * each.right) for _, each in found.all()]}
    yield html.chart(svg(grouped(names, accuracy, label="test accuracy, %"), "sallm-accuracy"), "Test accuracy")
    each = [found.agreement(name, name) for name in names]
    agreement = {
        "explanation": [over_seeds_and_texts(one.area) for one in each],
        "as many tokens at random": [over_seeds_and_texts(one.chance) for one in each],
    }
    label = "chance that a marked token has more attention"
    yield html.chart(svg(grouped(names, agreement, label=label), "sallm-agreement"), "Attention and explanations")


def _legend(found: Sallm) -> str:
    told = (
        "Sentences of the test split, every token on ground of its share: what the teacher's map says, then where the "
        "teacher and the student look. Tokens that stand for no word have no share."
    )
    return html.paragraph(told, "muted")


def _sentences(found: Sallm) -> Iterator[str]:
    """Sentences spread over the test split, by the first member of each network."""
    names = [name for name in (VANILLA, FIRST, "shuffled") if name in found.pairs]
    member = found.runs[VANILLA].members[0]
    explanation = found.explanation(VANILLA, member)
    looks = {name: found.attention_of(name, member) for name in names}
    texts = found.texts
    usual = [row for row, count in enumerate(texts.counted.sum(1).tolist()) if 8 <= count <= 30] or range(
        len(texts.rows)
    )
    for row in np.linspace(0, len(usual) - 1, min(SENTENCES, len(usual))).astype(int).tolist():
        place = usual[row]
        count = int(texts.counted[place].nonzero()[-1]) + 1
        written = tokens(found.data, texts.inputs[place, :count].numpy())
        label = found.data.classes[texts.labels[place]]
        shades = {"explanation by the teacher": explanation, **{f"attention of {name}": looks[name] for name in names}}
        figures = [_shaded(written, values[place, :count], caption) for caption, values in shades.items()]
        yield f'<h3>label {html.escape(label)}</h3><div class="strip text">{"".join(figures)}</div>'


def _shaded(written: Sequence[str], values: torch.Tensor, caption: str) -> str:
    """A sentence, its tokens on ground of their share of the greatest value."""
    greatest = float(values.max()) or 1.0
    scale = Scale(low=0, high=1, palette=LIGHT)
    marked = [
        word(each, int(level), kind="s")
        for each, level in zip(written, levels((values / greatest).numpy(), scale), strict=True)
    ]
    return html.figure(f"<p>{' '.join(marked)}</p>", caption, "")


def _style() -> str:
    scale = Scale(low=0, high=1, palette=LIGHT)
    return STYLE + "".join(shade_rule(scale, level) for level in range(1, LEVELS + 1))


def _cells(row: Row) -> tuple[str, ...]:
    return row.what, number(row.paper, 3), number(row.ours, 3), interval(row), verdict(row), row.note


def _made(found: Sallm) -> Iterator[tuple[str, ...]]:
    for name, run in found.runs.items():
        yield name, str(len(run.members)), str(run.store)
