"""Demonstrations from an expert: many worlds, several processes, one writer, the same bytes every time.

Episodes are simulated in blocks of consecutive seeds and committed in the order of their seeds, so the data set does
not depend on the number of workers. An interrupted collection continues where it ended.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.spec import InputError
from robopolicy.data.collection import EXTRA_STEPS, Collection, CollectSummary, Episode, is_begun, provenance_of, require_same, summary
from robopolicy.data.demonstrators import Act, describe_expert, require_seen
from robopolicy.data.disturb import Recovery
from robopolicy.data.simulate import BLOCK, Lanes, Work, make_worlds, pilot_steps, simulated
from robopolicy.data.writer import DatasetWriter
from robopolicy.evaluation.seeds import DEMONSTRATION, SIZE

if TYPE_CHECKING:
    from robopolicy.cluster import Cluster

__all__ = ["collect", "summary"]

_HOPELESS = 100  # attempts of which none was kept after which collecting is given up
_STRETCH_S = 0.25  # s: longest disturbance where nothing is said; an arm that moves at 0.8 m/s is then 0.2 m off
#: Told how many episodes are in the data set, how many were tried in this run, and how many of those succeeded.
Told = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Disturbing:
    """What :func:`collect` is told of recovery demonstrations; see :class:`robopolicy.data.disturb.Recovery`.

    Attributes:
        chance: That an episode is disturbed.
        steps: Longest stretch, control steps; None: a quarter of a second.
        within: Steps in which it begins; None: as many as the expert takes for the first episode.
        size: Share of the action range.
        marked: Keep disturbed frames, marked.
    """

    chance: float
    steps: int | None = None
    within: int | None = None
    size: float = 1.0
    marked: bool = False


def collect(
    task: str,
    path: str | Path,
    episodes: int,
    seed0: int = 0,
    workers: int = 2,
    observations: str | None = None,
    image_size: int | None = None,
    only_success: bool | None = None,
    progress: bool | Told = True,
    noise: float = 0.0,
    extra_steps: int | None = None,
    max_episode_steps: int | None = None,
    randomize: Mapping[str, Any] | None = None,
    engine: str = "mujoco",
    reward: str = "",
    cluster: Cluster | None = None,
    recovery: Disturbing | None = None,
    expert: str | Path | None = None,
    act: Act | None = None,
    min_return: float | None = None,
    lanes: Lanes | None = None,
) -> CollectSummary:
    """Collect until the data set at ``path`` holds ``episodes`` episodes; continues a set of the same recipe.

    Args:
        task: Task name, see ``sim.registry``.
        path: Folder of the data set.
        episodes: How many to keep.
        seed0: First seed, below ``robopolicy.evaluation.seeds.SIZE``: those above are for choosing and reporting.
        workers: Processes that simulate; the result does not depend on it.
        observations: ``state``, ``image`` or ``state+image``; None: what the checkpoint that demonstrates sees, else ``state``.
        image_size: Height and width of camera images, px; None: as above, else 96.
        only_success: Whether failed episodes are dropped; None: yes, unless there is a least return.
        progress: Whether to show a progress bar with the success rate, or who is told instead.
        noise: Of executed actions, see :class:`Collection`.
        extra_steps: Recorded after the first success; None: 10, with a least return all to the end.
        max_episode_steps: Time limit; None: the task's own.
        randomize: Section of a recipe, see ``sim.randomize``; None: nothing differs.
        engine: What steps the worlds.
        reward: Kind of reward; empty: the task's first.
        cluster: Where episodes are simulated (see ``robopolicy.cluster``); None: in processes here.
        recovery: How episodes are disturbed; None: not at all.
        expert: Checkpoint or run that demonstrates; None: the task's scripted expert.
        act: How its policy acts: with the ``mean`` of its distribution or by drawing a ``sample``; None: as it was trained to.
        min_return: Least sum of rewards of an episode that is kept.
        lanes: Processes that several collections share; None: ``workers`` of its own.

    Raises:
        InputError: if the task has no expert, the path holds another recipe, no episode is worth keeping, or seeds run out.
    """
    from sim import registry

    _require_numbers(episodes, workers, noise, extra_steps, min_return)
    name, root, _ = registry.resolve(task), Path(path).expanduser(), _require_own(seed0)
    checkpoint, about, seen = _demonstrator(name, expert, act)
    recipe = Collection(
        name,
        observations or str(seen.get("observations", "state")),
        image_size or int(seen.get("image_size", 96)),
        float(noise),
        min_return is None if only_success is None else only_success,
        _extra_steps(extra_steps, min_return),
        max_episode_steps,
        seed0,
        _whole(randomize),
        engine if engine != "mujoco" else None,
        reward or seen.get("reward") or None,
        expert=about,
        min_return=min_return,
    )
    work = Work(recipe, _block(recipe, episodes, workers, bool(checkpoint)), checkpoint, act)
    with contextlib.closing(make_worlds(recipe, 1)) as world:
        spec, suite = world.spec, world.suite_version
    if checkpoint:
        require_seen(checkpoint, spec, name)
    if recovery is not None and recovery.chance:
        work = replace(work, recipe=replace(recipe, recovery=_recovery(recovery, work, root, spec.action.rate_hz)))
    provenance = {"collect": asdict(work.recipe) | {"suite_version": suite}, "attempts": 0}
    require_same(root, provenance["collect"])
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(DatasetWriter(root, spec, spec.action.rate_hz, name, name, provenance=provenance))
        if writer.num_episodes < episodes:
            _run(work, writer, episodes, stack.enter_context(Lanes(workers)) if lanes is None else lanes, progress, cluster)
    return summary(root)


def _require_numbers(episodes: int, workers: int, noise: float, extra_steps: int | None, min_return: float | None) -> None:
    """Refuse numbers that ask for nothing. Raises InputError."""
    if episodes < 1 or workers < 1 or not 0 <= noise < math.inf or (extra_steps or 0) < 0:
        raise InputError(
            f"collect: episodes and workers must be at least 1, noise and extra steps at least 0, found {episodes}, {workers}, {noise:g}, {extra_steps}"
        )
    if min_return is not None and not math.isfinite(min_return):
        raise InputError(f"collect: min return: expected a finite number, found {min_return}")


def _require_own(seed: int) -> None:
    """Refuse a seed that demonstrations do not have: what is learnt from a state must not be reported on it. Raises InputError."""
    if not DEMONSTRATION <= seed < DEMONSTRATION + SIZE:
        raise InputError(
            f"collect: seed {seed}: demonstrations have seeds {DEMONSTRATION} to {DEMONSTRATION + SIZE - 1}; others are for choosing and reporting"
        )


def _demonstrator(task: str, expert: str | Path | None, act: Act | None) -> tuple[str, dict[str, Any] | None, Mapping[str, Any]]:
    """Return the folder of the checkpoint that demonstrates, what is kept of it and what its worlds are like; empty for the scripted expert."""
    from sim import registry

    if expert is not None:
        return describe_expert(expert, act)
    if act is not None:
        raise InputError(f"--{act} is how a checkpoint acts that demonstrates: give it with --expert")
    if not registry.entry(task).has_expert:
        raise InputError(f"task {task!r} has no scripted expert; let a trained policy demonstrate (--expert RUN), or record by hand with `robopolicy teleop`")
    return "", None, {}


def _block(recipe: Collection, episodes: int, workers: int, fixed: bool) -> int:
    """Return how many seeds are simulated together; always as many for a policy, whose numbers depend in the last bit on how many rows there are."""
    block = BLOCK["image" in recipe.observations]
    return block if fixed else max(1, min(block, -(-episodes // workers)))


def _extra_steps(given: int | None, min_return: float | None) -> int | None:
    """Return how many steps are recorded after a success; a return is of a whole episode."""
    return given if given is not None or min_return is not None else EXTRA_STEPS


def _whole(randomize: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the section unless it has a curriculum: which level a seed would get depended on the number of workers."""
    if randomize and "curriculum" in randomize:
        raise InputError("collect: randomize.curriculum widens ranges while one trains; collecting draws from the whole ranges: leave it out")
    return dict(randomize) if randomize else None


def _recovery(asked: Disturbing, work: Work, root: Path, rate_hz: float) -> Recovery:
    """Fill in what was not said: a data set that is continued knows it already."""
    steps = asked.steps or max(3, round(_STRETCH_S * rate_hz))
    if asked.within is not None:
        return Recovery(asked.chance, steps, asked.within, asked.size, asked.marked)
    Recovery(asked.chance, steps, 1, asked.size, asked.marked)  # refuses what cannot be before a pilot runs
    known = ((provenance_of(root) or {}).get("recovery") or {}).get("within") if is_begun(root) else None
    return Recovery(asked.chance, steps, int(known) if known else max(1, pilot_steps(work)), asked.size, asked.marked)


def _run(work: Work, writer: DatasetWriter, wanted: int, lanes: Lanes, progress: bool | Told, cluster: Cluster | None) -> None:
    """Simulate and save until ``wanted`` episodes are there."""
    recipe, tried, won, best = work.recipe, 0, 0, -float("inf")
    seed = recipe.seed0
    if writer.num_episodes:
        done = summary(writer.root)
        seed, tried, won = recipe.seed0 + done.attempts, done.attempts, done.attempts - done.failures
    first = seed - (seed - recipe.seed0) % work.block if work.checkpoint else seed
    with _bar(recipe.task, wanted, writer.num_episodes, progress) as told:
        for episode in simulated(work, first, lanes, lambda: wanted - writer.num_episodes, cluster):
            if episode.seed < seed:
                continue  # of a block that was begun before
            _require_own(episode.seed)
            tried, won, best = tried + 1, won + int(episode.success), max(best, episode.return_)
            if recipe.keeps(episode):
                _save(writer, episode)
            told(writer.num_episodes, tried, won)
            if writer.num_episodes >= wanted:
                return
            if not writer.num_episodes and tried >= _HOPELESS:
                raise InputError(_hopeless(recipe, tried, won, best))


def _hopeless(recipe: Collection, tried: int, won: int, best: float) -> str:
    """Return why nothing is collected."""
    where = f"seeds {recipe.seed0} on, noise {recipe.noise:g}" + (f", recovery {recipe.recovery.chance:g}" if recipe.recovery else "")
    if won or not recipe.only_success:
        return f"no episode of {recipe.task} reached a return of {recipe.min_return:g} in {tried} ({where}; the best {best:.4g}); collect with a lower one"
    return f"the expert of {recipe.task} failed {tried} times in a row ({where}); collect with --all-episodes or less noise"


@contextlib.contextmanager
def _bar(task: str, wanted: int, done: int, progress: bool | Told) -> Any:
    """Yield who is told of every episode: the caller's own, or a bar with the success rate."""
    if callable(progress):
        yield progress
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("success {task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, disable=not progress, transient=False) as bar:
        shown = bar.add_task(f"collecting {task}", total=wanted, completed=done, rate="-")
        yield lambda kept, tried, won: bar.update(shown, completed=kept, rate=f"{won}/{tried} ({won / tried:.0%})")


def _save(writer: DatasetWriter, episode: Episode) -> None:
    """Record one episode; its capture times are those of the simulated clock."""
    last = len(episode.actions) - 1
    for t, action in enumerate(episode.actions):
        extras = {"next.reward": float(episode.rewards[t]), "next.success": bool(episode.successes[t]), "next.done": t == last}
        extras |= {name: column[t].item() for name, column in episode.extras.items()}
        stamps = {"observation": round(t * 1e9 / writer.fps)}
        writer.add_frame({name: array[t] for name, array in episode.observations.items()}, action, stamps, extras)
    writer.save_episode(success=episode.success, seed=episode.seed, randomized=episode.randomized)
