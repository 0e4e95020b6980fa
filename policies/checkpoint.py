"""Checkpoints: one folder without pickle, written atomically, every byte of it checked when it is read.

==========================  ===========================================================================
``weights.safetensors``     The policy's ``state_dict`` (the averaged weights where there is an average).
``policy.yaml``             ``type`` (the module ``policies/NAME.py``), ``config``, and ``execution`` if a method was chosen.
``spec.json``               What the policy reads and commands.
``normalizer.safetensors``  The normaliser's buffers.
``manifest.json``           Format, SHA-256 of the files above, recipe, package versions, whatever else was said.
==========================  ===========================================================================

Reading the manifest, the spec or the fingerprint needs no torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.spec import InputError, Spec

if TYPE_CHECKING:
    import torch

    from policies.learnt import LearntPolicy

KIND = "robopolicy-checkpoint"
FORMAT = 1
FILES = ("weights.safetensors", "policy.yaml", "spec.json", "normalizer.safetensors")
MANIFEST = "manifest.json"
_PACKAGES = ("robopolicy", "torch", "numpy", "safetensors", "pydantic")


def save(folder: str | Path, policy: LearntPolicy, *, recipe: Mapping[str, Any], extra: Mapping[str, Any], execution: Mapping[str, Any] | None = None) -> Path:
    """Write ``policy`` to ``folder``; whoever looks sees the whole old checkpoint or the whole new one.

    Args:
        folder: Where to; an existing checkpoint there is replaced.
        policy: Its ``state_dict``, ``config``, ``spec`` and ``normalizer`` are written.
        recipe: The resolved recipe, JSON-ready.
        extra: More for the manifest, JSON-ready, e.g. ``step`` and the data set's fingerprint.
        execution: Method of execution, see :func:`read_execution`.

    Raises:
        InputError: if something that is no checkpoint is in the way, or the disk is full or not writable.
    """
    import yaml
    from safetensors.torch import save as to_bytes

    folder = Path(folder).absolute()
    if folder.exists() and not (folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))):
        raise InputError(f"checkpoint {folder}: something that is not a checkpoint is in the way; choose another folder")
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in policy.state_dict().items()}
    described: dict[str, Any] = {"type": policy_type(policy), "config": policy.config.model_dump(mode="json")}
    contents = {
        "weights.safetensors": to_bytes(weights),
        "policy.yaml": yaml.safe_dump(_with_execution(described, execution), sort_keys=False).encode(),
        "spec.json": (json.dumps(policy.spec.to_dict(), indent=1) + "\n").encode(),
        "normalizer.safetensors": to_bytes(policy.normalizer.tensors()),
    }
    manifest = {
        "kind": KIND,
        "format": FORMAT,
        "policy": described["type"],
        "spec_fingerprint": policy.spec.fingerprint(),
        "files": {name: _entry(body) for name, body in contents.items()},
        "packages": _package_versions(),
        "recipe": dict(recipe),
        "extra": dict(extra),
    }
    _write(folder, contents, manifest)
    return folder


def load(folder: str | Path, device: str | torch.device = "cpu") -> LearntPolicy:
    """Read a checkpoint into a policy in eval mode.

    Raises:
        InputError: one line naming the file and the cause: missing, truncated, altered, from elsewhere, newer than this
            version reads, or not fitting its own config; or there is no such device here.
    """
    from policies import registry
    from policies.normalize import Normalizer

    folder = Path(folder)
    manifest = read_manifest(folder)
    contents = {name: _read_checked(folder, name, manifest) for name in FILES}
    name, config = _read_policy(folder, contents["policy.yaml"])
    spec = _read_spec(folder, contents["spec.json"], manifest)
    try:
        normalizer = Normalizer.from_tensors(_read_tensors(folder, "normalizer.safetensors", contents["normalizer.safetensors"]))
    except InputError as error:
        raise InputError(f"checkpoint {folder}: normalizer.safetensors: {error}") from error
    try:
        policy = registry.create(name, config, spec, normalizer)
    except InputError as error:
        raise InputError(f"checkpoint {folder}: config, spec and normaliser do not fit: {error}") from error
    weights = _read_tensors(folder, "weights.safetensors", contents["weights.safetensors"])
    _require_fit(folder, policy.state_dict(), weights)
    policy.load_state_dict(weights, strict=True)
    return _placed(policy, device).eval()


def _placed(policy: LearntPolicy, device: str | torch.device) -> LearntPolicy:
    """Move ``policy`` to ``device``. Raises InputError if there is no such device here."""
    import torch

    try:
        return policy.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # torch says so in several ways
        if str(device) == "cpu":
            raise
        told = str(error).strip().partition("\n")[0]
        raise InputError(f"device {str(device)!r} cannot be used here: {told}") from error


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint, without torch.

    Raises:
        InputError: one line if there is no checkpoint, or one that this version does not read.
    """
    folder = Path(folder)
    file = folder / MANIFEST
    if not folder.exists():
        spare = folder.with_name(f".{folder.name}.old")
        hint = f"; the one before it is in {spare}" if (spare / MANIFEST).is_file() else ""
        raise InputError(f"checkpoint {folder}: no such folder{hint}")
    if not file.is_file():
        raise InputError(f"checkpoint {folder}: not a checkpoint, it has no {MANIFEST}")
    try:
        manifest = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"checkpoint {folder}: {MANIFEST} is truncated or altered: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise InputError(f"checkpoint {folder}: {MANIFEST} is not of a robopolicy checkpoint: expected kind {KIND!r}")
    if not isinstance(manifest.get("format"), int) or manifest["format"] > FORMAT:
        raise InputError(f"checkpoint {folder}: format {manifest.get('format')!r} is newer than this version reads (up to {FORMAT}); update robopolicy")
    files = manifest.get("files")
    if not isinstance(files, dict) or sorted(files) != sorted(FILES):
        raise InputError(f"checkpoint {folder}: {MANIFEST} lists other files than {', '.join(FILES)}")
    if not all(isinstance(f, dict) and isinstance(f.get("sha256"), str) and isinstance(f.get("bytes"), int) for f in files.values()):
        raise InputError(f"checkpoint {folder}: {MANIFEST} lacks the size or hash of a file")
    return manifest


def read_spec(folder: str | Path) -> Spec:
    """Return the spec of a checkpoint, without torch. Raises InputError as :func:`load` does."""
    manifest = read_manifest(folder)
    return _read_spec(Path(folder), _read_checked(Path(folder), "spec.json", manifest), manifest)


def read_execution(folder: str | Path) -> dict[str, Any] | None:
    """Return the method of execution that was chosen for a checkpoint, ``{type, key: value, ...}``; None if none was.

    It is what ``policies.realtime.registry.apply`` takes, and is not applied by :func:`load`. Raises InputError as :func:`load` does.
    """
    folder = Path(folder)
    body = _read_checked(folder, "policy.yaml", read_manifest(folder))
    execution = _parse_policy(folder, body).get("execution")
    if execution is None:
        return None
    from policies.realtime.registry import config_of

    if not isinstance(execution, dict):
        raise InputError(f"checkpoint {folder}: policy.yaml: execution: expected a section of keys with a type, found {execution!r}")
    try:
        config_of(execution)
    except InputError as error:
        raise InputError(f"checkpoint {folder}: policy.yaml: execution: {error}") from error
    return execution


def save_execution(folder: str | Path, execution: Mapping[str, Any] | None, chosen: Mapping[str, Any] | None = None) -> Path:
    """Write the method of execution into a checkpoint that exists, None for no method; all else in it stays as it is.

    Whoever looks sees the checkpoint before or after. Its fingerprint changes: it acts in another way.

    Args:
        folder: Of the checkpoint.
        execution: See :func:`read_execution`.
        chosen: ``{what, seed0, episodes, trials}`` of the evaluations that it was chosen by, for the manifest; None: it was given.

    Raises:
        InputError: as :func:`load` and :func:`save` do, and for a method that cannot be.
    """
    import yaml

    from policies.realtime.registry import config_of

    if execution is not None:
        config_of(execution)
    folder = Path(folder).absolute()
    manifest = read_manifest(folder)
    contents = {name: _read_checked(folder, name, manifest) for name in FILES}
    body = yaml.safe_dump(_with_execution(_parse_policy(folder, contents["policy.yaml"]), execution), sort_keys=False).encode()
    contents["policy.yaml"] = body
    manifest["files"]["policy.yaml"] = _entry(body)
    extra = dict(manifest.get("extra") or {})
    others = [one for one in extra.pop("chosen", ()) if one.get("what") != "execution"]
    kept = [*others, *([{**chosen, "what": "execution"}] if chosen else [])]
    manifest["extra"] = {**extra, "chosen": kept} if kept else extra
    _write(folder, contents, manifest)
    return folder


def fingerprint(folder: str | Path) -> str:
    """Return 16 hex digits of the hashes of weights, policy, spec and normaliser: equal for equal behaviour."""
    files = read_manifest(folder)["files"]
    return hashlib.sha256("".join(f"{name}:{files[name]['sha256']}\n" for name in FILES).encode()).hexdigest()[:16]


def policy_type(policy: LearntPolicy) -> str:
    """Return the policy's name in recipes: the module ``policies/NAME.py`` that its class is in."""
    return type(policy).__module__.rpartition(".")[2]


def _entry(body: bytes) -> dict[str, Any]:
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def _with_execution(described: Mapping[str, Any], execution: Mapping[str, Any] | None) -> dict[str, Any]:
    rest = {key: value for key, value in described.items() if key != "execution"}
    return rest if execution is None else {**rest, "execution": dict(execution)}


def _package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _read_checked(folder: Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    expected = manifest["files"][name]
    try:
        body = (folder / name).read_bytes()
    except FileNotFoundError:
        raise InputError(f"checkpoint {folder}: {name} is missing") from None
    except OSError as error:
        raise InputError(f"checkpoint {folder}: {name} cannot be read: {error.strerror or error}") from error
    if len(body) < expected["bytes"]:
        raise InputError(f"checkpoint {folder}: {name} is truncated: expected {expected['bytes']} bytes, found {len(body)}")
    if hashlib.sha256(body).hexdigest() != expected["sha256"]:
        raise InputError(f"checkpoint {folder}: {name} was altered: its SHA-256 is not the one in {MANIFEST}")
    return body


def _read_spec(folder: Path, body: bytes, manifest: Mapping[str, Any]) -> Spec:
    try:
        spec = Spec.from_dict(json.loads(body))
    except ValueError as error:  # InputError too
        raise InputError(f"checkpoint {folder}: spec.json: {error}") from error
    if spec.fingerprint() != manifest.get("spec_fingerprint"):
        raise InputError(f"checkpoint {folder}: spec.json has fingerprint {spec.fingerprint()}, {MANIFEST} says {manifest.get('spec_fingerprint')}")
    return spec


def _read_policy(folder: Path, body: bytes) -> tuple[str, Any]:
    import pydantic

    from policies import registry

    where, described = f"checkpoint {folder}: policy.yaml", _parse_policy(folder, body)
    try:
        return described["type"], registry.config_class(described["type"]).model_validate(described["config"])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{where}: key {'.'.join(map(str, first['loc']))!r}: {first['msg']}, found {first['input']!r}") from None


def _parse_policy(folder: Path, body: bytes) -> dict[str, Any]:
    import yaml

    where = f"checkpoint {folder}: policy.yaml"
    try:
        described = yaml.safe_load(body)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML") from error
    if not isinstance(described, dict) or not isinstance(described.get("type"), str) or not isinstance(described.get("config"), dict):
        raise InputError(f"{where}: expected type and config")
    return described


def _read_tensors(folder: Path, name: str, body: bytes) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        return from_bytes(body)
    except (SafetensorError, KeyError) as error:
        raise InputError(f"checkpoint {folder}: {name} is not a safetensors file: {error}") from error


def _require_fit(folder: Path, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    where = f"checkpoint {folder}: weights.safetensors"
    for name, tensor in expected.items():
        if name not in found:
            raise InputError(f"{where} lacks {name!r}, which its config asks for")
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            ours, theirs = (f"{t.dtype}{list(t.shape)}".removeprefix("torch.") for t in (tensor, found[name]))
            raise InputError(f"{where}: {name!r}: its config asks for {ours}, found {theirs}")
    for name in found:
        if name not in expected:
            raise InputError(f"{where} has {name!r}, which its config does not know")


def _write(folder: Path, contents: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
    try:
        _write_folder(folder, {**contents, MANIFEST: (json.dumps(manifest, indent=1) + "\n").encode()})
    except OSError as error:
        raise InputError(f"checkpoint {folder}: cannot be written: {error.strerror or error}") from error


def _write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files to a temporary folder beside ``folder``, fsync all, and put it in place."""
    fresh, spare = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in (fresh, spare) if folder.exists() else (fresh,):
        if left.exists():  # of a save that was killed
            shutil.rmtree(left)
    try:
        fresh.mkdir()
        for name, body in contents.items():
            with (fresh / name).open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
        _fsync_folder(fresh)
        if folder.exists():
            if not _exchange(fresh, folder):
                folder.rename(spare)
                fresh.rename(folder)
            _fsync_folder(folder.parent)
        else:
            fresh.rename(folder)
            _fsync_folder(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(spare, ignore_errors=True)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step (Linux renameat2 with RENAME_EXCHANGE); False where that does not exist."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    at_cwd, exchange = -100, 2
    return renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0
