"""Episodes of a collection, simulated in blocks of consecutive seeds: here, in processes, or on a cluster.

An episode depends on its seed alone: the scripted experts read one world each, and a policy always sees blocks of the same width
that begin at the same seeds. So the number of processes changes nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.spec import InputError
from robopolicy.data.collection import Collection, Episode
from robopolicy.data.demonstrators import Act, CheckpointExpert, Demonstrator, ScriptedExpert
from robopolicy.data.disturb import Disturbances, half_range
from robopolicy.worker_processes import worker_pool

if TYPE_CHECKING:
    from robopolicy.cluster import Cluster

BLOCK = {True: 4, False: 16}  # seeds simulated together, with and without cameras
_NOISE = 0xDA27  # of the generators that noise is drawn from


@dataclass(frozen=True)
class Work:
    """What a process needs to simulate episodes of a collection.

    Attributes:
        recipe: What is collected.
        block: Seeds simulated together.
        checkpoint: Folder of the policy that demonstrates; empty: the scripted expert.
        act: How that policy acts.
    """

    recipe: Collection
    block: int
    checkpoint: str = ""
    act: Act | None = None


def make_worlds(recipe: Collection, num_worlds: int) -> Any:
    """Return the worlds of a collection."""
    from sim import registry

    own = {"randomize": recipe.randomize, "engine": recipe.engine or "mujoco", "reward": recipe.reward or ""}
    return registry.make(recipe.task, num_worlds, recipe.observations, recipe.image_size, recipe.max_episode_steps, False, **own)  # type: ignore[arg-type]


class _Frames:
    """The frames of one open episode."""

    def __init__(self) -> None:
        self.observations: list[dict[str, np.ndarray]] = []
        self.actions: list[np.ndarray] = []
        self.numbers: list[tuple[float, bool, int, bool]] = []  # reward, success, step, disturbed
        self.return_ = 0.0
        self.left = -1  # steps still to record after success; -1 before it

    def clear(self) -> None:
        """Forget what was recorded so far; the return is of the whole episode."""
        self.observations, self.actions, self.numbers, self.left = [], [], [], -1

    def episode(self, seed: int, recipe: Collection, drawn: dict[str, Any] | None) -> Episode:
        """Return what is recorded."""
        if not self.actions:
            return Episode(seed, False, {}, np.zeros((0, 0), np.float32), np.zeros(0, np.float32), np.zeros(0, bool), self.return_, {}, drawn)
        observations = {name: np.stack([frame[name] for frame in self.observations]) for name in self.observations[0]}
        rewards, successes, steps, disturbed = (np.array(column) for column in zip(*self.numbers, strict=True))
        extras = {} if recipe.recovery is None else {"step": steps.astype(np.int64), **({"disturbed": disturbed} if recipe.recovery.marked else {})}
        actions = np.stack(self.actions).astype(np.float32)
        return Episode(seed, bool(successes.any()), observations, actions, rewards.astype(np.float32), successes, self.return_, extras, drawn)


class Simulator:
    """Runs blocks of ``work.block`` consecutive seeds, one world each."""

    def __init__(self, work: Work) -> None:
        """Make the worlds, and load the policy if one demonstrates."""
        self.work, self.recipe = work, work.recipe
        self.env = make_worlds(work.recipe, work.block)
        self._scale = work.recipe.noise * half_range(self.env.spec.action)
        disturbed = work.recipe.recovery is not None
        self._expert: Demonstrator = CheckpointExpert(work.checkpoint, work.act, disturbed) if work.checkpoint else ScriptedExpert(self.env)

    def close(self) -> None:
        """Release the worlds; may be called twice."""
        self.env.close()

    def run(self, seed: int) -> list[Episode]:
        """Simulate seeds ``seed`` to ``seed + block - 1``."""
        with self._expert.arithmetic():
            return self._run(np.arange(seed, seed + self.work.block, dtype=np.int64))

    def _run(self, seeds: np.ndarray) -> list[Episode]:
        env, action = self.env, self.env.spec.action
        noises = [np.random.Generator(np.random.Philox(key=[int(s), _NOISE])) for s in seeds]
        wrong = Disturbances(self.recipe.recovery, seeds, action)
        obs = env.reset(seeds)
        randomizer = getattr(env, "randomizer", None)
        randomized = [None if randomizer is None else randomizer.record(row) for row in range(len(seeds))]
        self._expert.begin(seeds, obs)
        frames, open_ = [_Frames() for _ in seeds], np.ones(len(seeds), bool)
        for step in range(env.max_episode_steps):
            expert = action.clip(self._expert.action())
            executed = expert
            if self.recipe.noise:
                drawn = np.stack([n.standard_normal(expert.shape[1]) for n in noises])
                executed = action.clip(expert + drawn * self._scale)
            executed, disturbed = wrong.executed(step, expert, executed)
            before = {name: array.copy() for name, array in obs.items()}
            result = env.step(action.clip(executed))
            success, ended = np.asarray(result.info["success"], bool), result.terminated | result.truncated
            rows = np.flatnonzero(open_)
            for i in rows:
                at = {n: a[i] for n, a in before.items()}, expert[i].copy(), float(result.reward[i])
                self._record(frames[i], at, (bool(success[i]), step, bool(disturbed[i])), bool(step == wrong.end[i]))
                open_[i] = not (ended[i] or frames[i].left == 0)
            self._cut([frames[i] for i in rows if ended[i] and disturbed[i]])
            if not open_.any():
                break
            wrong.call_off(success & (step < wrong.start))
            env.retire(~open_)  # episodes that are complete cost no physics
            obs = result.obs
            self._expert.seen(result.next_obs)
        return [f.episode(int(s), self.recipe, d) for s, f, d in zip(seeds, frames, randomized, strict=True)]

    def _record(self, frames: _Frames, at: tuple[dict[str, np.ndarray], np.ndarray, float], flags: tuple[bool, int, bool], recovering: bool) -> None:
        """Add a frame; at the first one after a disturbance, what was before is dropped unless it is kept, marked."""
        recovery = self.recipe.recovery
        if recovering and recovery is not None and not recovery.marked:
            frames.clear()
        observations, action, reward = at
        success, step, disturbed = flags
        success &= not disturbed  # by mistake: the expert has shown nothing
        frames.observations.append(observations)
        frames.actions.append(action)
        frames.numbers.append((reward, success, step, disturbed))
        frames.return_ += reward
        frames.left -= frames.left > 0
        if frames.left < 0 and success and self.recipe.extra_steps is not None:
            frames.left = self.recipe.extra_steps

    def _cut(self, ended: list[_Frames]) -> None:
        """Drop the frames of episodes that ended while they were disturbed, unless they are kept: nobody recovered there."""
        if self.recipe.recovery is not None and not self.recipe.recovery.marked:
            for frames in ended:
                frames.clear()


class Lanes:
    """Processes in which episodes are simulated, one after another of several collections; use it as a context manager.

    Args:
        count: How many; 1: in this process.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._here = _Held()

    def __enter__(self) -> Lanes:
        """Return the lanes; processes are started when there is work."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._here.close()

    def submit(self, work: Work, seed: int) -> Future[list[Episode]] | functools.partial[list[Episode]]:
        """Have the block that begins at ``seed`` simulated; see :meth:`result`."""
        if self.count == 1:
            return functools.partial(self._here.run, work, seed)
        if self._pool is None:
            self._pool = worker_pool(self.count, bool(work.checkpoint))
        return self._pool.submit(_run_block, work, seed)

    @staticmethod
    def result(begun: Future[list[Episode]] | functools.partial[list[Episode]]) -> list[Episode]:
        """Return the episodes of a block. Raises concurrent.futures.process.BrokenProcessPool if the process died."""
        return begun.result() if isinstance(begun, Future) else begun()


class _Held:
    """The simulator that a process used last: the next block is usually of the same collection."""

    def __init__(self) -> None:
        self._simulator: Simulator | None = None

    def run(self, work: Work, seed: int) -> list[Episode]:
        if self._simulator is None or self._simulator.work != work:
            self.close()
            self._simulator = Simulator(work)
        return self._simulator.run(seed)

    def close(self) -> None:
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None


_held = _Held()  # of this worker process


def _run_block(work: Work, seed: int) -> list[Episode]:
    return _held.run(work, seed)


def simulated(work: Work, seed: int, lanes: Lanes, remaining: Callable[[], int], cluster: Cluster | None) -> Iterator[Episode]:
    """Yield episodes of consecutive seeds from ``seed`` on, without end; blocks ahead are simulated as far as ``remaining()`` asks for.

    Raises:
        InputError: if a process that simulated died.
    """
    if cluster is not None:
        yield from _spread(cluster, work, seed)
    pending: deque[Any] = deque()
    try:
        while True:
            ahead = max(1, min(2 * lanes.count, -(-remaining() // work.block)))
            while len(pending) < ahead:
                pending.append(lanes.submit(work, seed))
                seed += work.block
            yield from lanes.result(pending.popleft())
    except BrokenProcessPool as error:
        raise InputError(
            f"a worker that simulated {work.recipe.task} died (out of memory?); episodes committed so far are kept: run the same command to continue"
        ) from error
    finally:
        for begun in pending:
            if isinstance(begun, Future):
                begun.cancel()


def _spread(cluster: Cluster, work: Work, seed: int) -> Iterator[Episode]:
    """Yield episodes as :func:`simulated`, simulated on a cluster."""
    from robopolicy.cluster import WorkerDied

    try:
        with cluster.pool(functools.partial(_begin, work)) as pool:
            pending: deque[Any] = deque()
            while True:
                while len(pending) < 2 * pool.size:
                    pending.append(pool.submit(seed))
                    seed += work.block
                yield from pool.result(pending.popleft())
    except WorkerDied as error:
        raise InputError(f"{error}; episodes committed so far are kept: run the same command to continue") from error


def _begin(work: Work) -> Callable[[int], list[Episode]]:
    return Simulator(work).run


def pilot_steps(work: Work) -> int:
    """Return how many steps the first episode takes undisturbed, to its success or its end."""
    from dataclasses import replace

    recipe = replace(work.recipe, recovery=None, noise=0.0, extra_steps=0)
    with contextlib.closing(Simulator(replace(work, recipe=recipe, block=1))) as simulator:
        (episode,) = simulator.run(recipe.seed0)
    return len(episode.actions)
