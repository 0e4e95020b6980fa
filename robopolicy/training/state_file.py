"""A file of training state: named tensors and JSON in one safetensors file, written as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from policies.spec import InputError
from robopolicy.data.atomic import publish, temporary


def write_state(path: Path, tensors: Mapping[str, torch.Tensor], form: str, about: Mapping[str, Any]) -> None:
    """Write ``tensors`` and the JSON-ready ``about`` under the name ``form``; equal states are equal bytes.

    Raises:
        InputError: if the disk is full or not writable.
    """
    header = {form: json.dumps(dict(about))}  # one entry: several come out in any order
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # clones: tensors that share memory are refused by the format
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, temporary(path), header)
        publish(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"training state {path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        temporary(path).unlink(missing_ok=True)


def read_about(path: Path, form: str) -> dict[str, Any]:
    """Return what was written under ``form``. Raises InputError if the file is truncated or of another form."""
    with _opened(path) as file:
        header = file.metadata() or {}
    if form not in header:
        raise InputError(f"training state {path}: expected a {form!r}, found {', '.join(map(repr, header)) or 'another file'}")
    return json.loads(header[form])


def read_tensors(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with ``prefix``, by what follows it. Raises InputError if the file is damaged."""
    with _opened(path) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a mapping)
        # clones: the file's own alignment must not decide which kernels run
        return {name.removeprefix(prefix): file.get_tensor(name).clone() for name in names}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"training state {path}: truncated or not one: {error}") from error


def copy_into(own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], source: str, whose: str = "recipe's policy") -> None:
    """Copy ``found`` into the tensors of the same names, in place.

    Raises:
        InputError: naming the first tensor that is missing, left over, or of another shape.
    """
    for name in (*own, *found):
        if name not in found:
            raise InputError(f"{source}: has no {name!r}, which the {whose} needs")
        if name not in own:
            raise InputError(f"{source}: has {name!r}, which the {whose} does not know")
        if found[name].shape != own[name].shape:
            raise InputError(f"{source}: {name!r} has shape {tuple(found[name].shape)}, the {whose} has {tuple(own[name].shape)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])


__all__ = ["copy_into", "read_about", "read_tensors", "write_state"]
