"""Work spread over a Ray cluster: one that runs already, or one on this machine that lives as long as the work.

Ray moves functions and results between processes, and looks after machines. What is computed does not depend on it: blocks
of episodes and cells of a sweep are independent of the worker that runs them. Usage statistics, dashboard and log
forwarding are off. The cluster of this machine asks for a token that only its own processes know, as Ray listens on every
interface; for a cluster of several machines Ray's own documentation says how to guard it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.spec import InputError

#: Word in ``--engine`` that asks for a cluster.
RAY = "ray"
_STORE_BYTES = 512 << 20  # results on their way, in shared memory; more go to the disk
_TRIES = 2  # of one item, where the worker dies

#: () -> (item) -> result: called once in every worker, which then works off items.
Begin = Callable[[], Callable[[Any], Any]]


class WorkerDied(RuntimeError):
    """A worker on the cluster died twice over the same item, or failed; the message is one line."""


def split_engine(text: str | None) -> tuple[str | None, bool]:
    """Split what ``--engine`` was given into the physics engine (None: not named) and whether work goes to a Ray cluster.

    Raises:
        InputError: for two engines of one kind, or nothing between commas.
    """
    words = [word.strip() for word in (text or "").split(",")] if text is not None else []
    physics = [word for word in words if word != RAY]
    if len(physics) > 1 or words.count(RAY) > 1 or "" in words:
        raise InputError(f"--engine {text}: expected what steps the worlds (mujoco, warp, bullet), ray, or both as in bullet,ray")
    return (physics[0] if physics else None), RAY in words


@contextlib.contextmanager
def opened(workers: int, address: str | None = None) -> Iterator[Cluster]:
    """Connect to the cluster at ``address`` (None: that of ``RAY_ADDRESS``), or start one here with ``workers`` CPUs, and end it afterwards.

    Raises:
        InputError: if Ray is not installed, or there is no cluster at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    ray = _imported(guarded=address is None)  # first: without it no folder is made
    folder = None if address else Path(tempfile.mkdtemp(prefix="robopolicy-ray-", dir="/tmp" if Path("/tmp").is_dir() else None))
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR, "namespace": f"robopolicy-{os.getpid()}"}
    place: dict[str, Any] = {"address": address} if address else {
        "address": "local", "num_cpus": workers, "include_dashboard": False, "object_store_memory": _STORE_BYTES,
        "_node_ip_address": "127.0.0.1", "_temp_dir": str(folder),
    }  # fmt: skip
    try:
        with _own_signals():
            with _without_chatter(ray):
                ray.init(runtime_env={"env_vars": _environment()}, **place, **quiet)
            try:
                yield Cluster(ray, workers)
            finally:
                ray.shutdown()
    except (ConnectionError, ray.exceptions.RaySystemError, ray.exceptions.AuthenticationError, TimeoutError) as error:
        raise InputError(f"Ray cluster {address or 'on this machine'}: {' '.join(str(error).split())[:300]}") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _imported(guarded: bool) -> Any:
    """Import Ray with its talk and its statistics off. Raises InputError where it is missing."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_USAGE_STATS_PROMPT_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    if guarded and "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32))
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise InputError("--engine ray needs Ray, which is not installed: pip install 'robopolicy[ray]'") from error
    return ray


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Give SIGTERM back to who had it: Ray takes it, and keeps it."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


def _environment() -> dict[str, str]:
    """Return what workers find in their environment: this package where there is a source tree, and one thread until more are asked for."""
    root = str(Path(__file__).resolve().parent.parent)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@contextlib.contextmanager
def _without_chatter(ray: Any) -> Iterator[None]:
    """Keep Ray's own lines about its start to errors, and off standard output those about workers that died: JSON may go there."""
    said = getattr(ray, "_private", None) and getattr(ray._private, "worker", None)
    if said is not None and hasattr(said, "print_to_stdstream"):
        said.print_to_stdstream = lambda *told, **how: None
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def opened_for(wanted: bool, workers: int, address: str | None) -> AbstractContextManager[Cluster | None]:
    """Return the context of :func:`opened` where a cluster is ``wanted``, else of None. Raises InputError for an address without one."""
    if not wanted and address is not None:
        raise InputError(f"--address {address}: goes with --engine ray")
    return opened(workers, address) if wanted else contextlib.nullcontext()


@dataclass
class Task:
    """One item on its way.

    Attributes:
        item: What is worked off.
        worker: Which worker has it.
        place: Where Ray keeps the result.
        deaths: Workers that died over it.
    """

    item: Any
    worker: int
    place: Any = None
    deaths: int = 0


class Cluster:
    """A cluster that work can be given to; made by :func:`opened`.

    Args:
        ray: The module.
        workers: Workers of one pool.
    """

    def __init__(self, ray: Any, workers: int) -> None:
        self._ray, self.workers = ray, workers

    @contextlib.contextmanager
    def pool(self, begin: Begin, workers: int | None = None) -> Iterator[Pool]:
        """Yield workers, at most ``workers`` of them, that each call ``begin`` once; they end with the context."""
        pool = Pool(self._ray, begin, min(self.workers, workers or self.workers))
        try:
            yield pool
        finally:
            pool.close()

    def each(self, begin: Begin, items: Sequence[Any], failed: Callable[[WorkerDied], Any] | None = None) -> Iterator[tuple[int, Any]]:
        """Yield (index, result) of all ``items`` as they are done.

        Args:
            begin: Called once in every worker.
            items: What is worked off.
            failed: Says what stands for the result of an item over which a worker failed, or died twice; None: that is raised.

        Raises:
            InputError: what a worker said about its input.
            WorkerDied: if a worker failed, or died twice over one item, and there is no ``failed``.
        """
        with self.pool(begin, len(items)) as pool:
            waiting = list(enumerate(items))[::-1]
            running: dict[int, Task] = {}
            while waiting or running:
                while waiting and len(running) < 2 * pool.size:
                    index, item = waiting.pop()
                    running[index] = pool.submit(item)
                for index in pool.ready(running):
                    try:
                        result = pool.result(running.pop(index))
                    except WorkerDied as error:
                        if failed is None:
                            raise
                        result = failed(error)
                    yield index, result


class Pool:
    """Workers in processes of the cluster, one CPU each; see :meth:`Cluster.pool`."""

    def __init__(self, ray: Any, begin: Begin, size: int) -> None:
        self._ray, self._begin, self.size = ray, begin, max(1, size)
        self._class = ray.remote(num_cpus=1, max_restarts=0)(_Worker)
        self._workers = [self._class.remote(begin) for _ in range(self.size)]
        self._queues: list[list[Task]] = [[] for _ in range(self.size)]  # what every worker has been given and is not fetched, in its order

    def submit(self, item: Any) -> Task:
        """Give ``item`` to the worker that has the fewest."""
        worker = min(range(self.size), key=lambda index: len(self._queues[index]))
        task = Task(item, worker)
        self._give(task, self._queues[worker][-1:])
        self._queues[worker].append(task)
        return task

    def ready(self, running: dict[int, Task]) -> list[int]:
        """Wait until one of ``running`` is done (or its worker is dead), and return which ones are."""
        by_place = {task.place: index for index, task in running.items()}
        done, _ = self._ray.wait(list(by_place), num_returns=1)
        return [by_place[place] for place in done]

    def result(self, task: Task) -> Any:
        """Wait for the result of ``task``; where its worker has died another one begins anew, once.

        Raises:
            InputError: what a worker said about its input.
            WorkerDied: as the class says.
        """
        while True:
            try:
                kind, value = self._ray.get(task.place)
                break
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.WorkerCrashedError) as error:
                if task.deaths < _TRIES:
                    self._replace(task.worker)
                if task.deaths == _TRIES:
                    self._queues[task.worker].remove(task)
                    raise WorkerDied(f"a worker on the Ray cluster died twice (out of memory?) over {_short(task.item)}") from error
        self._queues[task.worker].remove(task)
        if kind == "input":
            raise InputError(value)
        if kind == "failed":
            raise WorkerDied(f"a worker on the Ray cluster failed over {_short(task.item)}: {value}")
        return value

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            self._ray.kill(worker)

    def _replace(self, worker: int) -> None:
        """Begin another worker in place of one that has died, and give it what that left; only what that was at counts as tried."""
        left = [task for task in self._queues[worker] if task.deaths < _TRIES and not self._is_done(task)]
        left[0].deaths += 1
        self._workers[worker] = self._class.remote(self._begin)
        again = [task for task in left if task.deaths < _TRIES]
        for i, task in enumerate(again):
            self._give(task, again[max(i - 1, 0) : i])

    def _give(self, task: Task, before: Sequence[Task]) -> None:
        """Hand ``task`` to its worker, behind ``before`` (one, or none).

        A worker that is killed takes an answer with it that is still on its way, so the task before may be counted as what it died over,
        though it is innocent. Once only: behind a task that has been counted the next waits, as its argument, for the answer to be here.
        """
        answers = [other.place for other in before if other.deaths]
        task.place = self._workers[task.worker].work.remote(task.item, *answers)

    def _is_done(self, task: Task) -> bool:
        try:
            self._ray.get(task.place, timeout=0)
        except (self._ray.exceptions.RayError, TimeoutError):
            return False
        return True


class _Worker:
    """What lives in a process of the cluster."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._work: Callable[[Any], Any] | None = None

    def work(self, item: Any, *answers: Any) -> tuple[str, Any]:
        """Return (``done``, result), or (``input`` | ``failed``, one line); ``answers`` to what came before are only waited for."""
        try:
            if self._work is None:
                self._work = self._begin()
            return "done", self._work(item)
        except InputError as error:
            return "input", str(error)
        except Exception as error:  # whatever it is, who waits must hear of it
            frame = traceback.extract_tb(error.__traceback__)[-1]
            return "failed", f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


def _short(item: Any) -> str:
    text = " ".join(repr(item).split())
    return text if len(text) < 80 else text[:77] + "..."
