"""Why an ensemble that trains until its SNR is known well enough has as many members as it has, in words."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from salcore import until
from salcore.figures.signs import PERCENT, counted
from salcore.statistics import projected_members

if TYPE_CHECKING:
    from salcore.spec import EnsembleSpec


def stopped(looks: Sequence[until.Round], ensemble: "EnsembleSpec") -> str:
    """Whether the looks taken stopped it, and how wide the interval of the mean SNR is beside what was asked."""
    assert ensemble.until is not None, "only such an ensemble stops"
    decision, asked, most = until.decide(looks, ensemble), ensemble.until.width, ensemble.members
    look = max(
        (each for each in looks if each.members <= decision.members), key=lambda each: each.members, default=None
    )
    if look is None:
        return f"At most {most} are trained: until the interval of the mean SNR is narrower than {asked:g}."
    width = "not defined" if math.isnan(look.width) else f"{look.width:.3g} wide"
    told = f"the 95{PERCENT} interval of the mean SNR is {width} (asked: {asked:g})"
    if decision.reached:
        told += ". An interval that is stopped at for being narrow is a little too narrow on average"
        return f"Stopped at {look.members} of at most {most} members, since {told}."
    needed = projected_members(look.width, asked, look.members - len(look.failed))
    more = f"; about {counted(needed)} members are projected" if math.isfinite(needed) else ""
    if decision.settled:
        return f"All {most} members were not enough: {told}{more}."
    return f"Not settled yet: with {look.members} of at most {most} members {told}{more}."
