"""What parameter-space saliency of a run will consist of, told and checked before any work."""

from collections.abc import Iterator

from torch import nn

from jobs.prepare import Plan
from salcore.blame.splits import part_of
from salcore.data.batches import inputs_of
from salcore.errors import UserError
from salcore.parameter_space import FilterTable, filter_table


def table(plan: Plan, model: nn.Module) -> FilterTable:
    """The filters of a network, as the plan wants them.

    Raises UserError for a network that has none, or fewer than the plan asks for.
    """
    parameters = plan.spec.parameters
    assert parameters is not None
    part = part_of(plan.data, parameters.held_out)
    sample, _ = inputs_of(part, part.index[:1], plan.data)
    try:
        found = filter_table(model, sample, linear=parameters.linear)
    except Exception as error:  # whatever a user's network raises is told in one line
        raise UserError("model.name", f"a network whose filters can be read ({error})", plan.spec.model.name) from None
    for key, most in (("pruned", parameters.pruned[-1]), ("tuned", parameters.tuned[-1])):
        if most > len(found):
            raise UserError(f"parameters.{key}", f"at most the {len(found)} filters of {plan.spec.model.name}", most)
    if parameters.boosted >= len(found):
        expected = f"fewer than the {len(found)} filters of {plan.spec.model.name}"
        raise UserError("parameters.boosted", expected, parameters.boosted)
    return found


def told(plan: Plan, model: nn.Module) -> Iterator[str]:
    """Lines on what will be made of filters; none for a plan without parameters. Raises UserError."""
    parameters = plan.spec.parameters
    if parameters is None:
        return
    found = table(plan, model)
    sizes = {split: len(part_of(plan.data, split)) for split in (parameters.held_out, parameters.independent)}
    splits = " and ".join(f"{size:,} {split}" for split, size in sizes.items())
    size = sum(sizes.values()) * len(found) * 4 / 1e6
    yield (
        f"filters  {len(found):,} of {len(found.layers)} layers; profiles of {splits} samples by each member, "
        f"{len(plan.members) * size:,.0f} MB"
    )
    most = "all" if parameters.mistakes is None else f"up to {parameters.mistakes}"
    yield f"mistakes {most} of each member: {', '.join(parameters.experiments) or 'no experiment'}"
