"""A search over lambda and the share that attention is taught: trials in this process."""

import pytest

from jobs import searches
from jobs.command import Command
from salcore.errors import UserError
from salcore.search import trial
from salcore.storage import Store
from tests.salcore.sallm.conftest import spec_of


def command(taught, place, *overrides):
    spec = spec_of(
        taught.spec.data.name.partition(":")[2],
        "training.objective=attention",
        f"training.attention.explanations={taught.place / 'explanations'}",
        "training.epochs=2",
        "search={mask_fraction: [0.2, 0.5], weight: [1.0], faithfulness: comprehensiveness}",
        *overrides,
    )
    spec = spec.model_copy(update={"sallm": None})
    return Command(spec=spec, store=Store(str(place)), plan=False, retry_failed=False)


def test_trials_differ_in_what_attention_is_taught_and_are_measured(taught, tmp_path):
    found = searches.checked(command(taught, tmp_path))
    names = [found.schedule.trial(place).name for place in range(3)]
    assert sorted(names) == ["k0.2-lambda1", "k0.5-lambda1", "standard"]
    records = {}
    for place in range(3):
        one = found.schedule.trial(place)
        found.begin(one)
        *_, records[one.name] = trial.run(one, found.spec.search, found.plan.data)
    assert all(each.state == "finished" for each in records.values())
    assert len({each.fingerprint for each in records.values()}) == 3
    first, second = (records[name].faithfulness.value for name in names if name != "standard")
    assert first != second
    assert -1 < first < 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.attention.binary=null"], r"training\.attention\.binary: expected top"),
        (["search.mask_fraction=[0.0, 0.5]"], r"search\.mask_fraction: expected numbers above 0"),
        (["training.attention.explanations=null"], r"training\.attention\.explanations"),
    ],
)
def test_what_cannot_be_searched_is_refused(taught, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        searches.checked(command(taught, tmp_path, *overrides))
