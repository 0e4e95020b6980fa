"""Worker processes: forked off a server that has imported what they need, and gone when the process that asked for them is.

A process that is started anew imports torch for itself: two seconds of a core and some 200 MB each. On Linux one server imports it,
starts no thread, and forks the workers; elsewhere they are spawned, since other systems' libraries do not survive a fork. Workers are
told the environment of the moment in which they were asked for, and end when their parent has gone, killed or not. Ctrl-C, which a terminal
sends to all of them, ends what a pool's workers are doing without a word: what there is to say is their parent's.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import resource_tracker
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
    resource_tracker.ensure_running()  # by itself first: where it is started, Ctrl-C is let through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C does not reach the server while it imports, either
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # what came meanwhile comes now
    return made


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back while workers are started: one whose parent went in that moment would complain that it finds nothing."""
    if not _on_main():  # no other thread is interrupted
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _on_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def worker_environment() -> dict[str, str]:
    """Return this process's environment, for :func:`begin_worker`."""
    return dict(os.environ)


def begin_worker(environment: Mapping[str, str]) -> None:
    """Begin a worker: with the environment of its parent, deaf to Ctrl-C, and with an end when the parent has gone."""
    _answer_to_interrupts(signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by multiprocessing"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _answer_to_interrupts(handler: Any) -> None:
    """Set what Ctrl-C does in this worker, which was forked with it held back."""
    signal.signal(signal.SIGINT, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def worker_pool(count: int, learnt: bool, initializer: Callable[..., Any] | None = None, arguments: tuple[Any, ...] = ()) -> ProcessPoolExecutor:
    """Return ``count`` workers that calls can be submitted to; each calls ``initializer(*arguments)`` first."""
    return _Pool(count, worker_context(learnt), _begin, (worker_environment(), initializer, arguments))


class _Pool(ProcessPoolExecutor):
    """Starts its workers when calls are submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See base class."""
        with uninterrupted():
            return super().submit(_call, fn, args, kwargs)


class _Interruption:
    """Ctrl-C in a worker of a pool: it ends the call and those that are queued. One that died of it would be a crash to the pool."""

    busy = came = False

    @classmethod
    def note(cls, *_: object) -> None:
        cls.came = True
        if cls.busy:
            raise KeyboardInterrupt


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    _Interruption.busy = True
    try:
        if _Interruption.came:
            raise KeyboardInterrupt
        return fn(*args, **kwargs)
    finally:
        _Interruption.busy = False


def _begin(environment: Mapping[str, str], initializer: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> None:
    begin_worker(environment)
    _answer_to_interrupts(_Interruption.note)
    if initializer is not None:
        initializer(*arguments)
