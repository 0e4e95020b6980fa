"""The training state: everything from which a killed run goes on bit for bit, in one safetensors file a step.

Tensors are ``policy/NAME``, ``ema/NAME``, ``optimizer/NAME/SLOT`` and ``normalizer/NAME``; the step and the rest are JSON
in the file's header. Random numbers are functions of (seed, step) and the sampler's position is the step, so neither
needs a place here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from policies.normalize import Normalizer
from robopolicy.training.ema import Ema
from robopolicy.training.state_file import copy_into, read_about, read_tensors, write_state

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
    write_state(path, tensors, _FORMAT, facts)


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts of a state file. Raises InputError if it is truncated or not one."""
    return read_about(path, _FORMAT)


def read_normalizer(path: Path) -> Normalizer:
    """Return the normaliser with which the run began."""
    return Normalizer.from_tensors(read_tensors(path, "normalizer/"))


def load_state(path: Path, policy: torch.nn.Module, ema: Ema, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the state into policy, average and optimiser, in place; returns the facts.

    Raises:
        InputError: if the file is damaged, or belongs to a network of another form.
    """
    facts = read_facts(path)
    fill(policy, read_tensors(path, "policy/"), f"training state {path}")
    fill(ema.policy, read_tensors(path, "ema/"), f"training state {path}")
    slots = read_tensors(path, "optimizer/")
    for name, parameter in policy.named_parameters():
        own = {key.rpartition("/")[2]: value for key, value in slots.items() if key.rpartition("/")[0] == name}
        if own:
            optimizer.state[parameter] = {slot: value.to(parameter.device) for slot, value in own.items()}
    return facts


def fill(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy ``tensors`` into the module's own of the same names.

    Raises:
        InputError: naming the first tensor that is missing, left over, or of another shape.
    """
    copy_into(module.state_dict(), tensors, source)
