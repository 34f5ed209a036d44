import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salcore.errors import UserError
from salcore.search.record import RECORD, MemberRow, Record, read, write
from salcore.search.settings import Setting
from salcore.statistics import Estimate
from salcore.storage import Store

NUMBERS = st.floats(allow_nan=False)
ESTIMATES = st.builds(Estimate, value=NUMBERS, low=NUMBERS, high=NUMBERS)
LAYERS = st.none() | st.sampled_from(["last", "all"]) | st.lists(st.integers(0, 9), min_size=1).map(tuple)
RECORDS = st.builds(
    Record,
    name=st.text(),
    setting=st.none() | st.builds(Setting, mask_fraction=st.floats(0, 1), weight=st.floats(0, 1e9), layers=LAYERS),
    fingerprint=st.text(),
    state=st.sampled_from(["finished", "stopped", "failed"]),
    reason=st.none() | st.text(),
    accuracy=ESTIMATES,
    snr_debiased=ESTIMATES,
    faithfulness=ESTIMATES,
    members=st.lists(st.builds(MemberRow, member=st.integers(0), accuracy=NUMBERS, faithfulness=NUMBERS)).map(tuple),
    scores=st.lists(NUMBERS).map(tuple),
)


@given(RECORDS)
def test_what_is_written_is_read_back_the_same(found):
    assert Record.from_json(found.to_json()) == found


def test_what_is_not_known_is_null_in_the_file_and_nan_when_read(record, tmp_path):
    store = Store(tmp_path)
    write(store, record(0.5, [0.9], [0.3]))
    written = json.loads((tmp_path / RECORD).read_text())
    assert written["snr_debiased"] == {"value": None, "low": None, "high": None}
    found = read(store)
    assert math.isnan(found.snr_debiased.value)
    assert found.accuracy.value == 0.9


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"null", b'{"setting": 3}', b"\xff\xfe"])
def test_a_file_that_is_no_record_is_named(tmp_path, content):
    (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(UserError, match=r"trial\.json"):
        read(Store(tmp_path))


def test_without_a_file_there_is_no_record(tmp_path):
    assert read(Store(tmp_path)) is None
