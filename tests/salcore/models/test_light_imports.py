"""Networks, attribution and objectives need torch, torchvision and numpy alone: specs and files are other rooms'."""

import subprocess
import sys

import pytest

HEAVY = ("ray", "mlflow", "pydantic", "safetensors", "pyarrow", "matplotlib", "sklearn", "scipy", "captum", "skimage")
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); "
WORK = """
from types import SimpleNamespace
import torch
from salcore.attribution import METHODS, check_settings
from salcore.models import build, check
from salcore.objectives.guided import guided
from salcore.objectives.standard import standard
from tests.needed import needed
models = []
for name, settings in (("small_vit", {"width": 8, "depth": 2}), ("small_cnn", {"width": 2})):
    spec = SimpleNamespace(name=name, weights=None, settings=settings)
    check(spec, (1, 8, 8), 3)
    models.append(build(spec, input_shape=(1, 8, 8), classes=3))
transformer, model = models
inputs, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 2])
for name, method in METHODS.items():
    check_settings(name, {})
    network = transformer if "attention" in name else model
    method(network, inputs, labels, **needed(name, network))
for name, kind in (("lstm", "series"), ("transformer", "series"), ("bilstm", "text")):
    spec = SimpleNamespace(name=name, weights=None, settings={})
    check(spec, (5, 5), 3, kind)
    METHODS["gradient"](build(spec, input_shape=(5, 5), classes=3), inputs[:, 0, :5, :5], labels)
guidance = SimpleNamespace(
    mask_fraction=0.5, weight=1.0, ranking="signed", of="logit", mode="train", fill="uniform", detach_target=False
)
standard(model, inputs, labels).backward()
guided(model, inputs, labels, guidance=guidance, generator=torch.Generator()).backward()
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_everything_runs_where_no_heavy_package_can_be_imported():
    finished = run(BLOCKED + WORK)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("package", ["pydantic", "safetensors"])
def test_the_test_above_can_fail(package):
    assert "ModuleNotFoundError" in run(BLOCKED + f"import {package}").stderr
