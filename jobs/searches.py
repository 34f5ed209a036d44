"""From a command to a checked search: its trials, what may not change in its directory, and what is told of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from cluster.proposals import propose
from jobs.command import Command
from jobs.outlook import describe, estimate, map_shapes
from jobs.prepare import Plan, prepare, resolved
from salcore import layout, members
from salcore.data import Data
from salcore.errors import UserError
from salcore.faithfulness import MEASURES
from salcore.figures import png
from salcore.objectives import fill_for
from salcore.search import Outcome, Record, Schedule, Trial, method_of, record
from salcore.search.heat_map import heat_map, title
from salcore.search.page import build
from salcore.search.record import METRICS
from salcore.search.settings import Setting, at, spec_of
from salcore.search.table import table
from salcore.spec import AttentionSpec, Between, GuidanceSpec, Spec, fingerprints, parse
from salcore.training import check_attention

TABLE, MAP = "search.parquet", "report/heat_map.png"
ARTIFACTS = (layout.SPEC, TABLE, layout.CHOSEN, MAP, layout.REPORT)
"""What a search's page in MLflow carries."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A checked search: its trials in order, and the plan that they share but for k and lambda."""

    plan: Plan
    schedule: Schedule

    @property
    def spec(self) -> Spec:
        """The search's spec, with every default written out."""
        return self.plan.spec

    @property
    def fingerprint(self) -> str:
        """What the search's directory is known by."""
        return members.fingerprint(self.plan.fingerprint, made_of(self.spec))

    def begin(self, trial: Trial) -> None:
        """Write a trial's spec.yaml, and take away what an earlier one of other members came to."""
        plan = replace(
            self.plan,
            spec=trial.spec,
            store=trial.store,
            members=members.plan(trial.spec, self.plan.data.digest),
            fingerprint=members.recipe(trial.spec, self.plan.data.digest),
        )
        for name in (record.RECORD, layout.SUMMARY, layout.REPORT):
            trial.store.delete(name)
        trial.store.write(layout.SPEC, resolved(plan).encode())

    def begun(self) -> list[Trial]:
        """The trials that were begun, in order."""
        return [trial for trial in self.schedule.known() if trial.store.exists(layout.SPEC)]


def checked(asked: Command) -> Search:
    """Load and check all that a search needs. Raises UserError."""
    spec = asked.spec
    if spec.ensemble.weights:
        raise UserError("ensemble.weights", "null, as a search trains its members", list(spec.ensemble.weights))
    if spec.ensemble.until:
        raise UserError("ensemble.until", "null, as all trials have ensemble.members")
    if not spec.attribution.keep_maps:
        raise UserError("attribution.keep_maps", "true, as trials are measured on their maps", False)
    if not spec.training.epochs:
        raise UserError("training.epochs", "1 or more, as k and lambda act in training", 0)
    if spec.training.threads == "auto":
        raise UserError("training.threads", "a number, as what is measured is one ensemble and not many trials", "auto")
    method_of(spec)
    if spec.parameters is not None:
        raise UserError("parameters", "null, as trials make no filter profiles", "a section")
    if spec.training.objective == "attention":
        _check_attention(spec)
    elif spec.search.layers:
        raise UserError(
            "search.layers", "null, as only training.objective=attention teaches layers", spec.search.layers
        )
    plan = prepare(replace(asked, spec=shared(spec)), search=True)
    fill_for(plan.data.kind, plan.spec.training.guidance.fill)
    for layers in plan.spec.search.layers or ():
        attention = plan.spec.training.attention.model_copy(update={"layers": layers})
        check_attention(plan.spec.model, attention, plan.data)
    _check_measure(plan.spec, plan.data)
    _check_directory(plan)
    return Search(plan=plan, schedule=Schedule(plan.spec, plan.data, plan.store, propose))


def shared(spec: Spec) -> Spec:
    """The spec of what all trials but one share: what is searched at its defaults, whatever they are in `spec`."""
    setting = Setting(mask_fraction=GuidanceSpec().mask_fraction, weight=GuidanceSpec().weight)
    if spec.training.objective == "attention":
        layers = AttentionSpec().layers if spec.search.layers else None
        setting = Setting(mask_fraction=AttentionSpec().top, weight=AttentionSpec().weight, layers=layers)
    return spec.model_copy(update={"training": at(spec, setting)})


def _check_attention(spec: Spec) -> None:
    k, binary = spec.search.mask_fraction, spec.training.attention.binary
    if binary != "top":
        raise UserError("training.attention.binary", "top, as k is the share of tokens that is marked", binary)
    if (k.low if isinstance(k, Between) else min(k)) <= 0:
        raise UserError("search.mask_fraction", "numbers above 0, as k is the share of tokens that is marked", 0.0)


def made_of(spec: Spec) -> dict[str, Any]:
    """What decides which trials there are, by key. A grid may get other values: its trials stand for themselves."""
    search = spec.search.model_dump(mode="json")
    names = {
        "grid": (),
        "random": ("mask_fraction", "weight", "layers", "seed"),
        "optuna": (
            *("mask_fraction", "weight", "layers", "seed", "ahead", "objectives", "accuracy_drop_at_most"),
            *("faithfulness", "method", "samples"),
        ),
    }[spec.search.algorithm]
    return {f"search.{name}": search[name] for name in ("algorithm", *names)}


def text_of(search: Search) -> str:
    """The text of the search's `spec.yaml`."""
    marks = {"data": search.plan.data.digest, "member": search.plan.fingerprint, "search": search.fingerprint}
    values = {**search.spec.to_dict(), "search": search.spec.search.model_dump(mode="json"), "fingerprints": marks}
    return yaml.safe_dump(values, sort_keys=False, width=120)


def finished(search: Search) -> bool:
    """Whether storage already holds all that the search would make."""
    store = search.plan.store
    there = store.exists(layout.SPEC) and store.read(layout.SPEC) == text_of(search).encode()
    return there and store.exists(layout.REPORT) and len(search.schedule.records()) == len(search.schedule)


def write_results(search: Search, records: Sequence[Record], found: Outcome) -> None:
    """Write the table, the chosen setting's spec, the heat map and the page."""
    spec, store = search.spec, search.plan.store
    store.write_parquet(TABLE, table(records, found))
    chosen = next((each for each in records if each.name == found.chosen), None)
    if chosen is not None:
        own = spec_of(spec, chosen.setting).to_dict()
        train = f"python -m jobs.ensemble {store.path(layout.CHOSEN)}"
        head = f"# Chosen by python -m jobs.tune {store}. Train it: {train}\n"
        store.write(layout.CHOSEN, (head + yaml.safe_dump(own, sort_keys=False, width=120)).encode())
    store.write(MAP, png(heat_map(records, found, spec)))
    store.write(layout.REPORT, build(spec, records, found, str(store)).encode())


def numbers(records: Sequence[Record], found: Outcome) -> dict[str, float]:
    """The chosen trial's metrics, and how the trials ended, as MLflow names them."""
    states = {f"trials/{state}": 0.0 for state in ("finished", "stopped", "failed")}
    for each in records:
        states[f"trials/{each.state}"] += 1
    chosen = (each for each in records if each.name == found.chosen)
    return states | {f"chosen/{name}": each.metric(name).value for each in chosen for name in METRICS}


def told(search: Search, *, time: bool) -> str:
    """What the search consists of; with `time` an estimate of how long each trial takes."""
    spec, schedule = search.spec, search.schedule
    limit = spec.search.accuracy_drop_at_most
    subject = f", accuracy lost at most {limit:g}" if len(spec.search.objectives) == 1 and limit is not None else ""
    goal = ", ".join(title(name, spec) for name in spec.search.objectives)
    lines = [
        f"search   {spec.search.algorithm}: {len(schedule)} trials, standard training among them; "
        f"{len(schedule.records())} are over",
        f"goal     {goal}{subject}",
        "a trial, but for its k and lambda" + (" and layers:" if spec.search.layers else ":"),
        describe(search.plan, map_shapes(search.plan)),
    ]
    return "\n".join([*lines, estimate(search.plan)] if time else lines)


def _check_measure(spec: Spec, data: Data) -> None:
    name, needs = spec.search.faithfulness, MEASURES[spec.search.faithfulness].needs
    if needs == "text" and data.kind != "text":
        raise UserError("search.faithfulness", f"a measure of {data.kind}; {name} is of texts", name)
    if needs == "informative" and data.evaluation.informative is None:
        raise UserError("search.faithfulness", "a measure for data whose informative cells are not known", name)


def _check_directory(plan: Plan) -> None:
    """Refuse a directory of something else, or of a search among other settings; say in what."""
    if not plan.store.exists(layout.SPEC):
        return
    text = plan.store.read(layout.SPEC)
    if "search" not in fingerprints(text):
        raise UserError("--run-dir", f"a new folder, or that of a search; {plan.store} holds an ensemble")
    before, now = made_of(parse(text)), made_of(plan.spec)
    if changed := [key for key in {**before, **now} if before.get(key) != now.get(key)]:
        what = ", ".join(changed)
        raise UserError(
            "--run-dir", f"a new folder, since the trials in {plan.store} differ from this spec's in {what}"
        )
