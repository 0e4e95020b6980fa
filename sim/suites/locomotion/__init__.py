"""Legged bodies of our own design: run forward, follow velocity commands on flat and on rough ground."""

from sim.registry import Entry, modules_entries


def entries() -> list[Entry]:
    """Return the tasks of every module of this package."""
    return modules_entries(__name__)
