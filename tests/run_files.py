"""Reading a run directory with nothing but pyarrow and numpy: the independent view of what a run leaves."""

import numpy as np
import pyarrow as pa
from pyarrow import ipc

METHODS = ("gradient", "integrated_gradients", "gradcam")
"""The methods of `small.yaml`."""


def parts(folder):
    return sorted(folder.glob("part-*.arrow"))


def table(folder):
    """All shards of a folder with nothing but pyarrow."""
    return pa.concat_tables([ipc.open_file(pa.memory_map(str(part))).read_all() for part in parts(folder)])


def tensors(folder, column):
    return np.concatenate([chunk.to_numpy_ndarray() for chunk in table(folder)[column].chunks])


def maps(run, method, member):
    """Maps of one member in float64: map * 2**exponent."""
    folder = run / "maps" / method / f"member={member:04d}"
    values = tensors(folder, "map").astype(np.float64)
    return values * 2.0 ** table(folder)["exponent"].to_numpy().astype(np.float64).reshape(-1, 1, 1, 1)


def statistics(run, method):
    """Every column of the statistics of a method, as numpy arrays."""
    folder = run / "stats" / method
    found = table(folder)
    return {
        name: tensors(folder, name) if isinstance(found.schema.field(name).type, pa.FixedShapeTensorType)
        else np.array(found[name].to_pylist())
        for name in found.column_names
    }  # fmt: skip


def assert_same_statistics(one, other, methods=METHODS):
    for method in methods:
        expected, got = statistics(one, method), statistics(other, method)
        assert list(expected) == list(got)
        for name in expected:
            np.testing.assert_array_equal(expected[name], got[name], err_msg=f"{method} {name}", strict=True)


def weights(run):
    return {path.parent.name: path.read_bytes() for path in sorted(run.glob("members/*/weights.safetensors"))}


def files(run):
    """Size and time of every file of a run."""
    return {
        str(path.relative_to(run)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(run.rglob("*"))
        if path.is_file()
    }
