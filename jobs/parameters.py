"""Parameter-space saliency: which filters are to blame for a network's mistakes. `python -m jobs.parameters SPEC`."""

from collections.abc import Sequence
from dataclasses import replace

from jobs import command, session
from jobs.command import Command
from salcore.attribution import takes_statistics
from salcore.spec import MethodSpec, ParametersSpec

DESCRIPTION = """\
Find the filters that are to blame for the mistakes of every member: profiles of the gradient magnitude by each filter,
standardised over a held-out split; what turning the most salient filters off does, beside random and least salient
ones; nearest neighbours among profiles; what one step on one sample does to its neighbours; and which pixels drive the
salient filters. Trains, explains and reduces as python -m jobs.ensemble does, and takes a finished run too. The keys
parameters.* say what is done. What is finished is not done again."""


MAPPED = 100
"""Evaluation samples of which the method that is added makes maps: it is differentiated twice."""


def parameters(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.run("parameters", DESCRIPTION, act, argv)


def act(asked: Command) -> int:
    """All stages of the run, with the section `parameters` and a map of what drives the salient filters."""
    spec = asked.spec
    section, methods = spec.parameters or ParametersSpec(), spec.attribution.methods
    if not any(takes_statistics(method.name, method.settings) for method in methods):
        methods = (*methods, MethodSpec(name="input_space_saliency", samples=MAPPED))
    attribution = spec.attribution.model_copy(update={"methods": methods})
    return session.run(replace(asked, spec=spec.model_copy(update={"attribution": attribution, "parameters": section})))


if __name__ == "__main__":
    command.main(parameters)
