"""Demonstrations from a task's scripted expert: many worlds, several processes, one writer, the same bytes every time.

Episodes are simulated in blocks of consecutive seeds and committed in the order of their seeds, so the data set does
not depend on the number of workers. An interrupted collection continues where it ended.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.spec import InputError, Spec
from robopolicy.data import layout
from robopolicy.data.writer import DatasetWriter

if TYPE_CHECKING:
    from robopolicy.cluster import Cluster

_BLOCK = {True: 4, False: 16}  # seeds simulated together, with and without cameras
_HOPELESS = 100  # attempts without a single success after which collecting is given up


@dataclass(frozen=True)
class Collection:
    """What is collected; kept in the data set, and what a rerun must match.

    Attributes:
        task: Registered name.
        observations: ``state``, ``image`` or ``state+image``.
        image_size: px.
        noise: Standard deviation of the Gaussian noise on executed actions, as a share of half the action range (robot
            units where unbounded). The recorded action stays the expert's own: its correction (Laskey et al. 2017, DART).
        only_success: Whether failed episodes are dropped.
        extra_steps: Steps recorded after the first success, unless the task ends before.
        max_episode_steps: Time limit; None: the task's own.
        seed0: First seed; episode attempts take consecutive ones.
        randomize: What differs from episode to episode (``sim.randomize``), kept with each; None: nothing.
        engine: What steps the worlds (``sim.engine.ENGINES``); None: MuJoCo.
        reward: Kind of reward; None: the task's first.
    """

    task: str
    observations: str = "state"
    image_size: int = 96
    noise: float = 0.0
    only_success: bool = True
    extra_steps: int = 10
    max_episode_steps: int | None = None
    seed0: int = 0
    randomize: Mapping[str, Any] | None = None
    engine: str | None = None
    reward: str | None = None


@dataclass(frozen=True)
class CollectSummary:
    """What a collection holds, in all its runs.

    Attributes:
        path: The data set.
        episodes: Episodes kept.
        frames: Their frames.
        attempts: Seeds tried.
        failures: Attempts that did not succeed.
    """

    path: Path
    episodes: int
    frames: int
    attempts: int
    failures: int

    @property
    def success_rate(self) -> float:
        """Share of the attempts that succeeded."""
        return 1.0 - self.failures / max(1, self.attempts)


@dataclass
class Episode:
    """One simulated episode of T frames.

    Attributes:
        seed: What it was begun with.
        success: Whether it ever succeeded.
        observations: field -> (T, *shape).
        actions: (T, Da), the expert's.
        rewards: (T,).
        successes: (T,) bool, after each step.
        randomized: What its world drew, None where nothing is drawn.
    """

    seed: int
    success: bool
    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    successes: np.ndarray
    randomized: dict[str, Any] | None = None


def collect(
    task: str,
    path: str | Path,
    episodes: int,
    seed0: int = 0,
    workers: int = 2,
    observations: str = "state",
    image_size: int = 96,
    only_success: bool = True,
    progress: bool = True,
    noise: float = 0.0,
    extra_steps: int = 10,
    max_episode_steps: int | None = None,
    randomize: Mapping[str, Any] | None = None,
    engine: str = "mujoco",
    reward: str = "",
    cluster: Cluster | None = None,
) -> CollectSummary:
    """Collect until the data set at ``path`` holds ``episodes`` episodes; continues a set of the same recipe.

    Args:
        task: Task name, see ``sim.registry``.
        path: Folder of the data set.
        episodes: How many to keep.
        seed0: First seed.
        workers: Processes that simulate; the result does not depend on it.
        observations: ``state``, ``image`` or ``state+image``.
        image_size: Height and width of camera images, px.
        only_success: Whether failed episodes are dropped.
        progress: Whether to show a progress bar with the success rate.
        noise: Of executed actions, see :class:`Collection`.
        extra_steps: Recorded after the first success.
        max_episode_steps: Time limit; None: the task's own.
        randomize: Section of a recipe, see ``sim.randomize``; None: nothing differs.
        engine: What steps the worlds.
        reward: Kind of reward; empty: the task's first.
        cluster: Where episodes are simulated (see ``robopolicy.cluster``); None: in processes here.

    Raises:
        InputError: if the task has no expert, the path holds another recipe, or the expert never succeeds.
    """
    from sim import registry

    if episodes < 1 or workers < 1 or noise < 0 or extra_steps < 0:
        raise InputError(
            f"collect: episodes and workers must be at least 1, noise and extra steps at least 0, found {episodes}, {workers}, {noise:g}, {extra_steps}"
        )
    chosen = {"engine": engine if engine != "mujoco" else None, "reward": reward or None}
    varied = _whole(randomize)
    recipe = Collection(registry.resolve(task), observations, image_size, float(noise), only_success, extra_steps, max_episode_steps, seed0, varied, **chosen)
    if not registry.entry(recipe.task).has_expert:
        raise InputError(f"task {recipe.task!r} has no scripted expert; record by hand with `robopolicy teleop`")
    root = Path(path)
    env = _make(recipe, 1)
    try:
        spec, suite = env.spec, env.suite_version
    finally:
        env.close()
    provenance = {"collect": asdict(recipe) | {"suite_version": suite}, "attempts": 0}
    _check_same_recipe(root, provenance["collect"])
    with DatasetWriter(root, spec, spec.action.rate_hz, recipe.task, recipe.task, provenance=provenance) as writer:
        _run(recipe, writer, episodes, workers, progress, cluster)
    return summary(root)


def _whole(randomize: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the section unless it has a curriculum: which level a seed would get depended on the number of workers."""
    if randomize and "curriculum" in randomize:
        raise InputError("collect: randomize.curriculum widens ranges while one trains; collecting draws from the whole ranges: leave it out")
    return dict(randomize) if randomize else None


def summary(root: Path) -> CollectSummary:
    """Count what a collected data set holds. Raises InputError if it was not collected."""
    from robopolicy.data.episodes import read_episodes

    info, own = layout.read_info(root), layout.read_own(root) or {}
    recipe = own.get("provenance", {}).get("collect")
    if recipe is None:
        raise InputError(f"{root} was not made by `robopolicy collect`")
    table = read_episodes(root, info)
    attempts = int(table.seed[-1]) - int(recipe["seed0"]) + 1 if len(table.seed) else 0
    return CollectSummary(root, len(table.seed), int(info["total_frames"]), attempts, attempts - int((table.success == 1).sum()))


def _check_same_recipe(root: Path, wanted: dict[str, Any]) -> None:
    if not layout.is_dataset(root):
        return
    found = ((layout.read_own(root) or {}).get("provenance") or {}).get("collect")
    if found is None:
        raise InputError(f"{root} holds a data set that was not made by `robopolicy collect`; give another folder")
    for key, value in wanted.items():
        if found.get(key) != value:
            raise InputError(f"{root} was collected with {key} {found.get(key)!r}, not {value!r}; give another folder or the same settings")


def _make(recipe: Collection, num_worlds: int) -> Any:
    from sim import registry

    own = {"randomize": recipe.randomize, "engine": recipe.engine or "mujoco", "reward": recipe.reward or ""}
    return registry.make(recipe.task, num_worlds, recipe.observations, recipe.image_size, recipe.max_episode_steps, False, **own)  # type: ignore[arg-type]


def _run(recipe: Collection, writer: DatasetWriter, episodes: int, workers: int, progress: bool, cluster: Cluster | None) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    seed, tried, won = recipe.seed0, 0, 0
    if writer.num_episodes:
        done = summary(writer.root)
        seed, tried, won = recipe.seed0 + done.attempts, done.attempts, done.attempts - done.failures
    if writer.num_episodes >= episodes:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("success {task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, disable=not progress, transient=False) as bar:
        shown = bar.add_task(f"collecting {recipe.task}", total=episodes, completed=writer.num_episodes, rate="-")
        for episode in _episodes(recipe, seed, workers, episodes - writer.num_episodes, cluster):
            tried, won = tried + 1, won + int(episode.success)
            if episode.success or not recipe.only_success:
                _save(writer, episode)
            bar.update(shown, completed=writer.num_episodes, rate=f"{won}/{tried} ({won / tried:.0%})")
            if writer.num_episodes >= episodes:
                return
            if recipe.only_success and not won and tried >= _HOPELESS:
                where = f"seeds {recipe.seed0} on, noise {recipe.noise:g}"
                raise InputError(f"the expert of {recipe.task} failed {tried} times in a row ({where}); collect with --all-episodes or less noise")


def _save(writer: DatasetWriter, episode: Episode) -> None:
    """Record one episode; its capture times are those of the simulated clock."""
    last = len(episode.actions) - 1
    for t, action in enumerate(episode.actions):
        extras = {"next.reward": float(episode.rewards[t]), "next.success": bool(episode.successes[t]), "next.done": t == last}
        stamps = {"observation": round(t * 1e9 / writer.fps)}
        writer.add_frame({name: array[t] for name, array in episode.observations.items()}, action, stamps, extras)
    writer.save_episode(success=episode.success, seed=episode.seed, randomized=episode.randomized)


def _episodes(recipe: Collection, seed: int, workers: int, wanted: int, cluster: Cluster | None) -> Iterator[Episode]:
    """Yield episodes of consecutive seeds from ``seed`` on, without end."""
    block = _BLOCK["image" in recipe.observations]
    block = max(1, min(block, -(-wanted // workers)))
    if cluster is not None:
        yield from _spread(cluster, recipe, block, seed)
    if workers == 1:
        simulator = _Simulator(recipe, block)
        try:
            while True:
                yield from simulator.run(seed)
                seed += block
        finally:
            simulator.close()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(recipe, block))
    try:
        pending: deque[Future[list[Episode]]] = deque()
        while True:
            while len(pending) < 2 * workers:
                pending.append(pool.submit(_run_block, seed))
                seed += block
            yield from pending.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            f"a worker that simulated {recipe.task} died (out of memory?); episodes committed so far are kept: run the same command to continue"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _spread(cluster: Cluster, recipe: Collection, block: int, seed: int) -> Iterator[Episode]:
    """Yield episodes as :func:`_episodes`, simulated on a cluster."""
    from robopolicy.cluster import WorkerDied

    try:
        with cluster.pool(functools.partial(_begin, recipe, block)) as pool:
            pending: deque[Any] = deque()
            while True:
                while len(pending) < 2 * pool.size:
                    pending.append(pool.submit(seed))
                    seed += block
                yield from pool.result(pending.popleft())
    except WorkerDied as error:
        raise InputError(f"{error}; episodes committed so far are kept: run the same command to continue") from error


def _begin(recipe: Collection, block: int) -> Callable[[int], list[Episode]]:
    return _Simulator(recipe, block).run


_simulator: _Simulator | None = None  # of this worker process


def _begin_worker(recipe: Collection, block: int) -> None:
    global _simulator
    _simulator = _Simulator(recipe, block)


def _run_block(seed: int) -> list[Episode]:
    if _simulator is None:
        raise InputError("a worker was given seeds before it had worlds")
    return _simulator.run(seed)


class _Simulator:
    """Runs blocks of ``block`` consecutive seeds, one world each."""

    def __init__(self, recipe: Collection, block: int) -> None:
        self.recipe, self.block = recipe, block
        self.env = _make(recipe, block)
        spec: Spec = self.env.spec
        half = (spec.action.high.astype(np.float64) - spec.action.low) / 2
        self.scale = recipe.noise * np.where(np.isfinite(half), half, 1.0)

    def close(self) -> None:
        self.env.close()

    def run(self, seed: int) -> list[Episode]:
        """Simulate seeds ``seed`` to ``seed + block - 1``."""
        env, recipe = self.env, self.recipe
        seeds = np.arange(seed, seed + self.block, dtype=np.int64)
        noises = [np.random.Generator(np.random.Philox(key=[int(s), 0xDA27])) for s in seeds]
        obs = env.reset(seeds)
        randomizer = getattr(env, "randomizer", None)
        randomized = [None if randomizer is None else randomizer.record(row) for row in range(self.block)]
        frames: list[list[tuple[dict[str, np.ndarray], np.ndarray, float, bool]]] = [[] for _ in seeds]
        open_ = np.ones(self.block, bool)
        left = np.full(self.block, -1)  # steps still to record after success; -1 before it
        for _ in range(env.max_episode_steps):
            expert = env.spec.action.clip(env.expert_action())
            executed = expert
            if recipe.noise:
                drawn = np.stack([n.standard_normal(expert.shape[1]) for n in noises])
                executed = env.spec.action.clip(expert + drawn * self.scale)
            before = {name: array.copy() for name, array in obs.items()}
            result = env.step(executed)
            success, ended = np.asarray(result.info["success"], bool), result.terminated | result.truncated
            for i in np.flatnonzero(open_):
                frames[i].append(({n: a[i] for n, a in before.items()}, expert[i].copy(), float(result.reward[i]), bool(success[i])))
                left[i] = left[i] - 1 if left[i] > 0 else left[i]
                if left[i] < 0 and success[i]:
                    left[i] = recipe.extra_steps
                open_[i] = not (ended[i] or left[i] == 0)
            if not open_.any():
                break
            obs = result.obs
        return [_episode(int(s), f, d) for s, f, d in zip(seeds, frames, randomized, strict=True)]


def _episode(seed: int, frames: list[tuple[dict[str, np.ndarray], np.ndarray, float, bool]], drawn: dict[str, Any] | None) -> Episode:
    observations = {name: np.stack([f[0][name] for f in frames]) for name in frames[0][0]}
    successes = np.array([f[3] for f in frames], bool)
    actions, rewards = np.stack([f[1] for f in frames]).astype(np.float32), np.array([f[2] for f in frames], np.float32)
    return Episode(seed, bool(successes.any()), observations, actions, rewards, successes, drawn)
