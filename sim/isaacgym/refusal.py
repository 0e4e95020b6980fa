"""How everything that is not here says so: one line that names the call and the nearest one that exists."""

from __future__ import annotations

from collections.abc import Iterable

from policies.spec import InputError, suggest


class NotCovered(InputError, AttributeError):
    """A name of the Isaac Gym interface that these worlds do not have. An AttributeError too, so that ``hasattr`` answers."""


def refuse(owner: str, name: str, known: Iterable[str]) -> NotCovered:
    """Return the error for ``owner.name``, which is none of ``known``."""
    return NotCovered(f"{owner}.{name} is not covered by sim.isaacgym{suggest(name, known)}")
