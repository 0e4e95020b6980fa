"""Training and measuring every way to act, two processes at once, in an order in which teachers come before students.

Resumable: checkpoints stay, a training that was cut short goes on, and a figure is one line of ``results.jsonl`` under a
key of everything that it depends on, the checkpoint's fingerprint included.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from policies.spec import InputError
from robopolicy.bench.few_steps import WAYS, Way, build, missing
from robopolicy.bench.few_steps_beds import Bed, Measured
from robopolicy.evaluation.study import append_result, read_results
from robopolicy.worker_processes import worker_pool

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Job:
    """One training (``calls`` 0), or one measurement.

    Attributes:
        bed: Where.
        way: The way that is measured, or one that is trained like this.
        calls: Network calls a plan.
        run: Folder of the training.
        after: Folder of the teacher's training, or None.
    """

    bed: Bed
    way: Way
    calls: int
    run: Path
    after: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """The final checkpoint of its training."""
        from robopolicy.training.run_folder import RunFolder

        return RunFolder(self.run).checkpoint(self.bed.updates)

    @property
    def weight(self) -> float:
        """Rough share of the whole, for the time that is left."""
        return 40.0 if self.calls == 0 else 2.0 + self.calls / 5

    def key(self) -> str:
        """Return what a result depends on; the checkpoint must be there."""
        from policies.checkpoint import fingerprint

        about = {k: v for k, v in dataclasses.asdict(self.bed).items() if k not in ("title", "quick", "quantity", "better")}
        told = [dict(self.way.sample), dict(self.way.calls.get(self.calls, {})), self.way.method]
        return json.dumps([about, self.way.label, self.calls, told, fingerprint(self.checkpoint)], sort_keys=True)


@dataclass
class Outcome:
    """Everything that was measured.

    Attributes:
        measured: (bed's name, way's label) -> asked calls -> figures.
        trainings: (bed's name, way's label) -> seconds and parameters of its training.
        missing: Bed's name -> what could not be measured, and why.
    """

    measured: dict[tuple[str, str], dict[int, Measured]]
    trainings: dict[tuple[str, str], dict[str, float]]
    missing: dict[str, list[str]]


def measure_all(beds: Sequence[Bed], folder: Path, workers: int = 2, progress: bool = True, ways: Sequence[Way] = WAYS) -> Outcome:
    """Train and measure what has no result yet, and return everything.

    Args:
        beds: Where to compare.
        folder: ``results.jsonl``, and for each bed its data and training runs.
        workers: Processes at once, one torch thread each; 0: all in this process.
        progress: Show a bar with the time left.
        ways: What to compare.

    Raises:
        InputError: if data cannot be made, or a process dies; results so far stay.
    """
    for bed in beds:
        bed.prepare(folder / bed.name)
    absent = missing(tuple(ways))
    out = Outcome({}, {}, {bed.name: [f"{label}: {why}" for label, why in absent.items()] for bed in beds})
    jobs = [job for bed in beds for way in ways if way.label not in absent for job in _jobs(bed, way, folder / bed.name)]
    trainings: dict[Path, Job] = {}
    for job in jobs:
        if job.calls == 0:
            trainings.setdefault(job.run, job)  # of ways that share one, the first
    samplings = [job for job in jobs if job.calls]
    results = {row["key"]: row for row in read_results(folder)}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[now]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not progress) as bar:
        shown = bar.add_task("policies", total=sum(j.weight for j in (*trainings.values(), *samplings)), now="")
        for job, row, error in _run(list(trainings.values()), samplings, results, workers):
            bar.update(shown, advance=job.weight, now=f"{job.bed.name}: {job.way.label}" + (f", {job.calls} calls" if job.calls else ""))
            if error is not None:
                what = f"{job.way.label} at {job.calls} calls" if job.calls else f"{job.way.label} and what hangs on its training"
                out.missing[job.bed.name].append(f"{what}: {error}")
            elif row["key"] not in results:
                append_result(folder / RESULTS, row)
                results[row["key"]] = row
    for job in (*trainings.values(), *samplings):
        row = results.get(job.key()) if job.checkpoint.is_dir() else None
        if row is None:
            continue
        if job.calls:
            out.measured.setdefault((job.bed.name, job.way.label), {})[job.calls] = Measured(**{k: row[k] for k in ("calls", "values", "also")})
        else:
            out.trainings[job.bed.name, job.way.label] = row["also"]
    return out


def _jobs(bed: Bed, way: Way, folder: Path) -> Iterator[Job]:
    """Yield the teacher's training where there is one, the way's own, and a measurement for each number of calls."""
    run, after = Path(bed.training(way, folder).output), None
    if way.teacher is not None:
        after = Path(bed.recipe(way.teacher, {}, folder).output)
        yield Job(bed, Way(f"teacher {way.teacher}", way.teacher, {}), 0, after)
    yield Job(bed, way, 0, run, after)
    yield from (Job(bed, way, calls, run) for calls in way.calls)


def _run(trainings: list[Job], samplings: list[Job], results: dict[str, Any], workers: int) -> Iterator[tuple[Job, dict[str, Any], str | None]]:
    """Yield every job with its row, or with one line of why there is none, as they are done."""
    waiting, failed, pending = [*trainings, *samplings], set[Path](), {}
    trained = {job.run for job in trainings if (job.checkpoint / "manifest.json").is_file()}
    with _executor(workers) as pool:
        try:
            while waiting or pending:
                for job in list(waiting):
                    needed = job.run if job.calls else job.after
                    if needed in failed:
                        waiting.remove(job)
                        failed |= {job.run} if not job.calls else set()
                    elif needed is None or needed in trained:
                        waiting.remove(job)
                        done = job.run in trained and results.get(job.key())
                        if done:
                            yield job, done, None
                        else:
                            pending[pool.submit(run_job, job)] = job
                for future in concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED).done:
                    job = pending.pop(future)
                    row, error = future.result()
                    if not job.calls:
                        (failed if error else trained).add(job.run)
                    yield job, row, error
        except concurrent.futures.process.BrokenProcessPool as error:
            raise InputError("benchmark: a process died (out of memory?); run the same command to go on") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Here(concurrent.futures.Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Return a future that is done; an exception goes up from here."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _executor(workers: int) -> concurrent.futures.Executor:
    if workers == 0:
        return Here()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the processes, before they import torch
    return worker_pool(workers, True)


def run_job(job: Job) -> tuple[dict[str, Any], str | None]:
    """Train or measure, in a process of its own; returns the row, or an empty one and why.

    One way that fails, in whatever way, must not cost the others their figures.
    """
    import torch

    torch.set_num_threads(1)
    began = time.perf_counter()
    try:
        measured = _train(job) if job.calls == 0 else job.bed.measure(build(job.checkpoint, job.way, job.calls))
        row = dataclasses.asdict(measured) | {"seconds": time.perf_counter() - began}
        return json.loads(json.dumps({"key": job.key(), **row})), None
    except Exception as error:
        lines = str(error).strip().splitlines()
        return {}, (lines or [""])[0] if isinstance(error, InputError) else f"{type(error).__name__}: {(lines or [''])[0]}"


def _train(job: Job) -> Measured:
    from policies.checkpoint import load
    from robopolicy.training.imitation import train

    root = job.run.parent.parent
    recipe = job.bed.training(job.way, root)
    result = train(recipe, progress=False, note=lambda text: None)
    size = sum(p.numel() for p in load(result.checkpoint).parameters())
    return Measured(0.0, [], {"seconds": result.seconds, "parameters": float(size)})
