"""OGBench's data sets made here, without a download: the same kinds, episode lengths and numbers, in our layout and with our seeds.

    python -m robopolicy.data.ogbench ogbench/cube-single-play data/cube-single-play --workers 2

A data set holds ``observation.state`` and the executed action; goals come from ``data.goals`` of a recipe. It does not depend on the
number of workers, and the same call goes on where it was stopped. It differs from the published files in the random numbers, in
that it keeps the last frame of an episode (the published loader drops it, for want of a next state) and has no validation set.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from policies.spec import InputError, suggest
from robopolicy.data import layout
from robopolicy.data.collection import is_begun
from robopolicy.data.ogbench_episodes import MazeSimulator, PlaySimulator, Trajectory
from robopolicy.data.writer import DatasetWriter
from robopolicy.worker_processes import worker_pool
from sim.suites.ogbench import make_spec

STATE = "observation.state"


@dataclass(frozen=True)
class Published:
    """One published data set.

    Attributes:
        task: Registered name of its environment.
        kind: ``play``, ``navigate`` or ``stitch``.
        episodes: In its training set.
        frames: Of an episode, with the last one.
    """

    task: str
    kind: str
    episodes: int
    frames: int

    @property
    def name(self) -> str:
        """E.g. ``ogbench/cube-single-play``."""
        return f"{self.task}-{self.kind}"


def _published() -> Iterator[Published]:
    for size in ("medium", "large", "giant", "teleport"):
        task = f"ogbench/pointmaze-{size}"
        yield Published(task, "navigate", 500, 2001) if size == "giant" else Published(task, "navigate", 1000, 1001)
        yield Published(task, "stitch", 5000, 201)
    for name in ("cube-single", "cube-double", "cube-triple", "scene", "puzzle-3x3", "puzzle-4x4"):
        yield Published(f"ogbench/{name}", "play", 3000 if name == "cube-triple" else 1000, 1001)


PUBLISHED = {one.name: one for one in _published()}


def find(name: str) -> Published:
    """Return the data set ``name``. Raises InputError for one that is not made here."""
    if name not in PUBLISHED:
        raise InputError(f"data set {name!r} is not made here{suggest(name, PUBLISHED)}; ants and humanoids need a policy that walks")
    return PUBLISHED[name]


def regenerate(name: str, path: str | Path, episodes: int | None = None, workers: int = 2, progress: bool = True, frames: int | None = None) -> int:
    """Make the data set ``name`` at ``path`` until it holds ``episodes``, and return how many it holds.

    Args:
        name: E.g. ``ogbench/pointmaze-large-navigate``.
        path: Folder; one that was begun with the same settings is continued.
        episodes: None: as many as published.
        workers: Processes that simulate; the result does not depend on it.
        progress: Whether to show a progress bar.
        frames: Of an episode; None: as published.

    Raises:
        InputError: for an unknown name, a folder with something else in it, or if a process dies.
    """
    one, root = find(name), Path(path)
    wanted, length = episodes or one.episodes, frames or one.frames
    if wanted < 1 or workers < 1 or length < 1:
        raise InputError(f"data set {name}: episodes, workers and frames must be at least 1, found {wanted}, {workers}, {length}")
    from sim.suites.ogbench.version import suite_version

    about = {**asdict(one), "name": name, "frames": length, "seed0": 0, "suite_version": suite_version(one.task)}
    _require_same(root, about)
    whole = make_spec(one.task)
    spec = type(whole)(whole.observation.subset([STATE]), whole.action)
    with DatasetWriter(root, spec, spec.action.rate_hz, one.task, f"{one.task} {one.kind}", provenance={"ogbench": about}) as writer:
        if writer.num_episodes < wanted:
            with contextlib.closing(_trajectories(one, length, range(writer.num_episodes, wanted), workers)) as made, _bar(one, wanted, progress) as told:
                for trajectory in made:
                    _save(writer, trajectory)
                    told(writer.num_episodes)
        return writer.num_episodes


def _require_same(root: Path, wanted: dict[str, object]) -> None:
    """Refuse to add to a data set of another kind."""
    if not is_begun(root):
        return
    found = ((layout.read_own(root) or {}).get("provenance") or {}).get("ogbench")
    if found is None:
        raise InputError(f"{root} holds a data set that was not made like this; give another folder")
    for key, value in wanted.items():
        if found.get(key) != value:
            raise InputError(f"{root} was made with {key} {found.get(key)!r}, not {value!r}; give another folder or the same settings")


def _save(writer: DatasetWriter, trajectory: Trajectory) -> None:
    last = len(trajectory.actions) - 1
    for t, action in enumerate(trajectory.actions):
        writer.add_frame({STATE: trajectory.states[t]}, action, {"observation": round(t * 1e9 / writer.fps)}, {"next.done": t == last})
    writer.save_episode(seed=trajectory.seed)


_simulator: MazeSimulator | PlaySimulator | None = None  # of this worker process


def _simulate(one: Published, frames: int) -> MazeSimulator | PlaySimulator:
    return PlaySimulator(one.task, frames) if one.kind == "play" else MazeSimulator(one.task, one.kind, frames)


def _begin_worker(one: Published, frames: int) -> None:
    global _simulator
    _simulator = _simulate(one, frames)


def _run(seed: int) -> Trajectory:
    assert _simulator is not None
    return _simulator.run(seed)


def _trajectories(one: Published, frames: int, seeds: range, workers: int) -> Generator[Trajectory, None, None]:
    """Yield the episodes of ``seeds`` in this order."""
    if workers == 1:
        simulator = _simulate(one, frames)
        yield from (simulator.run(seed) for seed in seeds)
        return
    pool = worker_pool(workers, False, _begin_worker, (one, frames))
    try:
        pending: deque[Future[Trajectory]] = deque()
        waiting = iter(seeds)
        while True:
            while len(pending) < 2 * workers and (seed := next(waiting, None)) is not None:
                pending.append(pool.submit(_run, seed))
            if not pending:
                return
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(f"a process that simulated {one.name} died (out of memory?); episodes so far are kept: run the same command to continue") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _bar(one: Published, wanted: int, show: bool) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not show) as bar:
        shown = bar.add_task(one.name, total=wanted)
        yield lambda done: bar.update(shown, completed=done)


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(PUBLISHED)}.")],
    out: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    episodes: Annotated[int | None, typer.Option(min=1, help="How many; as many as published if left out.", show_default=False)] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that simulate; the result does not depend on it.")] = 2,
) -> None:
    """Make one of OGBench's data sets anew; the same command goes on after a stop."""
    try:
        count = regenerate(name, out, episodes, workers)
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{out}: {count} episodes of {name}")


if __name__ == "__main__":
    typer.run(main)
