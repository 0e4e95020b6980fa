"""Small classic control tasks; the smallest of them is the template for a task of one's own."""

from sim.registry import Entry, modules_entries


def entries() -> list[Entry]:
    """Return the tasks of every module of this package."""
    return modules_entries(__name__)
