"""G6: mean, variance and SNR of 30 members from float32 shards on a local disk, page cache warm.

`python -m tests.benchmarks.bench_g6_reduce`. 30 members x 1024 samples x (3, 32, 32), 377 MB in all, in two
ranges, one process each with one thread, as two Ray tasks would run them. Against numpy as published (stack, float64
mean and variance), numpy fairly tuned (float32 sums member by member, the same two processes), dask and DuckDB. Then
what all the other statistics of a map cost, and that the memory of both does not grow with the members.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch start their pools: one thread per process

import dask
import dask.array as da
import duckdb
import numpy as np
import pyarrow as pa
from pyarrow import ipc

from salcore import reduce, shards
from salcore.storage import Store
from tests.benchmarks import harness

MEMBERS, RANGES, ROWS, SHAPE = 30, 2, 512, (3, 32, 32)
CORES = len(os.sched_getaffinity(0))
SMALL_ROWS = 16  # DuckDB unnests them to a row per value


def name(member: int, part: int, rows: int = ROWS) -> str:
    """Name of one shard of the benchmark."""
    return f"rows={rows}/member={member:04d}/part-{part:05d}.arrow"


def make(folder: str, members: int, ranges: int, rows: int) -> None:
    """Write the shards: one signal per sample, and noise of three times its size."""
    store = Store(folder)
    for part in range(ranges):
        signal = np.random.default_rng(part).standard_normal((rows, *SHAPE), dtype=np.float32)
        for member in range(members):
            noise = np.random.default_rng((part, member)).standard_normal((rows, *SHAPE), dtype=np.float32)
            sample = np.arange(rows) + part * rows
            data = shards.encode(
                sample=sample, label=sample, target=sample, prediction=sample, maps=signal + 3 * noise, metadata={}
            )
            shards.write(store, name(member, part, rows), data)


def product(folder: str, part: int, rows: int = ROWS, members: int = MEMBERS) -> dict[str, np.ndarray]:
    """The reducer's first pass over one range, from closed files to mean, variance and SNR."""
    store = Store(folder)
    opened = [shards.read(store, name(member, part, rows)) for member in range(members)]
    out = reduce.empty_columns(rows, SHAPE, 1)
    step = shards.block_rows(SHAPE)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = {key: column[start:stop] for key, column in out.items()}
        reduce.first_pass(partial(blocks, opened, start, stop), (members,), block)
    return out


def blocks(opened: list[shards.Shard], start: int, stop: int) -> Iterator[np.ndarray]:
    """The members' maps of a range of rows."""
    return (shard.maps(start, stop) for shard in opened)


def everything(folder: str, part: int, rows: int = ROWS, members: int = MEMBERS) -> None:
    """The whole reducer over one range: both passes, every statistic."""
    store = Store(folder)
    opened = [shards.read(store, name(member, part, rows)) for member in range(members)]
    reduce.reduce_range(opened, members=range(members), inputs_digest="")


def maps(folder: str, part: int, rows: int) -> Iterator[np.ndarray]:
    """Each member's maps of a range, memory-mapped, with pyarrow alone."""
    for member in range(MEMBERS):
        table = ipc.open_file(pa.memory_map(f"{folder}/{name(member, part, rows)}")).read_all()
        yield table["map"].combine_chunks().to_numpy_ndarray()


def read_outs(mean: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
    """The same columns from a mean and a variance."""
    axes = tuple(range(1, mean.ndim))
    snr = np.sqrt((mean.astype(np.float64) ** 2).sum(axes) / variance.sum(axes, dtype=np.float64))
    return {"mean": mean.astype(np.float32), "variance": variance.astype(np.float32), "snr": snr}


def numpy_published(folder: str, part: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """np.stack, then mean and variance in float64."""
    stacked = np.stack(list(maps(folder, part, rows)))
    return read_outs(stacked.mean(0, dtype=np.float64), stacked.var(0, ddof=1, dtype=np.float64))


def numpy_tuned(folder: str, part: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Two passes member by member, float32, in place."""
    members = list(maps(folder, part, rows))
    mean = members[0].copy()
    for x in members[1:]:
        mean += x
    mean /= MEMBERS
    variance, deviation = np.zeros_like(mean), np.empty_like(mean)
    for x in members:
        np.subtract(x, mean, out=deviation)
        np.multiply(deviation, deviation, out=deviation)
        variance += deviation
    variance /= MEMBERS - 1
    return read_outs(mean, variance)


def with_dask(folder: str, part: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """A lazy stack in chunks of 64 samples, its threads on all cores."""
    chunks = (64, *SHAPE)
    stacked = da.stack([da.from_array(x, chunks=chunks) for x in maps(folder, part, rows)])
    mean, variance = stacked.mean(0, dtype=np.float64), stacked.var(0, ddof=1, dtype=np.float64)
    return read_outs(*dask.compute(mean, variance, scheduler="threads", num_workers=CORES))


def with_duckdb(folder: str, part: int, rows: int = SMALL_ROWS) -> dict[str, np.ndarray]:
    """UNNEST to a row per value, then one GROUP BY sample and pixel."""
    size = int(np.prod(SHAPE))
    tables = [
        pa.table({"sample": np.arange(rows), "map": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), size)})
        for x in maps(folder, part, rows)
    ]
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {CORES}")
        connection.register("maps", pa.concat_tables(tables))
        found = connection.sql(
            "SELECT sample, pixel, avg(value::DOUBLE) AS mean, var_samp(value::DOUBLE) AS variance FROM "
            "(SELECT sample, unnest(map) AS value, generate_subscripts(map, 1) AS pixel FROM maps) "
            "GROUP BY sample, pixel ORDER BY sample, pixel"
        ).fetchnumpy()
    return read_outs(*(found[key].reshape(rows, *SHAPE) for key in ("mean", "variance")))


def check(work: Callable[..., Any], folder: str, part: int, rows: int) -> None:
    """Raise where the product and `work` differ: mean and SNR by 1e-6 of the largest value, variance by 1e-5."""
    mine, other = product(folder, part, rows=rows), work(folder, part, rows)
    for column, bound in (("mean", 1e-6), ("variance", 1e-5), ("snr", 1e-6)):
        np.testing.assert_allclose(mine[column], other[column], rtol=0, atol=bound * np.abs(other[column]).max())


def discard(work: Callable[..., Any], folder: str, rows: int, part: int) -> None:
    """Work whose result stays in the process that made it, as a Ray task leaves its own on storage."""
    work(folder, part, rows=rows)


def peak_private_mb(work: Callable[..., Any], folder: str, members: int) -> float:
    """Peak of RssAnon while reducing: maps are views of the page cache, which is not this process's memory."""
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            status = Path("/proc/self/status").read_text()
            peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) / 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    work(folder, 0, members=members)
    done.set()
    thread.join()
    return peak


def speed(folder: str, pool: Executor) -> Iterator[harness.Row]:
    """The product against each baseline, and against the machine's read bandwidth."""
    megabytes = MEMBERS * RANGES * ROWS * int(np.prod(SHAPE)) * 4 / 1e6

    def run(work: Callable[..., Any], rows: int, parts: int, where: Executor | None) -> Callable[[], Any]:
        call = partial(discard, work, folder, rows)
        return lambda: list(where.map(call, range(parts)) if where else map(call, range(parts)))

    for label, work, rows, parts, where, goal in (
        ("numpy as published", numpy_published, ROWS, RANGES, None, 6),
        ("numpy as published, two processes", numpy_published, ROWS, RANGES, pool, None),
        ("numpy tuned, two processes", numpy_tuned, ROWS, RANGES, pool, None),
        ("dask, threads on all cores", with_dask, ROWS, RANGES, None, 8),
        ("DuckDB, threads on all cores", with_duckdb, SMALL_ROWS, 1, None, 20),
    ):
        size = megabytes * parts * rows / RANGES / ROWS
        yield harness.compare(
            f"G6 mean, variance, SNR against {label}",
            run(product, rows, parts, pool),
            run(work, rows, parts, where),
            check=partial(check, work, folder, 0, rows),
            at_least=goal,
            detail=f"{MEMBERS} members, {size:.0f} MB, ours in {parts} processes",
        )
    shares = [megabytes / 1e3 / harness.seconds(run(product, ROWS, RANGES, pool)) for _ in range(harness.REPEATS)]
    yield harness.measured(
        "G6 share of the read bandwidth",
        100 * np.array(shares) / harness.read_gbs(),
        unit="%",
        at_least=70,
        detail=f"{np.median(shares):.1f} GB/s of shards",
    )


def price(folder: str) -> harness.Row:
    """What all statistics cost beside mean, variance and SNR: one map, one thread."""
    work = partial(everything, folder, 0, SMALL_ROWS)
    work()
    each = [1e6 * harness.seconds(work) / MEMBERS / SMALL_ROWS for _ in range(harness.REPEATS)]
    detail = f"{MEMBERS} members, {SMALL_ROWS} samples {SHAPE}, both passes, one thread"
    return harness.measured("G6 all statistics, per map", each, unit="us", detail=detail)


def memory(folder: str) -> Iterator[harness.Row]:
    """Growth of the peak private memory from 10 members to 40."""
    for label, work in (("memory", product), ("memory of all statistics", everything)):
        growth = []
        for _ in range(3):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
                few, many = (pool.submit(peak_private_mb, work, folder, members).result() for members in (10, 40))
            growth.append(many - few)
        detail = f"one range of {ROWS} samples; 40 members: {many:.0f} MB with the imports"
        yield harness.measured(f"G6 {label}, 40 members minus 10", growth, unit="MB", at_most=5, detail=detail)


def main() -> None:
    """Measure, print and record the rows."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(RANGES) as pool:
        make(folder, 40, RANGES, ROWS)
        make(folder, MEMBERS, 1, SMALL_ROWS)
        harness.record([*speed(folder, pool), price(folder), *memory(folder)])


if __name__ == "__main__":
    main()
