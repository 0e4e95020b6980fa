"""The state of training by trial: whatever a loop needs to go on bit for bit, named parts in one safetensors file.

A part is a module (all its parameters and buffers, normalisers' included), an optimiser (its slots, rates and other settings) or a
mapping of tensors (running statistics). Tensors are ``PART/NAME``, in optimisers ``PART/NUMBER/SLOT``; all else is JSON in the header.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from policies.spec import InputError
from robopolicy.training.state_file import copy_into, read_about, read_tensors, write_state

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
    write_state(path, tensors, _FORMAT, {"facts": dict(facts), "optimizers": settings})


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts that were saved in ``path``. Raises InputError if it is truncated or no state of training by trial."""
    return read_about(path, _FORMAT)["facts"]


def load(path: Path, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Put what was saved into ``parts``, in place, and return the facts. What the file has beyond ``parts`` is left out.

    Raises:
        InputError: naming the first tensor that is missing, left over in its part, or of another shape; or a damaged file.
    """
    header = read_about(path, _FORMAT)
    for name, part in parts.items():
        found, where = read_tensors(path, f"{name}/"), f"training state {path}: part {name!r}"
        if isinstance(part, torch.optim.Optimizer):
            _load_optimizer(part, found, header["optimizers"].get(name), where)
        else:
            copy_into(_tensors(part), found, where, "recipe")
    return header["facts"]


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
