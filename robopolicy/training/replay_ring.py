"""The ring of a replay: the newest control steps of N worlds, every transition with its true successor.

A row is one control step of all worlds. What was seen is stored once: the successor of a transition is the observation of the next
row, except where an episode ended; those successors stand in a small table of their own. So images take half the memory, and a
truncated episode is never mistaken for one that terminated.

Transition (c, w), the c-th step of world w since the beginning, has the number c N + w for good, wherever the ring keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from policies.spec import InputError, Spec
from robopolicy.training.replay_arrays import ReplayArrays

Arrays = Mapping[str, np.ndarray]

_SPARE = 2  # rows beside those that count: the one that is being written, and the observation after the newest
_FIRST_ENDS = 64  # rows of the table of successors at first


class ReplayRing:
    """The newest rows of N worlds.

    Args:
        spec: Observation fields that are kept, and the length of actions.
        worlds: N.
        rows: How many control steps are kept.
        folder: Where the files of a ring on disk are, or are made; None: memory.

    Attributes:
        arrays: What is stored, see :class:`robopolicy.training.replay_arrays.ReplayArrays`.
        length: Rows of the ring, with the spare ones.

    Raises:
        InputError: if there is no room for it, or the folder holds another replay.
    """

    def __init__(self, spec: Spec, worlds: int, rows: int, folder: Path | None = None) -> None:
        self.spec, self.worlds, self.rows, self.length = spec, worlds, rows, rows + _SPARE
        self.fields = spec.observation.fields
        layout = {"worlds": worlds, "rows": rows, "spec": spec.fingerprint()}
        self.arrays = ReplayArrays(self._shapes(), folder, layout)
        self.successor, self.age = self.arrays["successor"], self.arrays["age"]
        self._ages = np.zeros(worlds, np.int32)  # steps that the running episode of every world has
        self.recount()

    @property
    def count(self) -> int:
        """Rows ever added."""
        return int(self.arrays.position[1])

    @property
    def oldest(self) -> int:
        """The first row that is still there."""
        return int(self.arrays.position[0])

    @property
    def size(self) -> int:
        """Transitions that are there."""
        return (self.count - self.oldest) * self.worlds

    def add(self, obs: Arrays, action: np.ndarray, reward: np.ndarray, next_obs: Arrays, terminated: np.ndarray, truncated: np.ndarray) -> None:
        """Append one control step of all worlds, instead of the oldest one where the ring is full.

        Args:
            obs: field -> (N, *shape), what was acted on: the last ``next_obs``, or the first of an episode after an end.
            action: (N, Da) normalised units.
            reward: (N,).
            next_obs: field -> (N, *shape), the true successor.
            terminated: (N,) bool.
            truncated: (N,) bool, the episode was cut; where both are set it terminated.
        """
        count = self.count
        if count - self.oldest == self.rows:
            self._drop_oldest()
        row, following, arrays = count % self.length, (count + 1) % self.length, self.arrays
        for name in self.fields:
            array = arrays[f"obs/{name}"]
            array[row], array[following] = obs[name], next_obs[name]
        arrays["action"][row], arrays["reward"][row], arrays["terminated"][row] = action, reward, terminated
        self.age[row], self.successor[row] = self._ages, -1
        ended = np.flatnonzero(terminated | truncated)
        if ended.size:
            self.successor[row, ended] = self._keep_successors({name: next_obs[name][ended] for name in self.fields})
        self._ages += 1
        arrays.position[1] = count + 1  # from here on it counts
        self.appeared(count, self._ages)
        self._ages[ended] = 0

    def cut(self) -> None:
        """Let the episodes that run end with the newest row, truncated; for worlds that were begun anew by hand."""
        count = self.count
        if count == self.oldest:
            return
        row = (count - 1) % self.length
        running = np.flatnonzero(self.successor[row] < 0)
        if running.size:
            following = {name: self.arrays[f"obs/{name}"][count % self.length][running] for name in self.fields}
            self.successor[row, running] = self._keep_successors(following)
        self._ages[:] = 0

    def rewind(self, count: int) -> None:
        """Forget the rows from the ``count``-th on, which are those of a part of a run that is being repeated.

        Raises:
            InputError: if so many were never added.
        """
        if not 0 <= count <= self.count:
            raise InputError(f"replay holds {self.count} steps of its worlds, expected {count} or more: it is of another run, or damaged")
        self.arrays.position[0] = min(self.oldest, count)
        self.arrays.position[1] = count
        self.recount()

    def appeared(self, row: int, ages: np.ndarray) -> None:
        """Note that ``row`` counts now; ``ages`` (N,) are the steps of the running episodes, this one included."""

    def vanishing(self, row: int) -> None:
        """Note that ``row``, the oldest, is about to be forgotten."""

    def recount(self) -> None:
        """Work out what is not stored: which places of the table are free, and how old the running episodes are."""
        used = self.successor[np.arange(self.oldest, self.count) % self.length].reshape(-1)
        used = used[used >= 0]
        self._ends = self._first_ends()
        if used.size and self._ends <= used.max():
            self._ends = int(used.max()) + 1
        for name in self.fields:
            self.arrays.grow(f"end/{name}", self._ends)
        free = np.ones(self._ends, bool)
        free[used] = False
        self._free: list[int] = np.flatnonzero(free)[::-1].tolist()
        newest = (self.count - 1) % self.length
        self._ages[:] = np.where(self.successor[newest] >= 0, 0, self.age[newest] + 1) if self.size else 0

    def stored(self, first: int, stop: int) -> dict[str, np.ndarray]:
        """Return copies of rows ``first`` to ``stop`` (all of which are there) as :meth:`append_stored` takes them."""
        rows = np.arange(first, stop) % self.length
        slots = self.successor[rows]
        out = {name: self.arrays[name][rows] for name in ("action", "reward", "terminated", "age")}
        out["ended"] = slots >= 0
        for name in self.fields:
            out[f"obs/{name}"] = self.arrays[f"obs/{name}"][rows]
            out[f"last/{name}"] = self.arrays[f"obs/{name}"][stop % self.length].copy()
            out[f"end/{name}"] = self.arrays[f"end/{name}"][slots[out["ended"]]]
        return out

    def append_stored(self, first: int, saved: Arrays) -> None:
        """Append rows that :meth:`stored` returned, the first of which was the ``first``-th ever added; :meth:`recount` comes after the last.

        Raises:
            InputError: if they do not follow on what is there, or are more than fit.
        """
        stop = first + len(saved["reward"])
        if not self.size:
            self.arrays.position[:] = first
        if first != self.count or stop - self.oldest > self.rows:
            raise InputError(f"replay: expected steps from {self.count} on, at most {self.rows}, found {first} to {stop}")
        rows = np.arange(first, stop) % self.length
        for name in ("action", "reward", "terminated", "age"):
            self.arrays[name][rows] = saved[name]
        for name in self.fields:
            self.arrays[f"obs/{name}"][rows] = saved[f"obs/{name}"]
            self.arrays[f"obs/{name}"][stop % self.length] = saved[f"last/{name}"]
        successor = np.full(saved["ended"].shape, -1, np.int32)
        successor[saved["ended"]] = self._keep_successors({name: saved[f"end/{name}"] for name in self.fields})
        self.successor[rows] = successor
        self.arrays.position[1] = stop

    def flush(self) -> None:
        """Bring a ring on disk to the disk."""
        self.arrays.flush()

    def place(self, index: np.ndarray) -> np.ndarray:
        """Return where (B,) the flat arrays keep transitions ``index`` (B,)."""
        return index // self.worlds % self.length * self.worlds + index % self.worlds

    def flat(self, name: str) -> np.ndarray:
        """Return array ``name`` with one row a transition, (rows N, *shape), a view."""
        array = self.arrays[name]
        return array.reshape(-1, *array.shape[2:])

    def _drop_oldest(self) -> None:
        oldest = self.oldest
        self.vanishing(oldest)
        self.arrays.position[0] = oldest + 1  # first: what it used may then be written over
        slots = self.successor[oldest % self.length]
        self._free.extend(slots[slots >= 0].tolist())

    def _keep_successors(self, following: Arrays) -> np.ndarray:
        """Write observations (K, *shape) into the table and return where (K,) int32."""
        needed = len(next(iter(following.values())))
        while len(self._free) < needed:
            there = self._ends
            self._ends = 2 * there
            for name in self.fields:
                self.arrays.grow(f"end/{name}", self._ends)
            self._free[:0] = range(self._ends - 1, there - 1, -1)
        slots = np.array([self._free.pop() for _ in range(needed)], np.int32)
        for name in self.fields:
            self.arrays[f"end/{name}"][slots] = following[name]
        return slots

    def _first_ends(self) -> int:
        return max(_FIRST_ENDS, self.worlds)

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        ring = (self.length, self.worlds)
        kinds = {name: "uint8" if f.dtype == "uint8" else "float32" for name, f in self.fields.items()}
        shapes: dict[str, tuple[tuple[int, ...], str]] = {f"obs/{name}": ((*ring, *f.shape), kinds[name]) for name, f in self.fields.items()}
        shapes |= {f"end/{name}": ((self._first_ends(), *f.shape), kinds[name]) for name, f in self.fields.items()}
        shapes |= {"action": ((*ring, self.spec.action.dim), "float32"), "reward": (ring, "float32"), "terminated": (ring, "bool")}
        return shapes | {"age": (ring, "int32"), "successor": (ring, "int32")}
