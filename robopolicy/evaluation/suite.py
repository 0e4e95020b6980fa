"""One policy over every task of a set: whole blocks of all tasks on any number of workers, one record a task, and their mean.

Blocks are handed out task by task, and whoever is free takes the next: no worker waits for another's task. A task's records are
those of :func:`robopolicy.evaluation.rollout.evaluate` bit for bit. A task that is in the ledger already, of the same checkpoint,
world and seeds, is not run again, so a stopped evaluation goes on where it was.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.base import Policy
from policies.spec import InputError
from robopolicy.conditioning import require_task_set, task_set
from robopolicy.config import validate
from robopolicy.evaluation import ledger, seeds
from robopolicy.evaluation.aggregate import aggregates
from robopolicy.evaluation.blocks import BlockResult, Report, run_block, split
from robopolicy.evaluation.composition import Composition
from robopolicy.evaluation.earlier import earlier
from robopolicy.evaluation.records import Evaluation
from robopolicy.evaluation.rollout import episode_bar, evaluate, make_world, recorded, require_fit, require_place
from robopolicy.evaluation.statistics import mean_rate
from robopolicy.evaluation.subject import EXPERT, Defaults, Subject, read_defaults, take
from robopolicy.evaluation.workers import Job, RunBlock, run, run_on
from robopolicy.recipe import EvaluationConfig
from robopolicy.training.run_folder import find_checkpoint
from sim.env import BatchEnv

if TYPE_CHECKING:
    from robopolicy.cluster import Cluster


@dataclass(frozen=True)
class SuiteJob(Job):
    """Blocks of several tasks; see :class:`robopolicy.evaluation.workers.Job`.

    Attributes:
        worlds: (num_worlds) -> BatchEnv of every task.
        task_of: Which of them each block is of.
    """

    worlds: Sequence[Callable[[int], BatchEnv]] = ()
    task_of: Sequence[int] = ()

    @contextlib.contextmanager
    def opened(self) -> Iterator[RunBlock]:
        """Make the policy, and worlds anew whenever the next block is of another task."""
        policy = None if self.make_policy is None else self.make_policy()
        whose = self if policy is None else Job(self.make_env, lambda: policy, self.block, self.threads, self.noise_seed, self.blocks)
        with self.arithmetic(), contextlib.ExitStack() as worlds:
            now: list[Any] = [None, None, None]

            def run_one(number: int, report: Report | None) -> BlockResult:
                if now[0] != self.task_of[number]:
                    worlds.close()
                    env = worlds.enter_context(contextlib.closing(self.worlds[self.task_of[number]](self.block)))
                    now[:] = self.task_of[number], env, whose.planner(env)
                first, own = self.blocks[number]
                return run_block(now[1], now[2], own, first, report)

            yield run_one


@dataclass(frozen=True)
class SuiteResult:
    """What came out.

    Attributes:
        name: Of the set, e.g. ``mt10``.
        evaluations: One of each task, in the set's order.
        reused: How many of them were in the ledger already.
    """

    name: str
    evaluations: Sequence[Evaluation]
    reused: int = 0

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean over tasks of the success rate, and its 95 % interval: over the episodes of these tasks, not over other tasks."""
        return mean_rate([(e.successes, len(e.episodes)) for e in self.evaluations])

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready summary."""
        mean, low, high = self.mean
        every = aggregates({e.task: [np.array([x.success for x in e.episodes], np.float64)] for e in self.evaluations})
        tasks = {
            e.task: {"successes": e.successes, "episodes": len(e.episodes), "wilson95": list(e.interval), "folder": str(e.folder) if e.folder else None}
            for e in self.evaluations
        }
        first = self.evaluations[0]
        about = {"label": first.label, "checkpoint": first.checkpoint, "checkpoint_hash": first.checkpoint_hash, "purpose": first.purpose}
        return {
            "set": self.name,
            **about,
            "mean": {"value": mean, "low": low, "high": high},
            "iqm": {"value": every["iqm"].value, "low": every["iqm"].low, "high": every["iqm"].high},
            "network_calls_per_chunk": first.network_calls_per_chunk,
            "ms_per_chunk": first.ms_per_chunk,
            "tasks": tasks,
        }


def evaluate_suite(
    policy: Policy | Composition | str | Path,
    tasks: Sequence[str],
    *,
    name: str,
    episodes: int = 50,
    seed0: int = seeds.REPORT,
    block: int = 50,
    workers: int = 1,
    threads: int = 1,
    env: Mapping[str, Any] | None = None,
    noise_seed: int = 0,
    device: str = "cpu",
    latency_calls: int = 50,
    out: Path | None = None,
    label: str | None = None,
    progress: bool = True,
    method: str | None = None,
    weights: str | None = None,
    cluster: Cluster | None = None,
    set_name: str | None = None,
) -> SuiteResult:
    """Run ``episodes`` episodes of ``policy`` in every one of ``tasks``.

    Args:
        policy: As of :func:`robopolicy.evaluation.rollout.evaluate`.
        tasks: Registered names.
        name: Of the set.
        episodes: Of each task.
        seed0: First seed, in every task.
        block: B.
        workers: Processes; 1 runs here.
        threads: Torch threads in each.
        env: Options of every task's worlds, with ``condition`` where the policy is told the task.
        noise_seed: Key of the policy's noise.
        device: Where a checkpoint is loaded to.
        latency_calls: Calls timed at batch 1, once.
        out: Folder for records and the ledger; None: nothing is written.
        label: Name for tables.
        progress: Whether to draw a progress bar.
        method: How the policy is executed.
        weights: Number format.
        cluster: Where the blocks run; None: in processes here.
        set_name: What the ledger calls the set; None: ``name``.

    Raises:
        InputError: if the policy does not fit one of the tasks; as :func:`robopolicy.evaluation.rollout.evaluate`.
        robopolicy.evaluation.workers.WorkerCrash: if a worker failed or died; tasks that were done stay in the ledger.
    """
    how: dict[str, Any] = {
        "episodes": episodes,
        "seed0": seed0,
        "block": block,
        "workers": workers,
        "threads": threads,
        "env": recorded(env or {}),
        "noise_seed": noise_seed,
        "device": device,
        "out": out,
        "label": label,
        "method": method,
        "weights": weights,
        "set_name": set_name or name,
    }
    require_place(out)
    with take(policy, device, workers if cluster is None else 2, method, weights) as subject:
        ledger.require_separate(seeds.purpose_of(seed0).name.lower(), seed0, episodes, subject.chosen)
        found: dict[str, Evaluation] = {}
        if out is not None and (subject.checkpoint_hash is not None or policy == EXPERT):
            alike = {key: how[key] for key in ("env", "block", "seed0", "episodes", "noise_seed", "threads", "device", "weights")}
            found = earlier(out, tasks, checkpoint_hash=subject.checkpoint_hash, execution=subject.execution, **alike)
        waiting = [task for task in tasks if task not in found]
        if waiting:
            results = _Results(policy, waiting, how, latency_calls)
            limit = max(_checked(policy, task, how["env"]) for task in waiting)
            with episode_bar(f"{label or subject.policy} on {name}", episodes * len(waiting), limit, progress) as told:
                if cluster is None:
                    run(results.job(subject), workers, told, results.done)
                else:
                    run_on(cluster, results.job(subject), told, results.done)
            found.update(results.found)
    return SuiteResult(name, [found[task] for task in tasks], len(tasks) - len(waiting))


class _Results:
    """Gathers the blocks of every task, and makes the record of a task as soon as it has all of its own."""

    def __init__(self, policy: Policy | Composition | str | Path, tasks: Sequence[str], how: Mapping[str, Any], latency_calls: int) -> None:
        self.policy, self.tasks, self.how, self.latency_calls = policy, tasks, how, latency_calls
        purpose, episodes = seeds.purpose_of(how["seed0"]), how["episodes"]
        own = split(seeds.seeds(purpose, episodes, how["seed0"] - int(purpose)), min(how["block"], episodes))
        self.blocks = [(task, *one) for task in range(len(tasks)) for one in own]
        self.parts: list[list[BlockResult | None]] = [[None] * len(own) for _ in tasks]
        self.found: dict[str, Evaluation] = {}

    def job(self, subject: Subject) -> SuiteJob:
        how, blocks = self.how, [(first, own) for _, first, own in self.blocks]
        makers = [functools.partial(make_world, task, how["env"]) for task in self.tasks]
        rows = min(how["block"], how["episodes"])
        return SuiteJob(makers[0], subject.make, rows, how["threads"], how["noise_seed"], blocks, makers, [task for task, _, _ in self.blocks])

    def done(self, number: int, result: BlockResult) -> None:
        task = self.blocks[number][0]
        own = self.parts[task]
        own[number % len(own)] = result
        whole = [part for part in own if part is not None]
        if len(whole) < len(own):
            return
        calls = 0 if self.found else self.latency_calls  # one policy: its latency is measured once
        made = whole, sum(part.seconds for part in whole)
        self.found[self.tasks[task]] = evaluate(self.policy, self.tasks[task], latency_calls=calls, progress=False, made=made, **self.how)
        self.parts[task] = []  # records are kept, commands are not


def set_of(checkpoint: str) -> str | None:
    """Return the set of tasks that a checkpoint (or a run's last) was trained for; None for one task, and for what is no checkpoint."""
    try:
        task = None if checkpoint == EXPERT else read_defaults(find_checkpoint(checkpoint)).task
    except InputError:
        return None  # said by who evaluates it
    return task if task is not None and task_set(task) else None


def suite_settings(
    checkpoint: str, name: str, given: Mapping[str, int], purpose: seeds.Purpose, out: Path | None, worlds: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return arguments of :func:`evaluate_suite` for a checkpoint, a run or ``expert``.

    Args:
        checkpoint: Whose recipe says what is not given.
        name: A tag, names with commas between, or one name.
        given: Settings over those of the checkpoint's recipe.
        purpose: Which seeds.
        out: None: ``evaluations`` inside the run, or here.
        worlds: Options of the worlds over those of the recipe.

    Raises:
        InputError: if there is no such checkpoint or set.
    """
    tasks = require_task_set(name)
    folder = checkpoint if checkpoint == EXPERT else str(find_checkpoint(checkpoint))
    defaults = Defaults(None, {}, EvaluationConfig()) if folder == EXPERT else read_defaults(folder)
    config = validate(EvaluationConfig, {**defaults.evaluation.model_dump(), **given}, "robopolicy eval")
    known = defaults.task is not None and set(tasks) <= set(require_task_set(defaults.task))
    env = {**defaults.env, **({} if known else {"max_episode_steps": None}), **(worlds or {})}
    run_folder = Path(folder).resolve().parent.parent
    beside = folder != EXPERT and (run_folder / "recipe.yaml").is_file()
    return {
        "policy": folder,
        "tasks": tasks,
        "name": name,
        "episodes": config.episodes,
        "seed0": int(purpose) + config.seed,
        "block": config.block,
        "workers": config.workers,
        "threads": config.threads,
        "env": env,
        "noise_seed": config.seed,
        "out": out or (run_folder / "evaluations" if beside else Path("evaluations")),
    }


def _checked(policy: Policy | Composition | str | Path, task: str, env: Mapping[str, Any]) -> int:
    """Refuse a task that the policy does not fit; returns its time limit, control steps."""
    require_fit(policy, task, env)
    with contextlib.closing(make_world(task, env, 1)) as world:
        return world.max_episode_steps
