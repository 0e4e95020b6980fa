"""A quadrotor of one kilogram: hover, fly through points, keep a ball bouncing on a racket. All is our own (``quadrotor.xml``)."""

from sim.registry import Entry, modules_entries


def entries() -> list[Entry]:
    """Return the suite's tasks."""
    return modules_entries(__name__)
