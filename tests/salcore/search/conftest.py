"""Records of trials, made by hand."""

import math
from collections.abc import Callable

import pytest

from salcore.faithfulness import over_members
from salcore.search import Record, Setting
from salcore.search.record import UNKNOWN, MemberRow
from salcore.statistics import Estimate


@pytest.fixture(scope="session")
def record() -> Callable[..., Record]:
    """A function from k (None: standard training), accuracies and areas of the members to a record."""

    def make(
        k, accuracies=(), areas=(), *, weight=1.0, layers=None, snr=math.nan, state="finished", scores=(), reason=None
    ):
        setting = None if k is None else Setting(mask_fraction=k, weight=weight, layers=layers)
        rows = [
            MemberRow(member=member, accuracy=accuracy, faithfulness=area)
            for member, (accuracy, area) in enumerate(zip(accuracies, areas, strict=True))
        ]
        return Record(
            name="standard" if setting is None else setting.name,
            setting=setting,
            fingerprint=f"of {k} {weight}",
            state=state,
            reason=reason,
            accuracy=over_members([row.accuracy for row in rows]) if rows else UNKNOWN,
            snr_debiased=Estimate(value=snr, low=math.nan, high=math.nan),
            faithfulness=over_members([row.faithfulness for row in rows]) if rows else UNKNOWN,
            members=tuple(rows),
            scores=tuple(scores),
        )

    return make
