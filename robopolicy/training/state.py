"""The training state: everything from which a killed run goes on bit for bit, in one safetensors file a step.

Tensors are ``policy/NAME``, ``ema/NAME``, ``optimizer/NAME/SLOT`` and ``normalizer/NAME``; the step and the rest are JSON
in the file's header. Random numbers are functions of (seed, step) and the sampler's position is the step, so neither
needs a place here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from policies.normalize import Normalizer
from policies.spec import InputError
from robopolicy.data.atomic import publish, temporary
from robopolicy.training.ema import Ema

_FORMAT = "robopolicy training state 1"


def save_state(path: Path, policy: torch.nn.Module, ema: Ema, optimizer: torch.optim.Optimizer, normalizer: Normalizer, facts: Mapping[str, Any]) -> None:
    """Write the state to ``path`` as a whole or not at all. ``facts`` are JSON-ready.

    Raises:
        InputError: if the disk is full or not writable.
    """
    tensors = {f"policy/{name}": value for name, value in policy.state_dict().items()}
    tensors |= {f"ema/{name}": value for name, value in ema.policy.state_dict().items()}
    tensors |= {f"normalizer/{name}": value for name, value in normalizer.tensors().items()}
    for name, parameter in policy.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{slot}"] = torch.as_tensor(value)
    header = {_FORMAT: json.dumps(dict(facts))}  # one entry: several come out in any order, and equal states are to be equal bytes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # clones: tied weights share memory, which the format refuses
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary(path), header)
        publish(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"training state {path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        temporary(path).unlink(missing_ok=True)


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts of a state file. Raises InputError if it is truncated or not one."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"training state {path}: truncated or not one: {error}") from error
    if _FORMAT not in header:
        raise InputError(f"training state {path}: expected a {_FORMAT!r}, found {', '.join(map(repr, header)) or 'another file'}")
    return json.loads(header[_FORMAT])


def read_normalizer(path: Path) -> Normalizer:
    """Return the normaliser with which the run began."""
    with safe_open(path, framework="pt") as file:
        return Normalizer.from_tensors(_part(file, "normalizer/"))


def load_state(path: Path, policy: torch.nn.Module, ema: Ema, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the state into policy, average and optimiser, in place; returns the facts.

    Raises:
        InputError: if the file is damaged, or belongs to a network of another form.
    """
    facts = read_facts(path)
    with safe_open(path, framework="pt") as file:
        fill(policy, _part(file, "policy/"), f"training state {path}")
        fill(ema.policy, _part(file, "ema/"), f"training state {path}")
        slots = _part(file, "optimizer/")
    for name, parameter in policy.named_parameters():
        own = {key.rpartition("/")[2]: value for key, value in slots.items() if key.rpartition("/")[0] == name}
        if own:
            optimizer.state[parameter] = {slot: value.to(parameter.device) for slot, value in own.items()}
    return facts


def _part(file: Any, prefix: str) -> dict[str, torch.Tensor]:
    # clones: the file's own alignment must not decide which kernels run
    return {name.removeprefix(prefix): file.get_tensor(name).clone() for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118 (not a mapping)


def fill(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy ``tensors`` into the module's own of the same names.

    Raises:
        InputError: naming the first tensor that is missing, left over, or of another shape.
    """
    own = module.state_dict()
    for name in [*own, *tensors]:
        if name not in tensors:
            raise InputError(f"{source}: has no {name!r}, which the recipe's policy needs")
        if name not in own:
            raise InputError(f"{source}: has {name!r}, which the recipe's policy does not know")
        if tensors[name].shape != own[name].shape:
            raise InputError(f"{source}: {name!r} has shape {tuple(tensors[name].shape)}, the recipe's policy has {tuple(own[name].shape)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
