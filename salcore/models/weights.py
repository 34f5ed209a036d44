"""Trained weights from a file, without unpickling code: safetensors, or `torch.load(weights_only=True)`."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from salcore.errors import UserError

# Under these keys training scripts keep the weights beside their epoch, optimizer and so on.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# What DistributedDataParallel and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")


def load_weights(
    model: nn.Module, path: str | Path, *, key: str = "model.weights", strict: bool = True
) -> tuple[str, ...]:
    """Copy the weights of a file into the model, in place, and return the names left as they were.

    The file is a state dict, or a dict that holds one under state_dict, model_state_dict or model; prefixes of
    DistributedDataParallel and torch.compile are stripped. With `strict` every name and shape has to match, and the
    answer is empty. Without (fine-tuning), the last layer may differ in shape: it keeps its initial values.

    Raises UserError, with `key`, for a file that is missing, unreadable or does not fit; the model is then unchanged.
    """
    own = model.state_dict()
    state = _without_prefixes(_read(Path(path), key), own)
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    reshaped = [name for name in own if name in state and state[name].shape != own[name].shape]
    left = () if strict else tuple(name for name in reshaped if name in _head(model))
    reshaped = [name for name in reshaped if name not in left]
    if missing or unexpected or reshaped:
        raise UserError(key, _complaint(path, own, state, missing, unexpected, reshaped))
    model.load_state_dict({name: value for name, value in state.items() if name not in left}, strict=not left)
    return left


def _read(path: Path, key: str) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError(key, "a file of weights", str(path))
    from safetensors.torch import load_file  # here, so that networks can be built without it

    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise UserError(key, "a file that can be read", f"{path} ({error.strerror})") from error
    except Exception as error:  # of bytes that are no weights torch's reader raises whatever they lead it to
        raise UserError(key, "safetensors, or a state dict that holds tensors alone", str(path)) from error
    while isinstance(content, Mapping) and (wrapper := next((name for name in _WRAPPERS if name in content), None)):
        content = content[wrapper]
    if not (isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values())):
        raise UserError(key, f"a state dict (names to tensors) in {path}", type(content).__name__)
    return content


def _without_prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under the model's names; a prefix that the model's own names bear too is no wrapper's."""
    found = dict(state)
    for prefix in (*_PREFIXES, *_PREFIXES):  # twice, for either order of the two wrappers
        if not found.keys() & own.keys() and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _head(model: nn.Module) -> set[str]:
    """The names of the last module that has parameters of its own: the classifier's last layer."""
    owners = [(name, module) for name, module in model.named_modules() if any(True for _ in module.parameters(False))]
    prefix, layer = owners[-1]
    return {f"{prefix}.{name}".lstrip(".") for name, _ in layer.named_parameters(recurse=False)}


def _complaint(
    path: str | Path,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    reshaped: list[str],
) -> str:
    """What does not fit, the first of each kind by name."""
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing, first {missing[0]}")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected, first {unexpected[0]}")
    if reshaped:
        name = reshaped[0]
        shapes = f"{tuple(state[name].shape)} for {tuple(own[name].shape)}"
        problems.append(f"{len(reshaped)} of another shape, first {name}: {shapes}")
    return f"weights of this network in {path}: {'; '.join(problems)}"
