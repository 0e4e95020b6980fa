"""The ledger: one line of JSON per evaluation, appended and never rewritten.

A line says what was measured (checkpoint hash, task, suite version, seeds, block), what came out (episodes, successes,
interval, where the records are) and on what (machine, packages), so that a number can be traced and made again.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from policies.spec import InputError
from robopolicy.evaluation.records import Evaluation

FILE = "ledger.jsonl"
PACKAGES = ("robopolicy", "numpy", "torch", "mujoco", "metaworld", "gym-pusht", "pymunk")


def now() -> str:
    """Return the present time, ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache
def machine() -> dict[str, Any]:
    """Return what the numbers were made on: ``cpu``, ``cores`` (usable), ``architecture``, ``system``."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))), cpu)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
    }


@functools.cache
def packages() -> dict[str, str]:
    """Return name -> version of the packages that decide what an episode does, and ``python``."""
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            out[name] = importlib.metadata.version(name)
    return out


def row(evaluation: Evaluation, results: str) -> dict[str, Any]:
    """Return the line for ``evaluation``, whose per-episode records are in the file ``results``."""
    low, high = evaluation.interval
    return {
        "time": evaluation.time,
        "label": evaluation.label,
        "policy": evaluation.policy,
        "execution": evaluation.execution,
        "weights": evaluation.weights,
        "composition": evaluation.composition,
        "checkpoint": evaluation.checkpoint,
        "checkpoint_hash": evaluation.checkpoint_hash,
        "task": evaluation.task,
        "suite_version": evaluation.suite_version,
        "env": evaluation.env,
        "purpose": evaluation.purpose,
        "seed0": evaluation.seed0,
        "noise_seed": evaluation.noise_seed,
        "block": evaluation.block,
        "threads": evaluation.threads,
        "workers": evaluation.workers,
        "device": evaluation.device,
        "mode": "synchronous",
        "episodes": len(evaluation.episodes),
        "successes": evaluation.successes,
        "wilson95": [low, high],
        "score": evaluation.score,
        "network_calls_per_chunk": evaluation.network_calls_per_chunk,
        "network_calls_per_step": evaluation.network_calls_per_step,
        "ms_per_chunk": evaluation.ms_per_chunk,
        "seconds": evaluation.seconds,
        "results": results,
        "machine": evaluation.machine,
        "packages": evaluation.packages,
    }


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Append one line and flush it to disk, whole or not at all for whoever reads later.

    Writers exclude each other with a file lock. A tail without an end of line is what a killed writer left: it was
    never acknowledged, and is closed so that it cannot swallow the new line.

    Raises:
        InputError: if the file cannot be written or ``line`` is no JSON.
    """
    try:
        body = json.dumps(dict(line), allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: a ledger line must be JSON: {error}") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            body = b"\n" + body if torn else body
            written = os.write(handle, body)
            if written != len(body):  # disk full: take the part back, or the next reader finds half a line
                os.ftruncate(handle, size)
                raise OSError(28, "no space left on device")
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise InputError(f"{path}: the ledger cannot be written: {error.strerror or error}") from error


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a ledger, oldest first; what a killed writer left half written is passed over.

    Raises:
        InputError: if the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: the ledger cannot be read: {error.strerror or error}") from error
    for line in text.split("\n"):
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value
