"""The trials of a search in their order: standard training, then one setting after the other.

Which settings a grid or a random search has is known beforehand. Optuna proposes them one by one: each from the results
of all trials before it but the latest `search.ahead`, so that what is proposed depends neither on the number of slots
nor on when a search was killed. Proposals are kept in `search.json`, and hold once they are made.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from salcore.data import Data
from salcore.search.goal import score, values
from salcore.search.record import RECORD, Record
from salcore.search.settings import Setting, settings
from salcore.search.trial import FOLDER, Trial, over
from salcore.spec import SearchSpec, Spec
from salcore.storage import Store

PROPOSALS = "search.json"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A setting, and what it scored in each objective, larger is better; None for a trial that failed."""

    setting: Setting
    values: tuple[float, ...] | None


Propose = Callable[[SearchSpec, Sequence[Setting], Sequence[Tried]], Setting]
"""From a search, the settings proposed so far and the results that may be looked at to the next setting."""


class Schedule:
    """The trials of a search, as far as they are known, and which of them are over, found on storage.

    `spec` is that of the search, with every default written out. `propose` is asked where settings are not known
    beforehand, and by `trial` alone. Threads may ask at the same time: one for trials, others for what there is.
    """

    def __init__(self, spec: Spec, data: Data, store: Store, propose: Propose) -> None:
        self.spec, self.store = spec, store
        self._data, self._propose = data, propose
        self._known = settings(spec.search)
        self._trials: dict[int, Trial] = {}
        self._over: dict[str, Record] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return 1 + (self.spec.search.trials if self._known is None else len(self._known))

    def trial(self, place: int) -> Trial | None:
        """The trial at a place; None while its setting depends on trials that are not over."""
        with self._lock:
            if place not in self._trials:
                setting = self._setting(place) if place else None
                if place and setting is None:
                    return None
                self._trials[place] = Trial.of(setting, self.spec, self._data, self.store)
            return self._trials[place]

    def known(self) -> list[Trial]:
        """The trials whose settings are known by now, in order: nothing is proposed."""
        with self._lock:
            count = 1 + len(self._proposals if self._known is None else self._known)
            trials = [self.trial(place) for place in range(min(count, len(self)))]
        return [trial for trial in trials if trial is not None]

    def over(self, trial: Trial) -> Record | None:
        """The record of a trial that is over; None if it is still to be done, or to be gone on with."""
        with self._lock:
            if trial.name not in self._over:
                found = over(trial, self._data)
                if found is None or (found.state == "stopped" and not self.spec.search.asha):
                    return None
                self._over[trial.name] = found
            return self._over[trial.name]

    def records(self) -> list[Record]:
        """The records of the trials that are over, in order."""
        return [record for record in map(self.over, self.known()) if record is not None]

    def forget_failed(self) -> None:
        """Have the trials that failed done again."""
        for found in self.records():
            if found.state == "failed":
                self.store.child(f"{FOLDER}/{found.name}").delete(RECORD)
                del self._over[found.name]

    def _setting(self, place: int) -> Setting | None:
        if self._known is not None:
            return self._known[place - 1]
        if place == len(self._proposals) + 1 and (tried := self._tried(place)) is not None:
            self._proposals.append(self._propose(self.spec.search, self._proposals, tried))
            self.store.write_json(PROPOSALS, [asdict(setting) for setting in self._proposals])
        return self._proposals[place - 1] if place <= len(self._proposals) else None

    def _tried(self, place: int) -> list[Tried] | None:
        """The results that the setting at a place is proposed from; None while one of them is not there yet."""
        records = [self.over(trial) for trial in self.known()[: max(0, place - self.spec.search.ahead)]]
        found = [record for record in records if record is not None]
        if len(found) < len(records):
            return None
        return [
            Tried(setting=record.setting, values=self._values(record, found[0]))
            for record in found
            if record.setting is not None
        ]

    def _values(self, record: Record, standard: Record) -> tuple[float, ...] | None:
        if record.state == "failed":
            return None
        search = self.spec.search
        return (score(record, standard, search),) if len(search.objectives) == 1 else values(record, search)

    @cached_property
    def _proposals(self) -> list[Setting]:
        if not self.store.exists(PROPOSALS):
            return []
        return [Setting(**values) for values in self.store.read_json(PROPOSALS)]
