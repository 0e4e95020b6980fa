"""Evaluate a policy: fixed seeds, padded blocks, any number of workers, latency at batch 1, records on disk.

:func:`evaluate` is the one entry. Equal arguments give bit-identical per-episode records for any number of workers at
equal block size B; see ``robopolicy.evaluation.blocks`` for why.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.base import Policy
from policies.spec import InputError
from robopolicy.evaluation import ledger, seeds
from robopolicy.evaluation import videos as film
from robopolicy.evaluation.blocks import BlockResult, History, PolicyPlanner, split
from robopolicy.evaluation.composition import Composition
from robopolicy.evaluation.records import Evaluation
from robopolicy.evaluation.subject import EXPERT, Subject, take
from robopolicy.evaluation.workers import Job, Progress, run, run_on, torch_threads
from robopolicy.randomization import whole_ranges
from robopolicy.training.run_folder import find_checkpoint
from sim.env import BatchEnv

if TYPE_CHECKING:
    from robopolicy.cluster import Cluster

_PLAIN_EVERY = 10.0  # s between lines where there is no terminal to draw a bar on


def make_world(task: str, env: Mapping[str, Any], num_worlds: int) -> BatchEnv:
    """Make ``num_worlds`` worlds of a registered task with the options ``env``, auto-reset off, whatever a curriculum has reached.

    ``env["perturb"]`` is what is wrong in them, see ``robopolicy.evaluation.perturb``; ``env["condition"]`` says which task is
    wanted (``robopolicy.conditioning``), and is no sensor: it is never perturbed.
    """
    from robopolicy.conditioning import conditioned
    from robopolicy.evaluation.perturb import perturbed, read
    from sim.registry import make

    options = dict(env)
    wrong, condition = read(options.pop("perturb", None)), options.pop("condition", None)
    worlds = make(task, num_worlds=num_worlds, **{**options, "randomize": whole_ranges(options.get("randomize"))})
    worlds = perturbed(worlds, wrong)
    return worlds if condition is None else conditioned(worlds, condition)


def evaluate(
    policy: Policy | Composition | str | Path,
    task: str | Callable[[int], BatchEnv],
    *,
    episodes: int = 50,
    seed0: int = seeds.REPORT,
    block: int = 50,
    workers: int = 1,
    threads: int = 1,
    env: Mapping[str, Any] | None = None,
    noise_seed: int = 0,
    device: str = "cpu",
    latency_calls: int = 50,
    videos: int = 0,
    out: Path | None = None,
    label: str | None = None,
    progress: bool = True,
    method: str | None = None,
    weights: str | None = None,
    cluster: Cluster | None = None,
    set_name: str | None = None,
    chosen: Sequence[Mapping[str, Any]] = (),
    training: Mapping[str, Any] | None = None,
    made: tuple[Sequence[BlockResult], float] | None = None,
) -> Evaluation:
    """Run ``episodes`` episodes of ``policy`` and return their records.

    An episode ends at its first success, at termination or at the time limit; it counts as a success if success was
    reached at any step. Plans are executed for Ta steps before the next is asked for.

    Args:
        policy: A policy, the folder of a checkpoint or of a run, several of them composed, or ``"expert"`` for the task's scripted expert.
        task: Registered name, or a module-level function (num_worlds) -> BatchEnv.
        episodes: How many; episode i is reset with ``seed0 + i``.
        seed0: First seed; all must lie in one range of ``robopolicy.evaluation.seeds``.
        block: B, worlds and rows at once; at most ``episodes`` are used.
        workers: Processes, each taking whole blocks; 1 runs here.
        threads: Torch threads in each of them.
        env: Options of ``sim.registry.make``: ``observations``, ``image_size``, ``max_episode_steps``.
        noise_seed: Key of the policy's own noise.
        device: Where a checkpoint is loaded to.
        latency_calls: Calls timed at batch 1 after the episodes; 0: none.
        videos: Best and worst episodes to film, each; needs ``out``.
        out: Folder that gets ``NAME/evaluation.json``, ``NAME/videos/`` and a line in ``ledger.jsonl``; None: nothing.
        label: Name for tables; the policy's type if None.
        progress: Whether to draw a progress bar.
        method: How the policy is executed, ``NAME:KEY=VALUE,...`` or ``none``; None: as its checkpoint says.
        weights: Number format of a checkpoint's weights, see ``policies.inference``; None: as trained.
        cluster: Run the blocks there (see ``robopolicy.cluster``), with the same bits; checkpoints lie where its machines find them.
        set_name: The set of evaluations that this is part of, for the ledger.
        chosen: ``{what, seed0, episodes, trials}`` of what was chosen of the policy by evaluating, besides what a checkpoint says of itself.
        training: How the policy came about, over what its checkpoint says: ``seed``, ``recipe``, ``step`` and the like.
        made: The blocks, where they were run already (``robopolicy.evaluation.suite``), and the seconds that took; None: run them.

    Raises:
        InputError: if checkpoint and world do not fit, an argument, a plan or ``out`` cannot be used, or it would report on seeds it was chosen on.
        robopolicy.evaluation.workers.WorkerCrash: if a worker process failed or died.
    """
    if block < 1 or workers < 1 or threads < 1:
        raise InputError(f"block, workers and threads: expected at least 1 each, found {block}, {workers}, {threads}")
    if videos and out is None:
        raise InputError("videos need a folder to be written to: give out")
    require_place(out)
    if isinstance(policy, (str, Path)) and policy != EXPERT:
        policy = find_checkpoint(policy)
    purpose = seeds.purpose_of(seed0)
    all_seeds = seeds.seeds(purpose, episodes, seed0 - int(purpose))
    make_env = _maker(task, env)
    with take(policy, device, workers if cluster is None else 2, method, weights) as subject:
        with contextlib.closing(make_env(1)) as world:
            evaluation = describe(subject, world, label)
            _require_fit(policy, world)
        evaluation.purpose, evaluation.seed0, evaluation.noise_seed = purpose.name.lower(), seed0, noise_seed
        evaluation.block, evaluation.workers, evaluation.threads = min(block, episodes), workers, threads
        evaluation.device, evaluation.env, evaluation.weights = device, recorded(env or {}), weights
        evaluation.set_name, evaluation.chosen = set_name, [*subject.chosen, *map(dict, chosen)]
        evaluation.training.update(training or {})
        ledger.require_separate(evaluation.purpose, seed0, episodes, evaluation.chosen)
        job = _job(subject, make_env, evaluation, all_seeds)
        begun = time.perf_counter()
        with episode_bar(evaluation.label, episodes, evaluation.max_episode_steps, progress) as told:
            if made is not None:
                results = list(made[0])
            else:
                results = run(job, workers, told) if cluster is None else run_on(cluster, job, told)
        evaluation.seconds = time.perf_counter() - begun if made is None else made[1]
        evaluation.episodes = [e for r in results for e in r.episodes]
        if subject.make is not None:
            _measure(evaluation, subject.make, make_env, latency_calls)
    evaluation.time, evaluation.machine, evaluation.packages = ledger.now(), ledger.machine(), ledger.packages()
    if out is not None:
        _write(evaluation, out, make_env, videos, [a for r in results for a in r.actions])
    return evaluation


def recorded(env: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of worlds as records hold them: perturbations that are written as text become mappings."""
    from robopolicy.evaluation.perturb import read

    return {**env, "perturb": [p.to_dict() for p in read(env["perturb"])]} if env.get("perturb") else dict(env)


def latency(policy: Policy, n: int = 50, window: Mapping[str, np.ndarray] | None = None, warmup: int = 5) -> list[float]:
    """Return the durations of ``n`` single calls at batch 1, ms, after ``warmup`` calls that are not counted.

    Args:
        policy: The policy, where it is.
        n: Calls.
        window: field -> (1, To, *shape), the observation to plan for; zeros, clipped to the limits, when None.
        warmup: Calls before, for caches and lazy set-up.
    """
    planner = PolicyPlanner(policy, noise_seed=0)
    planner.begin(np.zeros(1, np.int64))
    observation = dict(window) if window is not None else _blank(policy)
    out = []
    for call in range(warmup + n):
        begun = time.perf_counter()
        planner.plan(observation, call)  # ends with a copy to the host, which waits for the device
        out.append(1e3 * (time.perf_counter() - begun))
    return out[warmup:]


def _blank(policy: Policy) -> dict[str, np.ndarray]:
    out = {}
    for name, f in policy.spec.observation.fields.items():
        low = np.full(f.size, -np.inf) if f.low is None else np.asarray(f.low)
        high = np.full(f.size, np.inf) if f.high is None else np.asarray(f.high)
        out[name] = np.broadcast_to(np.clip(np.zeros(f.size), low, high).reshape(f.shape).astype(f.dtype), (1, policy.n_obs_steps, *f.shape)).copy()
    return out


def describe(subject: Subject, world: BatchEnv, label: str | None) -> Evaluation:
    """Return an evaluation without episodes: who, and in which world; on which seeds and how it is run, the caller fills in."""
    return Evaluation(
        label=label or subject.policy,
        policy=subject.policy,
        checkpoint=subject.checkpoint,
        checkpoint_hash=subject.checkpoint_hash,
        task=world.task,
        suite_version=world.suite_version,
        purpose="",
        seed0=0,
        noise_seed=0,
        block=1,
        workers=1,
        threads=1,
        device="cpu",
        env={},
        max_episode_steps=world.max_episode_steps,
        rate_hz=world.spec.action.rate_hz,
        horizon=0,
        n_action_steps=1,
        episodes=[],
        training=dict(subject.training or {}),
        execution=subject.execution,
        composition=subject.composition,
        success=_success(world.task),
    )


def _success(task: str) -> str:
    """Return when an episode of a registered task counts as solved; empty for a world that is not registered."""
    from sim.registry import entry

    try:
        return entry(task).success
    except InputError:
        return ""


def require_fit(policy: Policy | Composition | str | Path, task: str | Callable[[int], BatchEnv], env: Mapping[str, Any] | None = None) -> None:
    """Refuse, before anything runs, a policy whose spec the world does not offer, or an expert that does not exist.

    Raises:
        InputError: one line: field, expected, found, how to map it.
    """
    with contextlib.closing(_maker(task, env)(1)) as world:
        _require_fit(policy, world)


def _maker(task: str | Callable[[int], BatchEnv], env: Mapping[str, Any] | None) -> Callable[[int], BatchEnv]:
    return functools.partial(make_world, task, dict(env or {})) if isinstance(task, str) else task


def _require_fit(policy: Policy | Composition | str | Path, world: BatchEnv) -> None:
    found_in = f"task {world.task!r}"
    if policy == EXPERT:
        world.reset(np.array([seeds.SELECTION], np.int64))
        world.expert_action()
    elif isinstance(policy, (str, Path)):
        from policies.checkpoint import read_spec

        read_spec(policy).require(world.spec, f"checkpoint {policy}", found_in)
    else:
        policy.spec.require(world.spec, f"policy {type(policy).__name__}", found_in)


def _job(subject: Subject, make_env: Callable[[int], BatchEnv], evaluation: Evaluation, all_seeds: np.ndarray) -> Job:
    return Job(make_env, subject.make, evaluation.block, evaluation.threads, evaluation.noise_seed, split(all_seeds, evaluation.block))


def _measure(evaluation: Evaluation, make_policy: Callable[[], Policy], make_env: Callable[[int], BatchEnv], calls: int) -> None:
    """Fill in horizon and chunk length, and time single calls on a first observation of the task."""
    with torch_threads(evaluation.threads), contextlib.closing(make_env(1)) as world:
        policy = make_policy()
        evaluation.horizon, evaluation.n_action_steps = int(policy.horizon), int(policy.n_action_steps)
        if calls:
            first = world.reset(np.array([evaluation.seed0], np.int64))
            evaluation.latency_ms = latency(policy, calls, History(first, policy.n_obs_steps).window)


def _write(evaluation: Evaluation, out: Path, make_env: Callable[[int], BatchEnv], count: int, actions: list[np.ndarray]) -> None:
    """Write videos, records and the ledger line, in this order: a line never points at what is not there."""
    folder = _fresh_folder(out, evaluation)
    if count:
        chosen = film.choose(evaluation.episodes, count)
        evaluation.videos, notes = film.record(folder, make_env, chosen, actions, evaluation.rate_hz)
        evaluation.notes.extend(notes)
    evaluation.save(folder)
    evaluation.folder = folder
    ledger.enter(out / ledger.FILE, ledger.row(evaluation, f"{folder.name}/evaluation.json"))


def require_place(out: Path | None) -> None:
    """Refuse, before anything runs, a folder for records that cannot be made or written to; None is none. Raises InputError."""
    if out is None:
        return
    nearest = next((folder for folder in (out, *out.absolute().parents) if folder.exists()), Path("/"))
    if not nearest.is_dir():
        raise InputError(f"{out}: no folder for records: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{out}: no folder for records: {nearest} is not writable")


def _fresh_folder(out: Path, evaluation: Evaluation) -> Path:
    """Make ``OUT/LABEL-TASK-PURPOSE-TIME``; the ledger is append-only, so no evaluation replaces another."""
    stamp = re.sub(r"[^0-9T]", "", evaluation.time.split("+")[0])
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{evaluation.label}-{evaluation.task}-{evaluation.purpose}-{stamp}").strip("-")
    for attempt in range(1000):
        folder = out / (name if attempt == 0 else f"{name}-{attempt}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"{folder}: cannot be made: {error.strerror or error}") from error
    raise InputError(f"{out}: holds a thousand evaluations called {name}")


@contextlib.contextmanager
def episode_bar(label: str, episodes: int, limit: int, show: bool) -> Iterator[Progress | None]:
    """Draw control steps done of ``episodes`` of at most ``limit`` steps, episodes ended and successes so far, with the time left."""
    if not show:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    console, said = Console(), time.monotonic()
    counts: dict[int, tuple[int, int, int]] = {}
    name = TextColumn("{task.description}", markup=False)  # it may hold brackets
    columns = (name, BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as bar:
        line = bar.add_task(f"evaluate {label}", total=episodes * limit, state="starting")

        def told(block: int, steps: np.ndarray, ended: np.ndarray, success: np.ndarray) -> None:
            nonlocal said
            counts[block] = int(np.where(ended, limit, steps).sum()), int(ended.sum()), int(success.sum())
            done, over, good = (sum(column) for column in zip(*counts.values(), strict=True))
            state = f"{over}/{episodes} episodes, {good} succeeded"
            bar.update(line, completed=done, state=state)
            if not console.is_terminal and time.monotonic() - said > _PLAIN_EVERY:
                console.print(f"evaluate {label}: {state}, {done / (episodes * limit):.0%} of the steps", soft_wrap=True, markup=False)
                said = time.monotonic()

        yield told
