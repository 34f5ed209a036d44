"""The report of a run: one self-contained HTML page."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from salcore.errors import UserError
from salcore.figures.inputs import load_inputs
from salcore.report import html, methods, provenance, sections
from salcore.report.facts import Facts, gather
from salcore.report.findings import findings, warnings
from salcore.report.views import View, view_of

if TYPE_CHECKING:
    from salcore.runs import Run


def build(run: "Run") -> str:
    """The page of a reduced run, answers first.

    Raises ValueError if no member is trained or no method is reduced, UserError for statistics of an older version.
    """
    if not run.methods:
        raise ValueError(f"`run`: expected statistics of at least one method, found none in {run.store}")
    if "significant_share" not in run.summary.column_names:
        raise UserError("RUN", "statistics of this version (python -m jobs.reduce RUN makes them)", str(run.store))
    view, title = view_of(load_inputs(run)), f"{run.spec.name}: which parts of the explanations are real"
    return html.page(title, _body(run, gather(run), view), view.style)


def _body(run: "Run", facts: Facts, view: View) -> Iterator[str]:
    assert facts.samples is not None, "a run with methods has samples"
    yield f"<header><h1>{html.escape(run.spec.name)}</h1>"
    yield html.paragraph(
        "Saliency maps of an ensemble: what in them is signal, and what is noise of the training run.", "lead"
    )
    yield html.joined(html.paragraph(text, "warning") for text in warnings(facts))
    yield "</header>"
    yield sections.answers(findings(facts, run.spec, provenance.described(view)))
    yield _contents()
    yield sections.samples(run, facts, view)
    yield sections.distrusted(facts.samples, view)
    yield methods.noise(facts)
    yield methods.likeness(facts)
    yield sections.convergence(run, facts)
    yield sections.classes(run, facts, view.inputs.classes)
    yield sections.accuracies(run, facts)
    yield provenance.what_was_run(run, facts, view)
    yield provenance.reproduce(run, facts)


def _contents() -> str:
    named = {
        "samples": "Maps", "distrust": "Samples to distrust", "methods": "Noise of the methods",
        "likeness": "How alike maps are", "convergence": "Convergence",
        "classes": "Classes", "accuracy": "Accuracy", "run": "What was run", "reproduce": "How to reproduce it",
    }  # fmt: skip
    links = " · ".join(f'<a href="#{name}">{title}</a>' for name, title in named.items())
    return f"<nav>{links}</nav>"
