"""What crosses between actors and their learner: transitions one way, weights the other, as ``real.wire`` messages.

=========  ==================  =====================================================================================
from       kind                what it brings
=========  ==================  =====================================================================================
actor      ``hello``           which actor it is; answered by ``welcome`` with a session, or by ``refused``
actor      ``steps``           one chunk: some control steps of its worlds; its sequence is the number of the first
actor      ``beat``            that it lives, and whether it knows that the run is over; asks for weights by naming the version that it has
learner    ``state``           what was taken and what was kept of the actor's chunks, and how far actors may go
learner    ``weights``         the newest weights
=========  ==================  =====================================================================================

Control steps of an actor are numbered from 0 without gaps, over all its lives. They are *taken* when they are in the learner's
hands and *kept* when they are in the replay on the disk: the actor holds them until then. What was sent twice is dropped by its number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import InputError
from real.wire import DTYPES, Limits, WireError

Arrays = dict[str, np.ndarray]
#: s between two signs of life, and s without one after which the other side is said to be silent.
BEAT_S, SILENT_S = 0.5, 3.0
#: Control steps in one chunk, at most, and s after which a chunk that is not full goes.
CHUNK_STEPS, CHUNK_S = 64, 0.5


@dataclass(frozen=True)
class Layout:
    """What one control step of the worlds of one actor holds.

    Attributes:
        rows: Name -> (dtype, shape) of an array of one step, worlds first.
        weights: Name -> (dtype, shape) of the tensors that actors need.
        fingerprint: Of the spec and the recipe that both ends must share.
    """

    rows: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
    weights: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
    fingerprint: str

    @classmethod
    def of(cls, row: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], about: Any) -> Layout:
        """Return the layout of one step ``row`` and of ``weights``; ``about`` is JSON-ready and goes into the fingerprint.

        Raises:
            InputError: for an array of a kind that does not cross.
        """
        rows, tensors = ({name: (array.dtype, array.shape) for name, array in arrays.items()} for arrays in (row, weights))
        for name, array in {**row, **weights}.items():
            if str(array.dtype) not in DTYPES:
                raise InputError(f"actors and learner: {name}: {array.dtype} does not cross between them; one of {', '.join(DTYPES)} does")
        told = {"about": about, "rows": _plain(rows), "weights": _plain(tensors)}
        return cls(rows, tensors, hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16])

    def limits(self) -> Limits:
        """Return what messages may hold at most."""
        steps = [CHUNK_STEPS * _bytes(*one) for one in self.rows.values()]
        return Limits(frames=len(self.rows) + len(self.weights) + 8, frame_bytes=max([4096, *steps, *(_bytes(*one) for one in self.weights.values())]))

    def require_chunk(self, arrays: Mapping[str, np.ndarray]) -> int:
        """Return the number of control steps T in a chunk of arrays (T, *shape).

        Raises:
            WireError: one line, unless it has exactly the arrays of this layout, 1 <= T <= CHUNK_STEPS, and only finite numbers.
        """
        if set(arrays) != set(self.rows):
            wrong = sorted(set(arrays) ^ set(self.rows))[0]
            raise WireError(f"chunk: array {wrong[:64]!r} is {'missing' if wrong in self.rows else 'unknown'}")
        steps = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
        if len(steps) != 1 or not 1 <= (found := steps.pop()) <= CHUNK_STEPS:
            raise WireError(f"chunk: expected the same number of steps, 1 to {CHUNK_STEPS}, in all arrays")
        _require(arrays, {name: (dtype, (found, *shape)) for name, (dtype, shape) in self.rows.items()}, "chunk")
        return found

    def require_weights(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raise WireError, one line, unless ``arrays`` are exactly the weights of this layout and finite."""
        if set(arrays) != set(self.weights):
            raise WireError(f"weights: tensor {sorted(set(arrays) ^ set(self.weights))[0][:64]!r} is not in both ends' policies")
        _require(arrays, self.weights, "weights")


def _require(arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[np.dtype, tuple[int, ...]]], what: str) -> None:
    for name, (dtype, shape) in expected.items():
        found = arrays[name]
        if found.dtype != dtype or found.shape != shape:
            raise WireError(f"{what}: array {name!r}: expected {dtype} {shape}, found {found.dtype} {found.shape}")
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise WireError(f"{what}: array {name!r} holds a number that is not finite")


def _plain(shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> list[tuple[str, str, tuple[int, ...]]]:
    return sorted((name, str(dtype), shape) for name, (dtype, shape) in shapes.items())


def _bytes(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * int(np.prod(shape, dtype=np.int64))


def stacked(rows: list[Mapping[str, np.ndarray]]) -> Arrays:
    """Return the chunk of T rows: name -> (T, *shape).

    Raises:
        InputError: if a number is not finite; a learner would refuse the chunk for ever.
    """
    chunk = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    for name, array in chunk.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"actor: {name} holds a number that is not finite: the world or the policy is broken")
    return chunk
