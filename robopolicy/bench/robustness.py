"""Robustness: three policies of equal size on a Meta-World task, an arm task and from a camera, under growing perturbations.

Flow, diffusion and regression share network, chunk, data and number of updates on every bed; each is evaluated at all sizes of all kinds
on the same initial states. Hours on two cores, and resumable: run it again after a stop. Two at once, of different beds (``--only``),
do not disturb each other. FOLDER/BED gets robustness.html, robustness.md and the ledger.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.bench.cells import Cell, Cells, run_cells
from robopolicy.bench.harness import Result, Row

FOLDER = Path("runs/benchmarks/robustness")
POLICIES = ("flow", "diffusion", "regression")
STATE_KINDS = ("noise", "latency", "drops", "delay", "lost_commands", "action_noise", "mass", "friction", "damping", "gain", "push")
CAMERA_KINDS = ("pixel_noise", "latency", "drops", "camera", "camera_turn", "light", "texture")


@dataclass(frozen=True)
class Bed:
    """A task with its training and what is done to it.

    Attributes:
        name: Of its folder.
        recipe: Installed recipe that the policies are trained with.
        task: Registered task.
        demonstrations: Of the scripted expert.
        updates: Of every policy.
        episodes: Of a cell, on report seeds.
        kinds: Perturbations.
        overrides: Of the recipe, for all policies.
        own: Of the recipe, for one policy: the learning rate that was chosen on selection seeds.
        sizes: Kind -> sizes, where they are not the kind's own.
        together: Whether training and all kinds are one cell: less to begin, less to go on from.
        seconds: Of one size of one kind, roughly.
    """

    name: str
    recipe: str
    task: str
    demonstrations: int
    updates: int
    episodes: int
    kinds: tuple[str, ...] = STATE_KINDS
    overrides: tuple[str, ...] = ()
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sizes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    together: bool = False
    seconds: float = 6.0


_SLOWER = {"regression": ("training.optimizer.lr=0.0003",)}
#: Drawing is nearly all of the time: fewer sizes, and episodes of 150 steps, twice what the expert needs.
_CAMERA_SIZES = {"latency": (25.0, 50.0, 100.0, 200.0), "drops": (0.25, 0.5, 0.75, 0.9)}
BEDS = (
    Bed("metaworld-push", "imitation/metaworld", "metaworld/push", 25, 3000, 100, own=_SLOWER),
    Bed("arm-push", "imitation/arm_push", "arm/push", 100, 4000, 100),
    Bed(
        "button-press-camera",
        "imitation/metaworld_image",
        "metaworld/button-press",
        demonstrations=20,
        updates=800,
        episodes=40,
        kinds=CAMERA_KINDS,
        overrides=("env.max_episode_steps=150",),
        own=_SLOWER,
        sizes=_CAMERA_SIZES,
        seconds=30.0,
    ),
)


def quick_beds() -> list[Bed]:
    """Return all beds cut down to see that they run: next to no training, four short episodes, two sizes of three kinds."""
    short = ("training.checkpoint_every=10", "training.optimizer.warmup_steps=2", "env.max_episode_steps=12", "policy.mlp.width=32", "data.workers=1")
    out = []
    for bed in BEDS:
        camera = bed.kinds == CAMERA_KINDS
        smaller = ("env.image_size=32", "policy.image.channels=[8,8]") if camera else ()
        kinds = ("pixel_noise", "camera", "light") if camera else ("noise", "delay", "push")
        sizes: dict[str, tuple[float, ...]] = {kind: (0.5,) if kind in ("light", "noise", "pixel_noise") else (50.0,) for kind in kinds}
        sizes |= {"camera": (5.0,)} if camera else {"push": (1.0,)}
        kept = tuple(o for o in bed.overrides if o.partition("=")[0] not in {s.partition("=")[0] for s in short})
        cut = {"demonstrations": 2, "updates": 10, "episodes": 4, "kinds": kinds, "sizes": sizes, "together": True, "seconds": 1.0}
        out.append(dataclasses.replace(bed, overrides=(*kept, *short, *smaller), **cut))
    return out


def run(quick: bool, only: str | None = None, folder: Path | None = None) -> Result:
    """Train and measure what has no result yet.

    Args:
        quick: Shows that it runs; says nothing of robustness.
        only: Measure only cells with this in their name, e.g. of one bed.
        folder: Of data, runs, ledgers and pages.
    """
    folder = folder or (FOLDER.with_name("robustness-quick") if quick else FOLDER)
    beds = quick_beds() if quick else list(BEDS)
    found = run_cells([cell for bed in beds for cell in cells(bed, folder)], folder, only=only)
    result = Result(missing=list(found.failed))
    for bed in beds:
        _collate(bed, folder, found, result)
    return result


def cells(bed: Bed, folder: Path) -> list[Cell]:
    """Return trainings, then one cell for every policy and kind; or one for every policy."""
    common = {"folder": str(folder), "bed": dataclasses.asdict(bed)}
    out = [Cell(f"{bed.name} {policy}: training", f"{__name__}:train_cell", {**common, "policy": policy}, seconds=bed.updates / 20) for policy in POLICIES]
    return ([] if bed.together else out) + [_measuring(bed, folder, policy, kinds) for kinds in _groups(bed) for policy in POLICIES]


def _groups(bed: Bed) -> list[tuple[str, ...]]:
    return [bed.kinds] if bed.together else [(kind,) for kind in bed.kinds]


def _measuring(bed: Bed, folder: Path, policy: str, kinds: tuple[str, ...]) -> Cell:
    settings = {"folder": str(folder), "bed": dataclasses.asdict(bed), "policy": policy, "kinds": list(kinds)}
    seconds = bed.seconds * sum(len(bed.sizes.get(kind, "12345")) for kind in kinds)
    return Cell(f"{bed.name} {policy}: {', '.join(kinds)}", f"{__name__}:measure_cell", settings, seconds=seconds)


def train_cell(folder: str, bed: Mapping[str, Any], policy: str) -> dict[str, Any]:
    """Collect what is not there yet, train one policy, and return its folder, its size and the seconds it took."""
    from policies.checkpoint import load
    from robopolicy.recipe import load_recipe
    from robopolicy.training.imitation import train

    one, root = _bed(bed), Path(folder) / bed["name"]
    own = [f"task={one.task}", f"policy={policy}", f"data.path={root}/data", f"data.collect={one.demonstrations}", f"data.episodes={one.demonstrations}"]
    own += [f"output={root}/runs/{policy}", f"training.steps={one.updates}", *one.overrides, *one.own.get(policy, ())]
    trained = train(load_recipe(one.recipe, own, note=_silent), progress=False, note=_silent)
    parameters = sum(p.numel() for p in load(trained.checkpoint).parameters())
    return {"run": str(root / "runs" / policy), "seconds": trained.seconds, "parameters": parameters}


def measure_cell(folder: str, bed: Mapping[str, Any], policy: str, kinds: Sequence[str]) -> dict[str, Any]:
    """Evaluate one policy at all sizes of some kinds; sizes that the bed's ledger has are read from it."""
    from robopolicy.evaluation.robustness import ladders, sweep
    from robopolicy.evaluation.seeds import Purpose
    from robopolicy.evaluation.versus import prepare

    one, root = _bed(bed), Path(folder) / bed["name"]
    if one.together:
        train_cell(folder, bed, policy)
    given = {"episodes": one.episodes, "block": one.episodes, "workers": 1}
    contest = prepare([str(root / "runs" / policy)], one.task, given, Purpose.REPORT, root / "evaluations")
    table = sweep(contest, ladders(kinds, {kind: one.sizes[kind] for kind in kinds if kind in one.sizes}), explicit=True)
    curves = [{"kind": c.ladder.kind, "sizes": list(c.ladder.sizes), "outcomes": c.outcomes.astype(int).tolist()} for c in table.curves]
    return {"curves": curves, "left_out": table.left_out}


def _bed(values: Mapping[str, Any]) -> Bed:
    return Bed(**values)


def _silent(text: str) -> None:
    """Say nothing: the benchmark's own bar speaks."""


def _collate(bed: Bed, folder: Path, found: Cells, result: Result) -> None:
    """Write the bed's page and add its rows: success unperturbed, and for every kind and side the mean success over the ladder."""
    from robopolicy.evaluation.robustness import Curve, Ladder, Table
    from robopolicy.evaluation.seeds import REPORT
    from robopolicy.reporting.robustness_page import half_text, write

    table = Table(bed.task, bed.episodes, int(REPORT), "report")
    for policy in POLICIES:
        for kinds in _groups(bed):
            row = found.get(_measuring(bed, folder, policy, kinds)) or {"curves": [], "left_out": []}
            table.curves += [Curve(policy, Ladder(one["kind"], tuple(one["sizes"])), np.array(one["outcomes"], bool)) for one in row["curves"]]
            table.left_out += row["left_out"]
    if not table.curves:
        return
    result.rows += _unperturbed(bed, table.curves)
    for curve in table.curves:
        for side, way in curve.sides():
            area, about = curve.area(way), curve.ladder.about
            half = half_text(curve.half_size(way), curve.ladder.sizes[int(way[-1])], about.neutral)
            name = f"{bed.name}, {curve.policy}, {curve.ladder.kind}{' ' + side if side else ''} [{area.low:.2f}, {area.high:.2f}]; half at {half} {about.unit}"
            result.rows.append(Row(name, area.value, "mean success"))
    result.notes.append(f"{bed.name}: {write(table, folder / bed.name)}")


def _unperturbed(bed: Bed, curves: Sequence[Any]) -> list[Row]:
    """Return a row a policy: its success without perturbation."""
    out = []
    for policy in dict.fromkeys(c.policy for c in curves):
        curve = next(c for c in curves if c.policy == policy)
        low, high = curve.interval(curve.neutral)
        out.append(Row(f"{bed.name}, {policy}, unperturbed [{low:.2f}, {high:.2f}]", float(curve.rates[curve.neutral]), "success"))
    return out
