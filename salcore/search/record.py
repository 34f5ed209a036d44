"""What a trial came to: `trial.json`, written last, so that its presence means that the trial is over."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from salcore.errors import UserError
from salcore.search.settings import Setting
from salcore.statistics import Estimate
from salcore.storage import Store

RECORD = "trial.json"
METRICS = ("accuracy", "snr_debiased", "faithfulness")
UNKNOWN = Estimate(value=math.nan, low=math.nan, high=math.nan)


@dataclass(frozen=True, kw_only=True)
class MemberRow:
    """One member's accuracy on the evaluation samples (a share), and its maps' faithfulness area."""

    member: int
    accuracy: float
    faithfulness: float


@dataclass(frozen=True, kw_only=True)
class Record:
    """A trial that is over, and its metrics with their 95 % intervals over members; NaN where they are not known.

    Finished; or failed, for a reason; or stopped early, its metrics those of fewer members. `fingerprint` is of all
    that they follow from. `scores` are what the trial was compared by after each of its members, where that was asked.
    """

    name: str
    setting: Setting | None
    fingerprint: str
    state: Literal["finished", "stopped", "failed"]
    reason: str | None = None
    accuracy: Estimate = UNKNOWN
    snr_debiased: Estimate = UNKNOWN
    faithfulness: Estimate = UNKNOWN
    members: tuple[MemberRow, ...] = ()
    scores: tuple[float, ...] = ()

    def metric(self, name: str) -> Estimate:
        """One of accuracy, snr_debiased and faithfulness."""
        return {"accuracy": self.accuracy, "snr_debiased": self.snr_debiased, "faithfulness": self.faithfulness}[name]

    def to_json(self) -> str:
        """Indented JSON, which has no NaN: such numbers are null, and infinite ones words."""
        return json.dumps(_plain(asdict(self)), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Record":
        """The record of a text. Raises ValueError if it is none."""
        try:
            values = json.loads(text)
            setting = values.pop("setting")
            read: dict[str, Any] = {name: Estimate(**_numbers(values.pop(name))) for name in METRICS}
            read["setting"] = None if setting is None else _setting(**setting)
            read["members"] = tuple(_member(row) for row in values.pop("members"))
            read["scores"] = tuple(_number(score) for score in values.pop("scores"))
            return cls(**read, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"`text`: expected the record of a trial ({error!r})") from None


def read(store: Store) -> Record | None:
    """The record in a trial's folder; None if there is none. Raises UserError for one that somebody's hand was in."""
    if not store.exists(RECORD):
        return None
    try:
        return Record.from_json(store.read(RECORD))
    except ValueError:
        raise UserError("--run-dir", f"trials as they were written: delete {store.path(RECORD)} to redo it") from None


def write(store: Store, record: Record) -> None:
    """Say that a trial is over."""
    store.write(RECORD, record.to_json().encode())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _setting(layers: str | list[int] | None = None, **numbers: float) -> Setting:
    return Setting(layers=tuple(layers) if isinstance(layers, list) else layers, **numbers)  # type: ignore[arg-type]


def _member(row: dict[str, Any]) -> MemberRow:
    return MemberRow(member=row["member"], accuracy=_number(row["accuracy"]), faithfulness=_number(row["faithfulness"]))


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {key: _number(value) for key, value in values.items()}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
