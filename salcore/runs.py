"""A run directory, opened for reading: what notebooks and the report work with."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from salcore import borrowed, layout, manifests, until
from salcore.data import Data, load
from salcore.errors import Damaged, UserError
from salcore.explain import Explainer, read_predictions
from salcore.finite import finite_rows
from salcore.member_files import FAILED, RECORD, read_failure, read_history, read_record
from salcore.members import Member
from salcore.spec import Spec, fingerprints, parse
from salcore.storage import Store
from salcore.summary import read_stats


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One explained sample: number in the evaluation split, label, and per method target, mean, variance and SNR."""

    sample: int
    label: int
    target: Mapping[str, int]
    mean: Mapping[str, np.ndarray]
    variance: Mapping[str, np.ndarray]
    snr: Mapping[str, float]


class Run:
    """A run directory. Everything is read when it is asked for; arrays are in the order of the evaluation samples.

    Raises UserError if the directory holds no run.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.store = Store(uri)
        if not self.store.exists(layout.SPEC):
            raise UserError("RUN", f"a run directory (with a {layout.SPEC})", str(uri))
        content = self.store.read(layout.SPEC)
        self.spec: Spec = parse(content)
        self.fingerprints: dict[str, str] = fingerprints(content)

    def __repr__(self) -> str:
        return f"<Run {self.spec.name!r}: {len(self.members)} members, methods {', '.join(self.methods) or 'none'}>"

    @cached_property
    def planned(self) -> int:
        """Number of members that the run is of: `ensemble.members`, or fewer where `ensemble.until` stopped it."""
        return until.planned(self.store, self.spec, self.fingerprints.get("member", ""))

    @cached_property
    def members(self) -> tuple[int, ...]:
        """Indices of the trained members of the run, in order."""
        return tuple(index for index in self._with(RECORD) if index < self.planned)

    @cached_property
    def failures(self) -> dict[int, str]:
        """Why members failed, by index."""
        failed = [index for index in self._with(FAILED) if index < self.planned]
        found = {index: read_failure(self.store, index) for index in failed}
        return {index: record["reason"] for index, record in found.items() if record is not None}

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that have statistics, in the spec's order."""
        return tuple(method.folder for method in self.spec.attribution.methods if self.stats_files(method.folder))

    def record(self, member: int) -> dict[str, Any]:
        """What `member.json` says of a member: seeds, metrics, checksum."""
        record = read_record(self.store, member)
        if record is None:
            raise ValueError(f"`member`: expected one of {list(self.members)}, got {member}")
        return record

    def history(self, member: int) -> pa.Table:
        """One row per epoch of a member: losses, accuracy, learning rate, seconds. Raises Damaged."""
        return read_history(self.store, member)

    @cached_property
    def summary(self) -> pa.Table:
        """One row per method: SNR and its interval, debiased SNR, SSIM and more."""
        return self.store.read_parquet(layout.SUMMARY, ["method", "snr"])

    def mean(self, method: str) -> np.ndarray:
        """Mean map over members of every sample, `(N, C, H, W)` float32."""
        return self._tensors(method, "mean")

    def variance(self, method: str) -> np.ndarray:
        """Variance (ddof = 1) over members of every sample and pixel, `(N, C, H, W)` float32."""
        return self._tensors(method, "variance")

    def significant(self, method: str) -> np.ndarray:
        """Which pixels of every sample differ from zero beyond training noise, `(N, C, H, W)` bool.

        What that promises and what not: `salcore.significance`.
        """
        return self._tensors(method, "significant").astype(bool)

    def snr(self, method: str) -> np.ndarray:
        """Signal-to-noise ratio of every sample, `(N,)` (Woerl et al., Eq. 5)."""
        return self.column(method, "snr")

    def column(self, method: str, name: str) -> np.ndarray:
        """A column of the statistics `(N,)`, or `(N, G)` where a value is a list."""
        column = self._stats(method, name).combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        return column.to_numpy(zero_copy_only=False)

    def metadata(self, method: str) -> dict[str, Any]:
        """What the first statistics file of a method says of itself."""
        return read_stats(self.store, self.stats_files(method)[0]).metadata

    def convergence_members(self, method: str) -> tuple[int, ...]:
        """Numbers of members at which the columns `mean_norm` and `sigma_norm` stand."""
        return tuple(self.metadata(method)["grid"])

    def maps(self, method: str, positions: Sequence[int]) -> np.ndarray:
        """Every member's maps of some samples, `(M, n, C, H, W)`, members in the order of the statistics.

        As they were made: those with NaN or infinity, which are in no statistic, too.
        """
        return np.stack([self.member_maps(method, member, positions) for member in self.metadata(method)["members"]])

    def member_maps(self, method: str, member: int, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """One member's maps of some samples, `(n, C, H, W)`; made again where the run keeps none."""
        if not self.spec.attribution.keep_maps:
            return self._made_again(method, member, np.asarray(positions))
        parts, rows = np.divmod(np.asarray(positions), self.spec.attribution.shard_samples)
        folder = layout.maps_folder(method, member)
        opened = {
            part: manifests.read_finished(self.store, folder, layout.part_file(part)) for part in {*parts.tolist()}
        }
        pairs = zip(parts.tolist(), rows.tolist(), strict=True)
        return np.stack([opened[part].maps(row, row + 1)[0] for part, row in pairs])

    def _made_again(self, method: str, member: int, positions: np.ndarray) -> np.ndarray:
        (asked,) = (each for each in self.spec.attribution.methods if each.folder == method)
        explainer, members = self._explainer
        if member not in members:
            raise Damaged(f"member {member} of {self.store} is not trained any more: run its spec again")
        parts, rows = np.divmod(positions, self.spec.attribution.shard_samples)
        cut = self._ranges(self.spec.data.eval_samples)
        targets = {part: explainer.targets(members[member], cut[part]) for part in {*parts.tolist()}}
        classes = np.array([targets[part][row] for part, row in zip(parts.tolist(), rows.tolist(), strict=True)])
        return explainer.maps(members[member], asked, positions, classes)[0]

    @cached_property
    def _explainer(self) -> tuple[Explainer, dict[int, Member]]:
        """What makes the maps of the trained members again."""
        members = [each for each in borrowed.members_of(self.spec, self.store) if each.index in self.members]
        return Explainer(self.spec, self.data(), members, self.store), {each.index: each for each in members}

    def finite_maps(self, method: str, position: int) -> tuple[tuple[int, ...], np.ndarray]:
        """The members that one sample's statistics are over, m of them, and their maps `(m, C, H, W)`."""
        maps = self.maps(method, [position])[:, 0]
        finite = finite_rows(maps)
        members = np.array(self.metadata(method)["members"])[finite]
        return tuple(members.tolist()), maps[finite]

    def logits(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels `(N,)` and logits `(M, N, K)` of the evaluation samples, trained members in order."""
        found = [self._member_logits(member) for member in self.members]
        if not found:
            raise ValueError(f"no member of {self.store} is trained yet")
        return found[0][0], np.stack([logits for _, logits in found])

    def sample(self, number: int) -> Sample:
        """What the ensemble says of one sample, by its number in the full evaluation split. Reads that sample alone."""
        rows = {method: self._row(method, number) for method in self.methods}
        known = {method: row for method, row in rows.items() if row is not None}
        if not known:
            count = len(self.column(self.methods[0], "sample")) if self.methods else 0
            raise ValueError(f"`number`: expected the number of one of the {count} explained samples, got {number}")
        return Sample(
            sample=number,
            label=next(iter(known.values()))["label"][0].as_py(),
            target={method: row["target"][0].as_py() for method, row in known.items()},
            mean={method: _tensor(row["mean"])[0] for method, row in known.items()},
            variance={method: _tensor(row["variance"])[0] for method, row in known.items()},
            snr={method: row["snr"][0].as_py() for method, row in known.items()},
        )

    def data(self) -> Data:
        """The data set of the spec, loaded again from its source. Raises UserError if it is not there."""
        return borrowed.data_of(self.spec, self.store) if borrowed.is_borrowed(self.store) else load(self.spec.data)

    def _with(self, name: str) -> list[int]:
        found = [re.fullmatch(rf"members/(\d+)/{re.escape(name)}", path) for path in self._member_files]
        return sorted(int(match.group(1)) for match in found if match)

    @cached_property
    def _member_files(self) -> list[str]:
        return list(self.store.files("members"))

    def stats_files(self, method: str) -> list[str]:
        """Statistics files of the ranges that the spec asks for: an earlier spec may have asked for more."""
        folder = layout.stats_folder(method)
        there = self.store.files(folder)
        chosen = next((each for each in self.spec.attribution.methods if each.folder == method), None)
        samples = min(self.spec.data.eval_samples, (chosen and chosen.samples) or self.spec.data.eval_samples)
        names = [f"{folder}/{layout.part_file(part.part)}" for part in self._ranges(samples)]
        return [name for name in names if name in there]

    def _ranges(self, samples: int) -> list[layout.Range]:
        return list(layout.ranges(samples, self.spec.attribution.shard_samples))

    def _stats(self, method: str, column: str) -> pa.ChunkedArray:
        parts = self.stats_files(method)
        if not parts:
            raise ValueError(f"`method`: expected one of {', '.join(self.methods)}, got {method!r}")
        return pa.chunked_array([c for part in parts for c in read_stats(self.store, part).stats[column].chunks])

    def _tensors(self, method: str, column: str) -> np.ndarray:
        return _tensor(self._stats(method, column))

    def _row(self, method: str, number: int) -> pa.Table | None:
        """The statistics of one sample as a table of one row; None if the method does not explain it."""
        found = np.flatnonzero(self.column(method, "sample") == number)
        if not len(found):
            return None
        part, row = divmod(int(found[0]), self.spec.attribution.shard_samples)
        return read_stats(self.store, self.stats_files(method)[part]).stats.slice(row, 1)

    def _member_logits(self, member: int) -> tuple[np.ndarray, np.ndarray]:
        folder = f"{layout.member_folder(member)}/{layout.LOGITS}"
        names = [f"{folder}/{layout.part_file(part.part)}" for part in self._ranges(self.spec.data.eval_samples)]
        parts = [part for part in (read_predictions(self.store, name) for name in names) if part]
        if len(parts) < len(names):
            cure = f"python -m jobs.explain {self.store} makes its logits"
            raise Damaged(f"member {member} of {self.store} has not seen every evaluation sample yet: {cure}")
        return np.concatenate([part.label for part in parts]), np.concatenate([part.logits for part in parts])


def _tensor(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().to_numpy_ndarray()
