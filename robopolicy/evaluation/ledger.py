"""The ledger: one line of JSON per evaluation, appended and never rewritten.

A line says what was measured (checkpoint hash, training, task, suite version, what counts as success, seeds, block), what
came out (outcome of every episode, interval, where the records are) and on what (machine, packages), so that a number can
be traced and made again. Lines are chained (``robopolicy.evaluation.chain``), so that one that was altered or removed is
found; and a report on seeds that something of the policy was chosen on is refused.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.evaluation import chain, seeds
from robopolicy.evaluation.records import Evaluation

FILE = "ledger.jsonl"
FORMAT = 2
PACKAGES = ("robopolicy", "numpy", "torch", "mujoco", "metaworld", "gym-pusht", "pymunk", "pybullet", "gymnasium")
PACKAGES += ("gymnasium-robotics", "dm-control", "ogbench", "gym-aloha")


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
    n = len(evaluation.episodes)
    return {
        "format": FORMAT,
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
        "success": evaluation.success,
        "max_episode_steps": evaluation.max_episode_steps,
        "n_action_steps": evaluation.n_action_steps,
        "training": evaluation.training,
        "set": evaluation.set_name,
        "chosen": evaluation.chosen,
        "env": evaluation.env,
        "purpose": evaluation.purpose,
        "seed0": evaluation.seed0,
        "noise_seed": evaluation.noise_seed,
        "block": evaluation.block,
        "threads": evaluation.threads,
        "workers": evaluation.workers,
        "device": evaluation.device,
        "mode": "synchronous",
        "episodes": n,
        "successes": evaluation.successes,
        "outcomes": packed([e.success for e in evaluation.episodes]),
        "wilson95": [low, high],
        "score": evaluation.score,
        "return": sum(e.return_ for e in evaluation.episodes) / n,
        "network_calls_per_chunk": evaluation.network_calls_per_chunk,
        "network_calls_per_step": evaluation.network_calls_per_step,
        "ms_per_chunk": evaluation.ms_per_chunk,
        "seconds": evaluation.seconds,
        "results": results,
        "machine": evaluation.machine,
        "packages": evaluation.packages,
    }


def packed(outcomes: Sequence[bool]) -> str:
    """Return the outcomes of episodes as hex digits, eight to a byte, the first in the highest bit; :func:`unpacked` inverts it."""
    return np.packbits(np.asarray(outcomes, bool)).tobytes().hex()


def unpacked(text: str, n: int) -> np.ndarray:
    """Return the outcomes (n,) bool of a row. Raises InputError if ``text`` does not hold that many."""
    try:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    except ValueError as error:
        raise InputError(f"outcomes of a ledger row: {error}") from error
    if len(bits) != 8 * -(-n // 8):
        raise InputError(f"outcomes of a ledger row: expected {n} episodes, found {len(bits)} bits")
    return bits[:n].astype(bool)


def require_separate(purpose: str, seed0: int, episodes: int, chosen: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a report on seeds that are not for reporting, or that something of the policy was chosen on.

    Args:
        purpose: Of the evaluation; only ``report`` is judged.
        seed0: Seed of episode 0.
        episodes: How many follow.
        chosen: ``{what, seed0, episodes}`` of everything that was chosen by evaluating.

    Raises:
        InputError: naming what was chosen, and both ranges.
    """
    if purpose != "report":
        return
    ends = {seeds.purpose_of(seed0), seeds.purpose_of(seed0 + episodes - 1)}
    if ends != {seeds.Purpose.REPORT}:
        found = " and ".join(sorted(end.name.lower() for end in ends))
        raise InputError(f"a report on seeds {seed0} to {seed0 + episodes - 1}: these are {found} seeds, report seeds begin at {int(seeds.Purpose.REPORT)}")
    for one in chosen:
        first, count = int(one["seed0"]), int(one["episodes"])
        if first < seed0 + episodes and seed0 < first + count:
            raise InputError(
                f"a report on seeds {seed0} to {seed0 + episodes - 1}: its {one.get('what', 'policy')} was chosen on seeds {first} to {first + count - 1}; "
                "report on others, or call it selection"
            )


def enter(path: Path, line: Mapping[str, Any]) -> dict[str, Any]:
    """Append the row of an evaluation, chained to the one before it; returns it as it stands in the file.

    Raises:
        InputError: if the file cannot be written, ``line`` is no JSON, or it reports on seeds that something was chosen on.
    """
    body = {k: v for k, v in line.items() if k not in ("id", "chain")}
    require_separate(str(line.get("purpose")), int(line["seed0"]), int(line["episodes"]), line.get("chosen") or ())
    row: dict[str, Any] = {}

    def chained(last: Mapping[str, Any] | None) -> dict[str, Any]:
        row.update({**body, **chain.link(body, last)})
        return row

    _append(path, chained)
    return row


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Append one line and flush it to disk, whole or not at all for whoever reads later; for rows of evaluations: :func:`enter`.

    Writers exclude each other with a file lock. A tail without an end of line is what a killed writer left: it was
    never acknowledged, and is closed so that it cannot swallow the new line.

    Raises:
        InputError: if the file cannot be written or ``line`` is no JSON.
    """
    _append(path, lambda _: line)


def _append(path: Path, line_after: Callable[[Mapping[str, Any] | None], Mapping[str, Any]]) -> None:
    """Append what ``line_after`` returns for the last whole line of the file, under its lock."""
    _encoded(path, line_after(None))  # what is no JSON makes no file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            body = _encoded(path, line_after(_last(handle, size)))
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


def _encoded(path: Path, line: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(line), allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: a ledger line must be JSON: {error}") from error


def _last(handle: int, size: int) -> dict[str, Any] | None:
    """Return the last whole line of an open ledger, None where there is none."""
    for length in dict.fromkeys((min(size, 1 << 18), size)):  # the whole file only where a row is longer than that
        for text in reversed(os.pread(handle, length, size - length).split(b"\n")):
            with contextlib.suppress(ValueError):
                value = json.loads(text)
                if isinstance(value, dict):
                    return value
    return None


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
