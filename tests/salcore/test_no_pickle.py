"""Nothing is read with pickle: a file that a user may have downloaded must not run code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNPICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
FORBIDDEN = {"read_pickle", "unsafe_load", "full_load", "UnsafeLoader", "FullLoader", "Unpickler"}
LOADERS = {"torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.load_legacy"}


def dotted(node):
    """`torch.jit.load` of such an expression; what is no plain name is `?`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def keyword(call, name):
    """The constant that a call gives a keyword; None if it is left out or no constant."""
    return next((each.value.value for each in call.keywords
                 if each.arg == name and isinstance(each.value, ast.Constant)), None)  # fmt: skip


def wrong(node):
    """What of a node of a source's tree may unpickle."""
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in UNPICKLING:
        return f"from {node.module} import"
    if isinstance(node, ast.Import) and (found := {each.name for each in node.names} & (UNPICKLING - {"pickle"})):
        return f"import {', '.join(found)}"
    if isinstance(node, ast.Attribute):
        name = dotted(node)
        if (name.startswith("pickle.") and name != "pickle.UnpicklingError") or node.attr in FORBIDDEN:
            return name
    if isinstance(node, ast.Call):
        name = dotted(node.func)
        if name in LOADERS or (name == "torch.load" and keyword(node, "weights_only") is not True):
            return name
        if any(each.arg == "allow_pickle" for each in node.keywords) and keyword(node, "allow_pickle") is not False:
            return f"{name}(allow_pickle)"
        if name == "yaml.load" and (len(node.args) < 2 or dotted(node.args[1]) not in {"_Loader", "yaml.SafeLoader"}):
            return name
    return None


def found(text):
    return [what for node in ast.walk(ast.parse(text)) if (what := wrong(node))]


@pytest.mark.parametrize("room", ["salcore", "cluster", "jobs"])
def test_no_source_unpickles(room):
    paths = sorted((ROOT / room).rglob("*.py"))
    assert len(paths) > 3
    assert {str(path): what for path in paths if (what := found(path.read_text()))} == {}


@pytest.mark.parametrize(
    "text",
    [
        *("import pickle\npickle.load(x)", "import pickle\npickle.loads(x)", "from pickle import loads", "import dill"),
        *("torch.load(x)", "torch.load(x, weights_only=False)", "torch.load(x, weights_only=w)", "torch.jit.load(x)"),
        *("np.load(x, allow_pickle=True)", "numpy.load(x, allow_pickle=yes)", "pd.read_pickle(x)", "yaml.load(x)"),
        *("yaml.load(x, yaml.Loader)", "yaml.unsafe_load(x)", "import joblib", "import pickle\npickle.Unpickler(x)"),
    ],
)
def test_the_test_above_can_fail(text):
    assert found(text)


def test_what_only_names_an_error_is_let_through():
    assert not found("import pickle\ntry: torch.load(x, weights_only=True)\nexcept pickle.UnpicklingError: pass")
