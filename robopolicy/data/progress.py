"""A progress bar over jobs, on a terminal only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

Job = TypeVar("Job")


def tracked(jobs: Sequence[Job], title: str, shown: bool) -> Iterable[Job]:
    """Return ``jobs``, showing how far they are while they are gone through, if ``shown`` and someone can see it."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(jobs, title, console=console, transient=True) if shown and console.is_terminal else jobs
