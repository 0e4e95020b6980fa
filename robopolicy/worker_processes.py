"""Worker processes: forked off a server that has imported what they need, and gone when the process that asked for them is.

A process that is started anew imports torch for itself: two seconds of a core and some 200 MB each. On Linux one server imports it,
starts no thread, and forks the workers; elsewhere they are spawned, since other systems' libraries do not survive a fork. Workers are
told the environment of the moment in which they were asked for, and end when their parent has gone, killed or not.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

_IMPORTED = ("numpy", "robopolicy.evaluation.blocks", "sim.registry")
_LEARNT = (*_IMPORTED, "torch", "policies.checkpoint")


def worker_context(learnt: bool) -> ForkServerContext | SpawnContext:
    """Return the context of multiprocessing that workers are started in.

    Args:
        learnt: Whether they will need torch; the server keeps what it was first asked for.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(list(_LEARNT if learnt else _IMPORTED))
    return made


def worker_environment() -> dict[str, str]:
    """Return this process's environment, for :func:`begin_worker`."""
    return dict(os.environ)


def begin_worker(environment: Mapping[str, str]) -> None:
    """Begin a worker: with the environment of its parent, and with an end when the parent has gone."""
    os.environ.clear()
    os.environ.update(environment)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by multiprocessing"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def worker_pool(count: int, learnt: bool, initializer: Callable[..., Any] | None = None, arguments: tuple[Any, ...] = ()) -> ProcessPoolExecutor:
    """Return ``count`` workers that calls can be submitted to; each calls ``initializer(*arguments)`` first."""
    return ProcessPoolExecutor(count, worker_context(learnt), _begin, (worker_environment(), initializer, arguments))


def _begin(environment: Mapping[str, str], initializer: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> None:
    begin_worker(environment)
    if initializer is not None:
        initializer(*arguments)
