"""The runs that SalLM consists of, each an ordinary spec: teachers, their explanations, and the students.

    vanilla                 the task alone: the baseline, and the teacher
    explanations            the teacher's maps of every text
    sallm                   a student from the start weights
    fine_tuned              a student that goes on from its teacher's weights
    mean_teacher            a student of the mean map over all teachers
    shuffled                a control: its explanations stand on other tokens of the same text
    explanations_2 ...      maps of the student `sallm`, which is the teacher of
    iterative_2 ...         the next student, and so on
    vanilla_labelled, explanations_labelled, semi_supervised
                            teacher, maps and student where the labels of some texts are not known

Where the poster is silent, these readings are ours: the iterative student learns anew from the start weights in every
round, and where some labels are not known the teacher explains the class that it predicts, of every text.

Training Language Models with Saliency Explanations (Lake, 2021).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from salcore.layout import member_file
from salcore.member_files import WEIGHTS
from salcore.spec import SallmSpec, Spec, from_dict

VANILLA, EXPLANATIONS, FIRST = "vanilla", "explanations", "sallm"
LABELLED = "_labelled"


def stages(spec: Spec, place: str) -> Iterator[dict[str, Spec]]:
    """The specs of the runs below `place`, by name, in stages: those of one stage need only what came before."""
    asked = spec.sallm or SallmSpec()
    half = "semi_supervised" in asked.variants
    labelled = {"data": {"labelled": asked.labelled}}
    teachers = {VANILLA: _run(spec, VANILLA)}
    maps = {EXPLANATIONS: _explaining(spec, EXPLANATIONS, place, of=VANILLA)}
    if half:
        teachers[VANILLA + LABELLED] = _run(spec, VANILLA + LABELLED, labelled)
        predicted = {**labelled, "attribution": {"target": "prediction"}}
        maps[EXPLANATIONS + LABELLED] = _explaining(
            spec, EXPLANATIONS + LABELLED, place, of=VANILLA + LABELLED, changes=predicted
        )
    yield teachers
    yield maps
    yield dict(_students(spec, asked, place))
    if "iterative" in asked.variants:
        for number in range(2, asked.rounds + 1):
            teacher = FIRST if number == 2 else f"iterative_{number - 1}"
            by, student = f"{EXPLANATIONS}_{number}", f"iterative_{number}"
            yield {by: _explaining(spec, by, place, of=teacher)}
            yield {student: _taught(spec, student, place, by=by)}


def networks(spec: Spec) -> dict[str, str]:
    """The runs whose networks are compared, and the run with the explanations each of them is compared with."""
    asked = spec.sallm or SallmSpec()
    found = {VANILLA: EXPLANATIONS}
    for name in ("sallm", "fine_tuned", "mean_teacher", "shuffled"):
        if name in asked.variants or (name == FIRST and "iterative" in asked.variants):
            found[name] = EXPLANATIONS
    if "iterative" in asked.variants:
        found |= {f"iterative_{number}": f"{EXPLANATIONS}_{number}" for number in range(2, asked.rounds + 1)}
    if "semi_supervised" in asked.variants:
        found |= dict.fromkeys((VANILLA + LABELLED, "semi_supervised"), EXPLANATIONS + LABELLED)
    return found


def _students(spec: Spec, asked: SallmSpec, place: str) -> Iterator[tuple[str, Spec]]:
    """The students of the vanilla model's explanations. The iterative one's first round is the student sallm."""
    if {"sallm", "iterative"} & {*asked.variants}:
        yield FIRST, _taught(spec, FIRST, place)
    if "fine_tuned" in asked.variants:
        start = {"ensemble": {"start": _weights(spec, place, VANILLA)}}
        yield "fine_tuned", _taught(spec, "fine_tuned", place, start)
    if "mean_teacher" in asked.variants:
        yield "mean_teacher", _taught(spec, "mean_teacher", place, _attention(teachers="mean"))
    if "shuffled" in asked.variants:
        yield "shuffled", _taught(spec, "shuffled", place, _attention(shuffled=True))
    if "semi_supervised" in asked.variants:
        labelled = {"data": {"labelled": asked.labelled}}
        yield "semi_supervised", _taught(spec, "semi_supervised", place, labelled, by=EXPLANATIONS + LABELLED)


def _taught(
    spec: Spec, name: str, place: str, changes: Mapping[str, Any] | None = None, by: str = EXPLANATIONS
) -> Spec:
    taught = {"training": {"objective": "attention", "attention": {"explanations": f"{place}/{by}"}}}
    return _run(spec, name, _merged(taught, changes or {}))


def _explaining(spec: Spec, name: str, place: str, *, of: str, changes: Mapping[str, Any] | None = None) -> Spec:
    """Every text, explained by the networks of a run; they are not trained again."""
    every = {"data": {"eval_split": "all"}, "ensemble": {"weights": _weights(spec, place, of)}}
    return _run(spec, name, _merged(every, changes or {}))


def _run(spec: Spec, name: str, changes: Mapping[str, Any] | None = None) -> Spec:
    """The spec with another name and some other values; its runs are one experiment in MLflow."""
    values = {key: value for key, value in spec.to_dict().items() if key != "sallm"}
    tracking = {"tracking": {"experiment": spec.tracking.experiment or spec.name}}
    found = _merged(values, {"name": name}, tracking, changes or {})
    if found["data"]["eval_split"] == "all":
        del found["data"]["eval_samples"]  # all there are
    return from_dict(found)


def _weights(spec: Spec, place: str, run: str) -> list[str]:
    return [f"{place}/{run}/{member_file(index, WEIGHTS)}" for index in range(spec.ensemble.members)]


def _attention(**values: Any) -> dict[str, Any]:
    return {"training": {"attention": values}}


def _merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings laid over one another, section by section."""
    found: dict[str, Any] = {}
    for each in values:
        for key, value in each.items():
            both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = _merged(found[key], value) if both else value
    return found
