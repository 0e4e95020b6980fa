"""Mirror symmetry of a task: which elements of an observation or action change places, and which change sign.

A task that has one says so once (``MujocoTask.mirror``), by the names of the elements of its spec. What it promises: if a world
in state s goes to s' by action a, then the mirrored world goes to mirrored s' by mirrored a, with the same reward.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.spec import InputError


@dataclass(frozen=True)
class Mirror:
    """Left becomes right.

    Attributes:
        swapped: Pairs of beginnings of names: ``("fl_", "fr_")`` lets ``fl_hip.velocity`` and ``fr_hip.velocity`` change places.
        flipped: Patterns (``fnmatch``) of the names whose numbers change sign.
    """

    swapped: tuple[tuple[str, str], ...] = ()
    flipped: tuple[str, ...] = ()

    def of(self, names: Sequence[str], what: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (order, sign), (n,) int64 and float32: mirrored[i] = sign[i] * x[order[i]].

        Args:
            names: Of the n elements.
            what: They are, for messages.

        Raises:
            InputError: one line, if there are no names, or the partner of one is missing.
        """
        if not names:
            raise InputError(f"{what}: its elements have no names, which a mirror goes by; leave it out")
        index = {name: i for i, name in enumerate(names)}
        order = np.zeros(len(names), np.int64)
        for i, name in enumerate(names):
            partner = self._partner(name)
            if partner not in index:
                raise InputError(f"{what}: element {name!r} mirrors {partner!r}, which it does not have")
            order[i] = index[partner]
        sign = np.array([-1.0 if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.flipped) else 1.0 for name in names], np.float32)
        if (sign != sign[order]).any():
            odd = names[int(np.flatnonzero(sign != sign[order])[0])]
            raise InputError(f"{what}: element {odd!r} and its mirror {self._partner(odd)!r} do not both change sign")
        return order, sign

    def _partner(self, name: str) -> str:
        for left, right in self.swapped:
            for here, there in ((left, right), (right, left)):
                if name.startswith(here):
                    return there + name[len(here) :]
        return name
