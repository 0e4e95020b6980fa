"""The state of training by trial: whatever a loop needs to go on bit for bit, named parts in one safetensors file.

A part is a module (all its parameters and buffers, normalisers' included), an optimiser (its slots, rates and other settings) or a
mapping of tensors (running statistics). Tensors are ``PART/NAME``, in optimisers ``PART/NUMBER/SLOT``; all else is JSON in the header.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from policies.spec import InputError
from robopolicy.data.atomic import publish, temporary

Part = nn.Module | torch.optim.Optimizer | Mapping[str, torch.Tensor]

_FORMAT = "robopolicy trial state 1"


def save(path: Path, parts: Mapping[str, Part], facts: Mapping[str, Any]) -> None:
    """Write ``parts`` and JSON-ready ``facts`` to ``path`` as a whole or not at all; equal states are equal bytes.

    Raises:
        InputError: if the disk is full or not writable.
    """
    tensors: dict[str, torch.Tensor] = {}
    settings: dict[str, Any] = {}
    for name, part in parts.items():
        tensors |= {f"{name}/{key}": value for key, value in _tensors(part).items()}
        if isinstance(part, torch.optim.Optimizer):
            settings[name] = [{key: _plain(value) for key, value in group.items() if key != "params"} for group in part.param_groups]
    header = {_FORMAT: json.dumps({"facts": dict(facts), "optimizers": settings})}  # one entry: several come out in any order
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # clones: tensors that share memory are refused by the format
        save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, temporary(path), header)
        publish(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"training state {path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        temporary(path).unlink(missing_ok=True)


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts that were saved in ``path``. Raises InputError if it is truncated or no state of training by trial."""
    return _header(path)["facts"]


def load(path: Path, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Put what was saved into ``parts``, in place, and return the facts. What the file has beyond ``parts`` is left out.

    Raises:
        InputError: naming the first tensor that is missing, left over in its part, or of another shape; or a damaged file.
    """
    header = _header(path)
    try:
        with safe_open(path, framework="pt") as file:
            names: list[str] = list(file.keys())
            for name, part in parts.items():
                # clones: the file's own alignment must not decide which kernels run
                found = {key.removeprefix(f"{name}/"): file.get_tensor(key).clone() for key in names if key.startswith(f"{name}/")}
                where = f"training state {path}: part {name!r}"
                if isinstance(part, torch.optim.Optimizer):
                    _load_optimizer(part, found, header["optimizers"].get(name), where)
                else:
                    _fill(_tensors(part), found, where)
    except (OSError, SafetensorError) as error:
        raise InputError(f"training state {path}: truncated or not one: {error}") from error
    return header["facts"]


def _header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"training state {path}: truncated or not one: {error}") from error
    if _FORMAT not in header:
        raise InputError(f"training state {path}: expected a {_FORMAT!r}, found {', '.join(map(repr, header)) or 'another file'}")
    return json.loads(header[_FORMAT])


def _tensors(part: Part) -> dict[str, torch.Tensor]:
    """Return the tensors of a part by name: they themselves, not copies."""
    if isinstance(part, nn.Module):
        return {**dict(part.named_parameters()), **dict(part.named_buffers())}  # state_dict() lacks buffers that are not persistent
    if isinstance(part, torch.optim.Optimizer):
        slots = ((number, part.state.get(weight, {})) for number, weight in enumerate(_weights(part)))
        return {f"{number}/{slot}": torch.as_tensor(value) for number, own in slots for slot, value in own.items() if value is not None}
    return dict(part)


def _weights(optimizer: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    return (weight for group in optimizer.param_groups for weight in group["params"])


def _plain(value: Any) -> Any:
    """Return a setting of an optimiser as JSON has it; a learning rate may be a tensor (on a GPU)."""
    return value.item() if isinstance(value, torch.Tensor) else value


def _load_optimizer(optimizer: torch.optim.Optimizer, found: Mapping[str, torch.Tensor], groups: Any, where: str) -> None:
    if groups is None or len(groups) != len(optimizer.param_groups):
        raise InputError(f"{where}: expected {len(optimizer.param_groups)} groups of an optimiser, found {len(groups or ())}")
    weights = list(_weights(optimizer))
    optimizer.state.clear()
    for key, value in found.items():
        number, _, slot = key.partition("/")
        if not number.isdigit() or int(number) >= len(weights):
            raise InputError(f"{where}: has {key!r}, which the recipe's optimiser does not know")
        weight = weights[int(number)]
        if value.ndim and value.shape != weight.shape:
            raise InputError(f"{where}: {key!r} has shape {tuple(value.shape)}, the recipe's weight has {tuple(weight.shape)}")
        optimizer.state[weight][slot] = value.to(weight.device)
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        for key, value in saved.items():
            if isinstance(group.get(key), torch.Tensor):
                group[key].fill_(value)
            else:
                group[key] = tuple(value) if isinstance(value, list) else value


def _fill(own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy ``found`` into the tensors of the same names."""
    for name in (*own, *found):
        if name not in found:
            raise InputError(f"{where}: has no {name!r}, which the recipe needs")
        if name not in own:
            raise InputError(f"{where}: has {name!r}, which the recipe does not know")
        if found[name].shape != own[name].shape:
            raise InputError(f"{where}: {name!r} has shape {tuple(found[name].shape)}, the recipe's has {tuple(own[name].shape)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])
