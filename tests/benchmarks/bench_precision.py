"""What bfloat16 changes: accuracy and SNR of an ensemble, trained and explained with `training.precision=bfloat16`.

`python -m tests.benchmarks precision`, some 5 minutes. The specs `digits` and, where `SALCORE_TEST_DATA` is set,
`fashion_small_cnn` (10 members each), once in each precision and otherwise the same: same seeds, same batches. Rows are
differences, bfloat16 less float32, their intervals those of the mean over pairs of members of one seed (accuracy), and
of the jackknife over members (SNR, both ensembles' together, as if they had no seed in common). No goals.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

import salcore
from tests.benchmarks import harness

MEMBERS = 10


def finished(spec: str, precision: str, folder: str) -> salcore.Run:
    """The finished ensemble."""
    place = f"{folder}/{spec}-{precision}"
    asked = [spec, f"training.precision={precision}", f"ensemble.members={MEMBERS}", "--run-dir", place]
    if spec != "digits":
        asked.append(f"data.mirror={os.environ['SALCORE_TEST_DATA']}/fashion_mnist")
    tracking = f"tracking.uri=sqlite:///{folder}/mlflow.db"
    subprocess.run([sys.executable, "-m", "jobs.ensemble", *asked, tracking], check=True, stdout=subprocess.DEVNULL)
    return salcore.open(place)


def row(name: str, one: float, other: float, error: float, unit: str) -> harness.Row:
    """A difference, with 1.96 standard errors to both sides."""
    apart = other - one
    detail = f"{MEMBERS} members; bfloat16 {other:.4g}, float32 {one:.4g}"
    return harness.measured(
        name, [apart], unit=unit, detail=detail, within=(apart - 1.96 * error, apart + 1.96 * error)
    )


def rows() -> Iterator[harness.Row]:
    """Both data sets."""
    for spec in ["digits"] + ["fashion_small_cnn"] * ("SALCORE_TEST_DATA" in os.environ):
        with tempfile.TemporaryDirectory(prefix="precision-") as folder:
            runs = [finished(spec, precision, folder) for precision in ("float32", "bfloat16")]
            right = [(logits.argmax(-1) == labels).mean(1) for labels, logits in (run.logits() for run in runs)]
            error = float(np.std(right[1] - right[0], ddof=1)) / MEMBERS**0.5  # members have their seeds in common
            yield row(f"precision, {spec}: accuracy", *(100 * each.mean() for each in right), 100 * error, "points")
            tables = [{line["method"]: line for line in run.summary.to_pylist()} for run in runs]
            for method in tables[0]:
                one, other = (table[method] for table in tables)
                spreads = [(each["snr_high"] - each["snr_low"]) / 2 / 1.96 for each in (one, other)]
                error = float(np.hypot(*spreads))
                yield row(f"precision, {spec}: SNR of {method}", one["snr"], other["snr"], error, "")


if __name__ == "__main__":
    harness.record(list(rows()))
