"""Whole blocks on one or more processes: what comes out does not depend on how many there are.

Workers are never forked off this process (forking one that has run torch or OpenGL hangs or crashes it), see
``robopolicy.worker_processes``. Each makes its own worlds and policy, fixes its torch thread count and takes the next block until
none is left. The parent watches pipes and processes together, so a worker that dies is an error at once and never a wait.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.base import Policy
from policies.spec import InputError
from robopolicy.evaluation.blocks import BlockResult, ExpertPlanner, Planner, PolicyPlanner, Report, run_block
from robopolicy.worker_processes import begin_worker, uninterrupted, worker_context, worker_environment
from sim.env import BatchEnv

if TYPE_CHECKING:
    from robopolicy.cluster import Cluster

#: Told which block is at which (control steps (n,), ended (n,), success (n,)).
Progress = Callable[[int, np.ndarray, np.ndarray, np.ndarray], None]
#: Told, where the blocks were asked for, that a block is done.
Done = Callable[[int, BlockResult], None]
#: Runs the block of a number.
RunBlock = Callable[[int, Report | None], BlockResult]


class WorkerCrash(RuntimeError):
    """A worker process died or failed; the message is one line."""


@dataclass(frozen=True)
class Job:
    """Everything a process needs to run blocks; goes to workers whole.

    Attributes:
        make_env: (num_worlds) -> BatchEnv, auto-reset off; a module-level function or a partial of one.
        make_policy: () -> Policy, or None for the expert.
        block: B.
        threads: Torch threads.
        noise_seed: Key of the policy's noise.
        blocks: (index of the first episode, seeds (n,)) of every block.
    """

    make_env: Callable[[int], BatchEnv]
    make_policy: Callable[[], Policy] | None
    block: int
    threads: int
    noise_seed: int
    blocks: Sequence[tuple[int, np.ndarray]]

    def arithmetic(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which blocks run; the expert needs no torch, and does not wait for it to be loaded."""
        return contextlib.nullcontext() if self.make_policy is None else torch_threads(self.threads)

    def planner(self, env: BatchEnv) -> Planner:
        """Make what gives the actions in ``env``."""
        return ExpertPlanner(env) if self.make_policy is None else PolicyPlanner(self.make_policy(), self.noise_seed)

    @contextlib.contextmanager
    def opened(self) -> Iterator[RunBlock]:
        """Make worlds and policy in this process, and yield what runs a block in them."""
        with self.arithmetic(), contextlib.closing(self.make_env(self.block)) as env:
            planner = self.planner(env)
            yield lambda number, report: run_block(env, planner, self.blocks[number][1], self.blocks[number][0], report)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run with ``count`` torch threads, then as before: sums over another number of threads round differently."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(job: Job, workers: int, progress: Progress | None = None, done: Done | None = None) -> list[BlockResult]:
    """Run every block of ``job`` on ``workers`` processes (1: this one) and return the results in order of blocks.

    ``done`` is called here as each block ends, in the order in which they do.

    Raises:
        InputError: what a worker said about its input.
        WorkerCrash: if a worker failed or died, with the block it was running.
    """
    workers = min(workers, len(job.blocks))
    return _run_here(job, progress, done) if workers == 1 else _Pool(job, workers, progress, done).run()


def run_on(cluster: Cluster, job: Job, progress: Progress | None = None, done: Done | None = None) -> list[BlockResult]:
    """Run every block of ``job`` on a Ray cluster, with the same bits, and return the results in order of blocks.

    ``done`` is called here as each block ends.

    Raises:
        InputError: what a worker said about its input.
        WorkerCrash: if a worker failed, or died twice in one block.
    """
    from robopolicy.cluster import WorkerDied

    results: dict[int, BlockResult] = {}
    try:
        for number, result in cluster.each(functools.partial(_begin, job), range(len(job.blocks))):
            results[number] = result
            if done:
                done(number, result)
            if progress:
                lengths, successes = (np.array([getattr(e, name) for e in result.episodes]) for name in ("length", "success"))
                progress(number, lengths, np.ones(len(lengths), bool), successes)
    except WorkerDied as error:
        raise WorkerCrash(f"{error} (blocks of {job.block} episodes are counted from 0)") from error
    return [results[i] for i in range(len(results))]


def _begin(job: Job) -> Callable[[int], BlockResult]:
    """Make worlds and policy in a worker of a cluster, where they live as long as it does; returns what runs a block by its number."""
    forever = contextlib.ExitStack()
    run_one = forever.enter_context(job.opened())

    def run_silently(number: int) -> BlockResult:
        assert forever is not None  # kept with this function: what it holds must not end
        return run_one(number, None)

    return run_silently


def _run_here(job: Job, progress: Progress | None, done: Done | None) -> list[BlockResult]:
    with job.opened() as run_one:
        out = []
        for i in range(len(job.blocks)):
            out.append(run_one(i, _report(progress, i)))
            if done:
                done(i, out[-1])
        return out


def _report(progress: Progress | None, block: int) -> Report | None:
    return None if progress is None else lambda steps, ended, success: progress(block, steps, ended, success)


def _work(connection: multiprocessing.connection.Connection, job: Job, environment: Mapping[str, str]) -> None:
    """Body of a worker: receive block numbers, send ``(kind, payload)`` until None comes."""
    begin_worker(environment)

    def send(block: int, steps: np.ndarray, ended: np.ndarray, success: np.ndarray) -> None:
        connection.send(("progress", (block, steps.copy(), ended.copy(), success.copy())))

    try:
        with job.opened() as run_one:
            connection.send(("ready", None))
            while (number := connection.recv()) is not None:
                connection.send(("done", (number, run_one(number, _report(send, number)))))
    except InputError as error:
        connection.send(("input", str(error)))
    except (EOFError, BrokenPipeError):
        return  # the parent is gone
    except Exception as error:  # whatever it is, the parent must hear of it
        frame = traceback.extract_tb(error.__traceback__)[-1]
        connection.send(("failed", f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"))


@dataclass
class _Worker:
    process: BaseProcess
    connection: multiprocessing.connection.Connection
    block: int | None = None


@dataclass
class _Pool:
    job: Job
    count: int
    progress: Progress | None
    done: Done | None = None
    workers: list[_Worker] = field(default_factory=list)

    def run(self) -> list[BlockResult]:
        """Hand out blocks until all results are in; every process is gone when this returns or raises."""
        results: dict[int, BlockResult] = {}
        waiting = list(range(len(self.job.blocks)))[::-1]
        try:
            self._start()
            while len(results) < len(self.job.blocks):
                for worker in self._with_news():
                    kind, payload = self._receive(worker)
                    if kind == "progress" and self.progress:
                        self.progress(*payload)
                    if kind == "done":
                        results[payload[0]] = payload[1]
                        if self.done:
                            self.done(*payload)
                    if kind in ("ready", "done"):
                        worker.block = waiting.pop() if waiting else None
                        with contextlib.suppress(BrokenPipeError):  # it has died: its end of file says so
                            worker.connection.send(worker.block)
            return [results[i] for i in range(len(results))]
        finally:
            self._stop()

    def _start(self) -> None:
        context = worker_context(self.job.make_policy is not None)
        for _ in range(self.count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, self.job, worker_environment()), daemon=True)
            with uninterrupted():
                process.start()
                theirs.close()  # so that our end sees the end of file when the worker is gone
                self.workers.append(_Worker(process, ours))

    def _with_news(self) -> list[_Worker]:
        """Wait until a worker has sent something or died."""
        open_workers = [w for w in self.workers if not w.connection.closed]
        if not open_workers:
            raise WorkerCrash("all evaluation workers ended before the last block was done")
        handles: list[Any] = [w.connection for w in open_workers]
        ready = multiprocessing.connection.wait(handles)
        return [w for w in open_workers if w.connection in ready]

    def _receive(self, worker: _Worker) -> tuple[str, Any]:
        try:
            kind, payload = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            worker.connection.close()
            if worker.process.exitcode == 0:  # it was told that there is no block left
                return "ended", None
            raise WorkerCrash(f"evaluation worker died ({_cause(worker.process.exitcode)}) {self._doing(worker)}") from None
        if kind == "input":
            raise InputError(payload)
        if kind == "failed":
            raise WorkerCrash(f"evaluation worker failed {self._doing(worker)}: {payload}")
        return kind, payload

    def _doing(self, worker: _Worker) -> str:
        if worker.block is None:
            return "while starting"
        seeds = self.job.blocks[worker.block][1]
        return f"in block {worker.block} (seeds {seeds[0]} to {seeds[-1]})"

    def _stop(self) -> None:
        for worker in self.workers:
            worker.connection.close()
        for worker in self.workers:
            worker.process.join(0.5)
            if worker.process.is_alive():
                worker.process.terminate()
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _cause(code: int | None) -> str:
    if code is None:
        return "still running, but its pipe is closed"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"{name}; out of memory?" if name == "SIGKILL" else name
    return f"exit code {code}"
