"""What was run, how long it took, and how to run it again."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from pydantic import RootModel

from salcore import layout
from salcore.report import copied, html
from salcore.report.facts import Facts
from salcore.report.views import View
from salcore.spec import MethodSpec
from salcore.storage import Store

if TYPE_CHECKING:
    from salcore.runs import Run

PACKAGES = ("torch", "torchvision", "numpy", "pyarrow", "ray", "mlflow")
STAGES = {"train": "training", "explain": "explaining", "reduce": "reducing", "report": "this report"}


def what_was_run(run: "Run", facts: Facts, view: View) -> str:
    """Spec in short, sizes, fingerprints, versions, times."""
    spec = run.spec
    rows = [
        ("network", _settings(spec.model.name, spec.model.settings)),
        ("data", f"{spec.data.name}{described(view)}"),
        ("training", _training(run)),
        ("methods", "; ".join(_settings(m.folder, _method(m)) for m in spec.attribution.methods)),
        ("explained class", str(spec.attribution.target)),
        ("root seed", f"{spec.ensemble.root_seed}; members differ by: {', '.join(spec.ensemble.vary) or 'nothing'}"),
        *((("members", f"copied from the run {facts.lender}"),) if facts.lender else ()),
        *((f"fingerprint: {name}", value) for name, value in run.fingerprints.items()),
        ("versions", versions(run)),
        ("run directory", str(run.store)),
    ]
    times = stage_times(run.store)
    notes = () if view.inputs.data is None else view.inputs.data.notes
    pieces = [html.pairs(rows), *(html.paragraph(note, "muted") for note in notes)]
    if times:
        pieces.append(
            html.pairs((f"time: {STAGES.get(name, name)}", duration(seconds)) for name, seconds in times.items())
        )
    seeds = [(m, *(run.record(m)["seeds"].values())) for m in facts.trained[:100]]
    if seeds:
        names = list(run.record(facts.trained[0])["seeds"])
        pieces.append(html.details("Seeds of the members", html.table(("member", *names), seeds)))
    return html.section("run", "What was run", *pieces)


def described(view: View) -> str:
    """Sizes of the data set's parts that hold samples, in brackets; nothing where it could not be had."""
    if (data := view.inputs.data) is None:
        return ""
    sizes = {"training": len(data.train), "validation": len(data.validation), "evaluation": len(data.evaluation)}
    parts = ", ".join(f"{size:,} {part}" for part, size in sizes.items() if size)
    return f" ({parts} {view.described(data)}, {len(data.classes)} classes)"


def reproduce(run: "Run", facts: Facts) -> str:
    """Commands that make the same run again, make it larger if it trains its members, and open it."""
    if facts.lender is None:
        commands = _larger(run)
    else:
        commands = f"# the same members on the same samples, elsewhere\n{copied.again(run.spec, facts.lender)}"
    commands += f'\n\n# in a notebook\nimport salcore\nrun = salcore.open("{run.store}")\nrun.mean("{run.methods[0]}")'
    text = run.store.read(layout.SPEC).decode()
    return html.section(
        "reproduce",
        "How to reproduce it",
        html.code(commands),
        html.details(f"The whole {layout.SPEC}, for whom the directory is out of reach", html.code(text)),
    )


def _larger(run: "Run") -> str:
    """Commands that train the same members again, and twice as many."""
    directory, twice = str(run.store), f"ensemble.members={2 * run.planned}"
    twice += " ensemble.until=null" if run.spec.ensemble.until else ""
    return (
        f"# the same run again, elsewhere: the same weights, bit for bit, on the same kind of hardware\n"
        f"python -m jobs.ensemble {directory}/{layout.SPEC} --run-dir {run.spec.name}_again\n\n"
        f"# twice the members, in this directory: only the new ones are trained\n"
        f"python -m jobs.ensemble {directory}/{layout.SPEC} {twice} --run-dir {directory}"
    )


class _Times(RootModel[dict[str, float]]):
    pass


def stage_times(store: Store) -> dict[str, float]:
    """Seconds by stage, as far as they were recorded, in the order in which they run. Raises Damaged."""
    found = store.read_as(layout.STAGES, _Times).root if store.exists(layout.STAGES) else {}
    order = [*STAGES, *found]
    return dict(sorted(found.items(), key=lambda stage: order.index(stage[0])))


def duration(seconds: float) -> str:
    """Seconds as a person would say them.

    >>> duration(8.04), duration(75), duration(7380)
    ('8.0 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def versions(run: "Run") -> str:
    """Versions of what made this page, and of the torch that trained the members."""
    found = [f"salcore {version_of('salcore')}", f"Python {platform.python_version()}"]
    found += [f"{name} {version_of(name)}" for name in PACKAGES if version_of(name)]
    trained = sorted({run.record(member)["torch"] for member in run.members[:100]})
    return ", ".join(found) + (f"; members trained with torch {', '.join(trained)}" if trained else "")


def version_of(package: str) -> str:
    """Version of an installed package, empty if it is not; this one's from its source."""
    if package == "salcore":
        from salcore import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _training(run: "Run") -> str:
    t = run.spec.training
    if run.spec.ensemble.weights:
        return "none: trained weight files"
    rate = f"{t.schedule} up to {t.learning_rate:g}"
    told = f"{t.epochs} epochs in batches of {t.batch_size}, {t.optimizer}, {rate}, {t.precision}"
    if t.objective == "guided":
        told += f"; saliency guided: k = {t.guidance.mask_fraction:g}, λ = {t.guidance.weight:g}"
    return told


def _method(method: MethodSpec) -> dict[str, object]:
    settings = dict(method.settings)
    if method.folder != method.name:
        settings = {"method": method.name, **settings}
    return settings


def _settings(name: str, settings: dict[str, object]) -> str:
    told = ", ".join(f"{key} {value}" for key, value in settings.items())
    return f"{name} ({told})" if told else name
