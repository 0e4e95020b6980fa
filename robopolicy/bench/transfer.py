"""Transfer: policies trained in MuJoCo, with and without randomisation, with and without identification, tried in PyBullet.

Reach and push by imitation of the expert in the training worlds (flow), a hopper and a cheetah by PPO. Each is tried on the same 200
report states in MuJoCo, in PyBullet with the same parameters, in MuJoCo with the robot's parameters, and on the robot: PyBullet with
parameters that the trainer does not know. What is identified is fitted to motion recorded on the robot. Hours, resumable: every cell
is a process and one line of ``results.jsonl``; every evaluation is a line of ``evaluations/ledger.jsonl``. ``transfer.md`` and
``transfer.json`` in the folder hold the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robopolicy.bench.cells import Cell, Cells, run_cells
from robopolicy.bench.harness import Result, Row, write_json
from robopolicy.bench.transfer_beds import BEDS, BULLET, ROBOT, VARIANTS, WORLDS, Bed
from robopolicy.bench.transfer_table import Table, identified, markdown, tables

FOLDER = Path("runs/benchmarks/transfer")
CELLS = "robopolicy.bench.transfer_cells"
EXPERT = "expert"
TABLES = "transfer.md"


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        seeds: Training seeds.
        episodes: Of every evaluation.
        limit: Control steps of an episode; None: the task's.
        imitation: Overrides of recipes that learn from demonstrations.
        trial: Overrides of recipes that learn by trial.
        together: Whether a policy is tried in all worlds in one process, which saves starting others.
    """

    seeds: int = 3
    episodes: int = 200
    limit: int | None = None
    imitation: tuple[str, ...] = ()
    trial: tuple[str, ...] = ()
    together: bool = False


_TINY_IMITATION = ("training.steps=20", "training.checkpoint_every=20", "training.optimizer.warmup_steps=5", "training.batch_size=32")
_TINY_TRIAL = ("training.steps=1024", "training.worlds=16", "training.rollout=16", "training.epochs=1", "training.minibatches=2")
QUICK = Size(1, 4, 30, _TINY_IMITATION, _TINY_TRIAL, together=True)
QUICK_BEDS = ("arm-push", "hopper")


def run(quick: bool, steps: int | None = None, seeds: int | None = None, only: str | None = None, folder: Path | None = None) -> Result:
    """Measure; see the module's text.

    Args:
        quick: One task each way, next to no training and four short episodes: shows that it runs, says nothing of transfer.
        steps: Environment steps of the trainings by trial.
        seeds: Training seeds.
        only: Measure only cells with this in their name, e.g. of one task.
        folder: Of results, runs, evaluations and tables.
    """
    base = QUICK if quick else Size()
    size = replace(base, seeds=seeds or base.seeds, trial=(*base.trial, *((f"training.steps={steps}",) if steps else ())))
    beds = [shrunk(bed) for bed in BEDS if bed.name in QUICK_BEDS] if quick else list(BEDS)
    folder = folder or (FOLDER.with_name("transfer-quick") if quick else FOLDER)
    result = measure(beds, size, folder, only)
    if quick:
        result.notes.append("quick: 1 training seed of a few updates, 4 episodes of 30 steps: says nothing of transfer")
    return result


def shrunk(bed: Bed) -> Bed:
    """Return the bed with little of everything."""
    return replace(bed, demonstrations=min(bed.demonstrations, 4), episodes=2, seconds=min(bed.seconds, 1.0), windows=6, starts=1, iterations=1)


def measure(beds: Sequence[Bed], size: Size, folder: Path, only: str | None = None, here: bool = False) -> Result:
    """Run what has no result yet and return the rows; ``here``: all in this process, which keeps no cells."""
    folder.mkdir(parents=True, exist_ok=True)
    plans = {bed.name: plan(bed, size, folder) for bed in beds}
    cells = list(_in_turn(list(plans.values()), size))
    found = _run_here(cells) if here else run_cells(cells, folder, only=only)
    result, pages, kept = Result(missing=list(found.failed)), [], {}
    for bed in beds:
        page, made = _bed_rows(bed, plans[bed.name], found, result)
        pages.append(page)
        kept[bed.name] = made
    (folder / TABLES).write_text("\n".join(pages), encoding="utf-8")
    write_json(folder / "transfer.json", kept)
    result.notes.append(f"tables: {folder / TABLES}; every evaluation: {folder / 'evaluations' / 'ledger.jsonl'}")
    result.notes.append("intervals are over initial states, of these trainings; the paired test of the variants is adjusted for their number (Holm)")
    return result


@dataclass(frozen=True)
class Plan:
    """The cells of one bed.

    Attributes:
        identify: World -> its cell.
        train: (variant, seed) -> its cell.
        tries: (variant or expert, seed) -> its cells, each for some worlds.
    """

    identify: dict[str, Cell]
    train: dict[tuple[str, int], Cell]
    tries: dict[tuple[str, int], list[Cell]]


def plan(bed: Bed, size: Size, folder: Path) -> Plan:
    """Return the cells of one bed."""
    told, here = bed.settings(), str(folder / bed.name)
    overrides = size.imitation if bed.learns == "imitation" else size.trial
    identify = {
        world: Cell(f"{bed.name}: identify {world}", f"{CELLS}:identify_robot", {"bed": told, "world": world, "folder": here}, 1, 120)
        for world in (ROBOT, BULLET)
    }
    train, tries = {}, {}
    groups = [list(WORLDS)] if size.together else [[world] for world in WORLDS]

    def tried(who: str, seed: int) -> list[Cell]:
        base = {"bed": told, "who": who, "seed": seed, "episodes": size.episodes, "limit": size.limit, "folder": here, "ledger": str(folder / "evaluations")}
        own = base if who == EXPERT else {**base, "training": list(overrides)}
        return [Cell(f"{bed.name}: {who} seed {seed} in {'; '.join(g)}", f"{CELLS}:try_policy", {**own, "worlds": g}, 1, 60) for g in groups]

    for seed in range(size.seeds):
        for variant in VARIANTS:
            settings = {"bed": told, "variant": variant, "seed": seed, "folder": here, "training": list(overrides)}
            train[variant, seed] = Cell(f"{bed.name}: train {variant}, seed {seed}", f"{CELLS}:train_policy", settings, 1, 150)
            tries[variant, seed] = tried(variant, seed)
    tries[EXPERT, 0] = tried(EXPERT, 0)
    return Plan(identify, train, tries)


def _in_turn(plans: Sequence[Plan], size: Size) -> Iterator[Cell]:
    """Yield what others need first, then one training seed of everything before the next."""
    for one in plans:
        yield from one.identify.values()
        yield from one.tries[EXPERT, 0]
    for seed in range(size.seeds):
        for one in plans:
            for variant in VARIANTS:
                yield one.train[variant, seed]
                yield from one.tries[variant, seed]


def _run_here(cells: Sequence[Cell]) -> Cells:
    import importlib

    rows = {}
    for cell in cells:
        module, _, function = cell.function.partition(":")
        rows[cell.key] = getattr(importlib.import_module(module), function)(**dict(cell.settings))
    return Cells(rows, [])


def _bed_rows(bed: Bed, planned: Plan, found: Cells, result: Result) -> tuple[str, dict[str, Any]]:
    """Add one bed's figures to ``result``; returns its page and what it holds, JSON-ready."""
    tried: dict[str, dict[int, dict[str, Any]]] = {}
    expert: dict[str, Any] = {}
    for (who, seed), cells in planned.tries.items():
        rows = [row for row in map(found.get, cells) if row is not None]
        worlds = {world: value for row in rows for world, value in row.items() if world in WORLDS}
        if who == EXPERT:
            expert = worlds
        elif worlds:
            tried.setdefault(who, {})[seed] = worlds
    made = tables(bed, tried, expert or None)
    for table in made:
        result.rows += list(_rows(bed, table))
    about: dict[str, Any] = {"tables": [table.to_dict() for table in made], "identified": {}}
    page = [f"## {bed.name}", "", *(markdown(bed, table) for table in made)]
    for world, cell in planned.identify.items():
        row = found.get(cell)
        if row is not None:
            about["identified"][world] = {key: row[key] for key in ("estimates", "errors", "true", "warnings", "converged", "randomize")}
            page += [f"Identified from {len(row['errors']['elements'])} elements of the motion of: {world}", "", identified(row["estimates"], row["true"])]
    trained = {f"{variant}, seed {seed}": row for (variant, seed), cell in planned.train.items() if (row := found.get(cell)) is not None}
    return "\n".join(page), {**about, "trained": trained}


def _rows(bed: Bed, table: Table) -> Iterator[Row]:
    """Yield the rows of one table: every figure, then gaps and what is closed."""
    unit = table.quantity
    for who, worlds in table.reached.items():
        for world, m in worlds.items():
            yield Row(f"{bed.task}, {who}: {world} [{m.low:.2f}, {m.high:.2f}]", m.value, unit)
    for variant, m in table.gaps.items():
        yield Row(f"{bed.task}, {variant}: gap, robot - MuJoCo [{m.low:+.2f}, {m.high:+.2f}]", m.value, unit)
    for variant, closing in table.closings.items():
        m = closing.gain
        yield Row(f"{bed.task}, {variant} - nominal on the robot [{m.low:+.2f}, {m.high:+.2f}], p = {closing.p_value:.2g}", m.value, unit)
