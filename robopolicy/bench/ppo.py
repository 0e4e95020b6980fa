"""PPO on HalfCheetah-v5 and Hopper-v5 beside stable-baselines3's at its published settings: speed, and time to the same return.

Speed is that of whole training, rollouts and updates, in rounds that take all sides in turn; the best round counts. The peer
is the fastest of 1, 8 and 16 worlds with 1 and 2 threads; as further rows, its speed with our batch sizes and network, and
ours with its network. Then both train for a million steps, three seeds each: deterministic returns on the same twenty initial
states of Gymnasium's own environment, and the seconds until either side first reaches what the peer has at the end on average.
About three hours, nearly all of them the peer's; every cell is a process and one line of ``runs/benchmarks/ppo/results.jsonl``,
and is not run again. What is trained at the end enters ``evaluations/ledger.jsonl`` there, 50 report states each.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from robopolicy.bench.cells import Cell, Cells, run_cells
from robopolicy.bench.entered import entries
from robopolicy.bench.harness import Result, Row
from robopolicy.bench.returns import first_reached, said
from robopolicy.bench.trial_runs import digest
from robopolicy.reporting.leaderboard import PEER as PEER_LABEL

FOLDER = Path("runs/benchmarks/ppo")
TASKS = {"HalfCheetah-v5": "rl/half-cheetah", "Hopper-v5": "rl/hopper"}
TARGET = {"HalfCheetah-v5": 4.0}  # times the peer's environment steps a second
PEER = "stable-baselines3"
#: The published network in place of ours.
PUBLISHED_NETWORK = ("policy.hidden=[256,256]", "policy.activation=relu", "training.critic.hidden=[256,256]", "training.critic.activation=relu")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int = 3
    seconds: float = 8.0  # of a round of the peer
    iterations: int = 60  # of a round of ours
    worlds: tuple[int, ...] = (1, 8, 16)
    threads: tuple[int, ...] = (1, 2)
    steps: int = 1_000_000
    seeds: int = 3
    points: int = 8  # evaluations of a curve
    episodes: int = 20
    entered: int = 50  # report states of what enters the ledger


QUICK = Size(1, 0.5, 6, (8,), (1,), 8192, 1, 2, 3, 3)


@dataclass
class Sides:
    """The cells of one environment: name of a side -> its rounds, and system -> its curves, one a seed."""

    speeds: dict[str, list[Cell]] = field(default_factory=dict)
    curves: dict[str, list[Cell]] = field(default_factory=dict)


def run(quick: bool, steps: int | None = None, seeds: int | None = None, only: str | None = None, folder: Path | None = None) -> Result:
    """Measure; see the module's text.

    Args:
        quick: A round and a few iterations of everything: shows that it runs, says nothing of learning.
        steps: Environment steps of the trainings.
        seeds: Training seeds.
        only: Measure only cells with this in their name.
        folder: Of results and runs.
    """
    base = QUICK if quick else Size()
    size = Size(**{**base.__dict__, "steps": steps or base.steps, "seeds": seeds or base.seeds})
    folder = folder or (FOLDER.with_name("ppo-quick") if quick else FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    sides = {environment: plan(environment, size, folder, "" if size.steps == base.steps else f"{size.steps}-") for environment in TASKS}
    found = run_cells(list(_in_turn(sides, size)), folder, only=only)
    result = Result(missing=[] if _peer() else [f"{PEER}: not installed; pip install 'stable-baselines3>=2.9,<3'"])
    for environment, side in sides.items():
        result.rows += list(_speed_rows(environment, side, found))
        rows, notes = _curve_rows(environment, side, found, size)
        result.rows += rows
        result.notes += notes
    result.missing += found.failed
    result.notes.append("speed: best of interleaved rounds, each in a process of its own; CPU seconds are of all threads")
    if quick:
        result.notes.append("quick: 1 round, the peer with 8 worlds and 1 thread alone, few steps: returns say nothing of learning")
    return result


def _peer() -> bool:
    return importlib.util.find_spec("stable_baselines3") is not None


def plan(environment: str, size: Size, folder: Path, length: str = "") -> Sides:
    """Return the cells of one environment; the peer's only where it is installed. ``length`` tells runs of another number of steps apart."""
    from robopolicy.recipe import load_recipe

    recipe, out = TASKS[environment], Sides()
    runs = folder / environment
    plain = load_recipe(recipe, (), lambda text: None)
    training = plain.training
    widths = {"hidden": plain.policy.hidden, "critic_hidden": training.critic.hidden}
    batches = {"n_steps": training.rollout, "batch_size": training.worlds * training.rollout // training.minibatches, "n_epochs": training.epochs}

    def ours(name: str, overrides: tuple[str, ...]) -> None:
        told = {"recipe": recipe, "overrides": overrides, "iterations": size.iterations, "planned": digest(recipe, overrides)}
        cells = [{**told, "turn": turn, "folder": str(runs / f"speed-{turn}")} for turn in range(size.rounds)]
        out.speeds[name] = [Cell(f"{environment} speed: {name}, round {k + 1}", "robopolicy.bench.trial_runs:speed", c) for k, c in enumerate(cells)]

    def theirs(name: str, worlds: int, threads: int, more: Mapping[str, Any]) -> None:
        told = {"environment": environment, "worlds": worlds, "threads": threads, "seconds": size.seconds, **more}
        function, rounds = "robopolicy.bench.baselines:ppo_speed", range(size.rounds)
        out.speeds[name] = [Cell(f"{environment} speed: {name}, round {k + 1}", function, {**told, "turn": k}, threads, size.seconds + 8) for k in rounds]

    ours("ours", ())
    ours("ours with the published network", PUBLISHED_NETWORK)
    told = {"environment": environment, "steps": size.steps, "every": -(-size.steps // size.points), "episodes": size.episodes}
    entry = {label: entries(plain.task, label, size.steps, size.entered, folder) for label in ("PPO", f"{PEER_LABEL}{PEER} PPO")}
    for seed in range(size.seeds):
        here = {
            **told,
            "recipe": recipe,
            "overrides": (),
            "planned": digest(recipe, ()),
            "seed": seed,
            "folder": str(runs / f"ours-{length}seed{seed}"),
            "entry": entry["PPO"],
        }
        cell = Cell(f"{environment} curve: ours, seed {seed}", "robopolicy.bench.trial_runs:curve", here, 1, size.steps / 1e4)
        out.curves.setdefault("ours", []).append(cell)
    if not _peer():
        return out
    for worlds in size.worlds:
        for threads in size.threads:
            theirs(_published(worlds, threads), worlds, threads, {})
    theirs(f"{PEER}, our batch sizes and network", training.worlds, 1, {"ours": {**batches, **widths}})
    for seed in range(size.seeds):
        theirs_too = {**told, "seed": seed, "entry": entry[f"{PEER_LABEL}{PEER} PPO"]}
        cell = Cell(f"{environment} curve: {PEER}, seed {seed}", "robopolicy.bench.baselines:ppo_curve", theirs_too, 1, size.steps / 700)
        out.curves.setdefault(PEER, []).append(cell)
    return out


def _published(worlds: int, threads: int) -> str:
    return f"{PEER}, published, {worlds} {'world' if worlds == 1 else 'worlds'}, {threads} {'thread' if threads == 1 else 'threads'}"


def _in_turn(sides: Mapping[str, Sides], size: Size) -> Iterator[Cell]:
    """Yield speeds round by round, all sides in turn, then curves seed by seed."""
    for turn in range(size.rounds):
        for side in sides.values():
            yield from (cells[turn] for cells in side.speeds.values())
    for seed in range(size.seeds):
        for side in sides.values():
            yield from (cells[seed] for cells in side.curves.values())


def _entered(side: Sides, found: Cells) -> dict[str, list[dict[str, Any]]]:
    return {name: [row for row in map(found.get, cells) if row is not None and "report_return" in row] for name, cells in side.curves.items()}


def _best(cells: list[Cell], found: Cells, clock: str) -> dict[str, Any] | None:
    """Return the round with the most steps a second of ``clock`` (``wall_s`` or ``cpu_s``)."""
    rows = [row for row in map(found.get, cells) if row is not None]
    return max(rows, key=lambda row: row["steps"] / row[clock]) if rows else None


def _speed_rows(environment: str, side: Sides, found: Cells) -> Iterator[Row]:
    for clock, unit in (("wall_s", "env-steps/s"), ("cpu_s", "env-steps/CPU-s")):
        best = {name: row for name, cells in side.speeds.items() if (row := _best(cells, found, clock)) is not None}
        rate = {name: row["steps"] / row[clock] for name, row in best.items()}
        published = max((name for name in rate if name.startswith(f"{PEER}, published")), key=rate.__getitem__, default=None)
        alike = next((name for name in rate if name.endswith("our batch sizes and network")), None)
        for name, peer, target in (
            ("ours", published, TARGET.get(environment)),
            ("ours", alike, None),
            ("ours with the published network", published, None),
        ):
            if name in rate and (peer is not None or not _peer()):
                said_of = f"{environment}: whole training{'' if name == 'ours' else ', published network'}"
                own = best[name]
                yield Row(said_of, rate[name], unit, peer, rate[peer] if peer else None, target, "higher", own["wall_s"], own["cpu_s"])


def _curve_rows(environment: str, side: Sides, found: Cells, size: Size) -> tuple[list[Row], list[str]]:
    """Return the rows of final returns and of the time to the peer's, and notes with their intervals."""
    curves = {name: [row["points"] for row in map(found.get, cells) if row is not None] for name, cells in side.curves.items()}
    ours, theirs = curves.get("ours", []), curves.get(PEER, [])
    rows, notes = [], []
    notes += [f"{environment}: {n} on report states: {said([row['report_return'] for row in rs])}" for n, rs in _entered(side, found).items() if rs]
    final = {name: [points[-1]["return"] for points in some] for name, some in curves.items() if some}
    what = f"{environment}: return after {size.steps:,} steps, deterministic"
    if ours:
        peer = fmean(final[PEER]) if theirs else None
        rows.append(Row(what, fmean(final["ours"]), "return", f"{PEER}, published" if theirs else None, peer, 1.0 if theirs else None))
        notes += [f"{what}, mean [95 % over seeds] (each seed): {name} {said(values)}" for name, values in final.items()]
    if not (ours and theirs):
        return rows, notes
    target = fmean(final[PEER])
    reached = [first_reached(points, target) for points in ours]
    there = [point for point in reached if point is not None]
    if len(there) < len(reached):
        notes.append(f"{environment}: {len(reached) - len(there)} of {len(reached)} seeds of ours did not reach {target:,.0f} at an evaluation")
        return rows, notes
    first = [first_reached(points, target) or points[-1] for points in theirs]  # a seed that stays below the mean of all takes to its end
    for clock, name in (("wall_s", "wall-clock"), ("cpu_s", "CPU")):
        mine, peers = [p[clock] for p in there], [p[clock] for p in first]
        title = f"{environment}: {name} seconds to {target:,.0f}, the peer's after {size.steps:,} steps"
        rows.append(Row(title, fmean(mine), "s", f"{PEER}, published", fmean(peers), better="lower"))
        notes.append(f"{title}: ours {said(mine)}, {PEER} {said(peers)}")
    steps = {name: json.dumps([int(p["steps"]) for p in points]) for name, points in (("ours", there), (PEER, first))}
    notes.append(f"{environment}: ours reached it after {steps['ours']} steps, {PEER} after {steps[PEER]}, evaluated every {size.steps // size.points:,}")
    return rows, notes
