"""Simulation: env-steps a second of batched worlds beside the physics alone, Gymnasium, stable-baselines3 and Meta-World; pictures a second.

Ours is the whole step: action, physics, observation, reward, auto-reset. Rows are measured in blocks that take turns with the
peer's, and the best block of each side counts. Resumable: rows of a run that was stopped stay in ``runs/benchmarks/sim`` and are
not measured again; a run that has ended begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from robopolicy.bench import harness
from robopolicy.bench.harness import Result, Row
from robopolicy.bench.sim_peers import ENVIRONMENTS, PEERS, Peer, against_peer
from robopolicy.bench.sim_speed import Side, against_raw
from robopolicy.bench.sim_suites import PICTURE_TASKS, against_suite, batched_metaworld, pictures

FOLDER = Path("runs/benchmarks/sim")
ROBOTS = ("gymnasium/half-cheetah", "gymnasium/hopper", "gymnasium/ant", "gymnasium/humanoid", "locomotion/quadruped", "arm/reach")
FULL = ("gymnasium/ant-full", "gymnasium/humanoid-full")
WORLDS, QUICK_WORLDS = (1, 16, 64, 256, 1024), (1, 64, 256)
THREADS = (1, 2)
PICTURE_SIZES = (96, 224)
RAW_SHARE, RAW_FROM = 0.9, 64  # target, and the number of worlds from which it holds
SUITE_TIMES, SUITE_MEDIAN, SUITE_HARD = 1.8, 3.0, {"metaworld/push": 5.0, "metaworld/pick-place": 5.0}
QUICK_SUITE = ("metaworld/push", "metaworld/pick-place", "metaworld/drawer-open")

Pair = tuple[Side, Side | None]


@dataclass(frozen=True)
class Cell:
    """One thing to measure: rows of the result come of it.

    Attributes:
        key: What it is called in the file of a stopped run.
        title: Of its rows.
        peer: What it is compared with.
        target: For the ratio of wall times.
        measure: Takes the seconds that it may last.
        unit: Of the figures.
    """

    key: str
    title: str
    peer: str | None
    target: float | None
    measure: Callable[[float], Pair]
    unit: str = "env-steps/s"


def run(quick: bool) -> Result:
    """Measure everything; ``quick`` takes less than two minutes, with fewer worlds, three Meta-World tasks and short blocks."""
    return measured_cells(list(cells(quick)), 0.25 if quick else 3.0, FOLDER / ("quick.json" if quick else "full.json"), missing(quick))


def measured_cells(todo: list[Cell], seconds: float, file: Path, absent: list[str]) -> Result:
    """Measure ``todo``, each for about ``seconds``, keeping what is done in ``file`` until all is."""
    from rich.progress import track

    result = Result(missing=absent)
    stamp = {"machine": {k: v for k, v in harness.machine().items() if k != "load_before"}, "packages": harness.packages(), "seconds": seconds}
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    done: dict[str, list[list[float] | None]] = kept.get("cells", {}) if kept.get("stamp") == stamp else {}
    for cell in track(todo, description="sim"):
        if cell.key not in done:
            done[cell.key] = [None if side is None else side.to_list() for side in cell.measure(seconds)]
            harness.write_json(file, {"stamp": stamp, "cells": done})
        ours, theirs = done[cell.key]
        assert ours is not None
        result.rows += rows_of(cell, Side.from_list(ours), None if theirs is None else Side.from_list(theirs))
    result.rows += summary(result.rows)
    result.notes += NOTES
    file.unlink(missing_ok=True)
    return result


NOTES = [
    "best of interleaved blocks; wall s and CPU s are those of our side; the target holds for wall time, CPU time is beside it",
    "beside mujoco.batch: same model, threads, worlds and states; its side is the stepping call alone, replayed from recorded states",
    "Gymnasium and stable-baselines3: sync and dummy vectors up to 64 worlds (a step's cost grows with the number: the rate stays), "
    "one process a world up to 16 (more than that is hopeless on few cores); beside those, worlds with two threads",
    "Ant and Humanoid: contact-force observation and cost off on both sides; the -full tasks are Gymnasium's defaults, forces world by world",
]


def rows_of(cell: Cell, ours: Side, theirs: Side | None) -> list[Row]:
    """Return the rows of one measurement: by wall time, and by CPU time."""
    peers = (None, None) if theirs is None else (theirs.best, theirs.best_cpu)
    return [
        Row(cell.title, ours.best, cell.unit, cell.peer, peers[0], cell.target, wall_s=ours.wall_s, cpu_s=ours.cpu_s),
        Row(f"{cell.title}, per CPU-second", ours.best_cpu, cell.unit.replace("/s", "/CPU-s"), cell.peer, peers[1], wall_s=ours.wall_s, cpu_s=ours.cpu_s),
    ]


def cells(quick: bool) -> Iterator[Cell]:
    """Yield everything that can be measured here."""
    for task in ROBOTS:
        if lacking(task) is None:
            for threads in THREADS:
                for worlds in QUICK_WORLDS if quick else WORLDS:
                    target = RAW_SHARE if worlds >= RAW_FROM else None
                    title = f"{task}, {counted(worlds, 'world')}, {counted(threads, 'thread')}"
                    yield Cell(f"raw {title}", title, "mujoco.batch", target, _raw(task, worlds, threads))
    for task in ENVIRONMENTS:
        for peer in PEERS:
            if lacking(task) is None and not peer.missing:
                for worlds in peer.worlds if not quick else ((16,) if task == "gymnasium/half-cheetah" else ()):
                    title = f"{task}, {counted(worlds, 'world')}"
                    yield Cell(f"{peer.name} {title}", title, peer.name, None, _peer(task, peer, worlds))
    for task in batched_metaworld():
        for threads in THREADS:
            if not quick or task in QUICK_SUITE:
                title = f"{task}, 64 worlds, {counted(threads, 'thread')}"
                target = SUITE_HARD.get(task, SUITE_TIMES) if threads == 1 else None
                yield Cell(f"suite {title}", title, "metaworld, one environment", target, _suite(task, threads))
    for task in PICTURE_TASKS:
        for size in PICTURE_SIZES:
            if lacking(task) is None:
                yield Cell(f"picture {task} {size}", f"{task}, pictures of {size} px", None, None, _pictures(task, size), "pictures/s")


def _raw(task: str, worlds: int, threads: int) -> Callable[[float], Pair]:
    return lambda seconds: against_raw(task, worlds, threads, seconds)


def _peer(task: str, peer: Peer, worlds: int) -> Callable[[float], Pair]:
    return lambda seconds: against_peer(task, peer, worlds, seconds)


def _suite(task: str, threads: int) -> Callable[[float], Pair]:
    return lambda seconds: against_suite(task, threads, seconds)


def _pictures(task: str, size: int) -> Callable[[float], Pair]:
    return lambda seconds: (pictures(task, size, seconds), None)


def counted(number: int, noun: str) -> str:
    """Return ``1 world``, ``2 worlds``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def lacking(task: str) -> str | None:
    """Return why ``task`` cannot be measured here, None if it can."""
    from sim import registry

    if task not in registry.names():
        return f"{task}: no such task"
    item = registry.entry(task)
    if item.missing:
        return f"{task}: needs {', '.join(item.missing)}: {item.install}"
    return None if item.batched or task in PICTURE_TASKS else f"{task}: its worlds are not on an engine of sim.engine"


def missing(quick: bool) -> list[str]:
    """Return what cannot be compared here, and why."""
    out = [line for line in map(lacking, dict.fromkeys((*ROBOTS, *FULL, *PICTURE_TASKS))) if line]
    out += [f"{peer.name}: {peer.package} is not installed" for peer in PEERS if peer.missing]
    if not batched_metaworld():
        out.append("Meta-World: not installed, or its worlds are not batched")
    if quick:
        out.append("quick: 16 and 1024 worlds, peers of other robots than half-cheetah, most of Meta-World's tasks")
    return out


def summary(rows: list[Row]) -> list[Row]:
    """Return the median over Meta-World's tasks beside its target."""
    ratios = [r.ratio for r in rows if r.peer == "metaworld, one environment" and r.name.endswith("1 thread") and r.ratio]
    if not ratios:
        return []
    return [
        Row(f"Meta-World, median of {len(ratios)} tasks, 1 thread", median(ratios), "times the suite's own", target=SUITE_MEDIAN),
        Row(f"Meta-World, least of {len(ratios)} tasks, 1 thread", min(ratios), "times the suite's own", target=SUITE_TIMES),
    ]
