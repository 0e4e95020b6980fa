"""SAC, TD3 and DSAC-T on Hopper-v5 beside stable-baselines3's SAC: returns, over-estimation, speed; RLPD from 20 demonstrations.

A hundred thousand environment steps, one world, one update a step, three seeds each; every ten thousand the deterministic return
on the same twenty initial states of Gymnasium's own environment. At the end, what the critics of SAC and DSAC-T promise beyond the
Monte Carlo returns that come. Then a sparse task with and without demonstrations, 20,000 steps, four updates a step: successes on
report states. About five hours of one core, in the background; every cell is a process and one line of
``runs/benchmarks/off_policy/results.jsonl``, trainings go on where they were stopped. Leaves ``returns.svg`` there, the curves of ours
beside the peer's; ``robopolicy report`` draws all that our runs logged.
What is trained on the hopper enters ``evaluations/ledger.jsonl`` there, 50 report states each.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from robopolicy.bench.cells import Cell, Cells, run_cells
from robopolicy.bench.drawn import draw, panel
from robopolicy.bench.entered import entries
from robopolicy.bench.harness import Result, Row
from robopolicy.bench.returns import said
from robopolicy.bench.trial_runs import digest
from robopolicy.evaluation.study import success
from robopolicy.reporting.leaderboard import PEER as PEER_LABEL

FOLDER = Path("runs/benchmarks/off_policy")
ENVIRONMENT, TASK, PEER = "Hopper-v5", "gymnasium/hopper", "stable-baselines3"
RULES = {"sac": "SAC", "td3": "TD3", "dsact": "DSAC-T"}
#: Recipe and overrides of every rule: its own published settings and networks.
RECIPES = {"sac": ("rl/hopper-sac", ()), "td3": ("rl/hopper-sac", ("algo={type: td3}",)), "dsact": ("rl/hopper-dsact", ())}
JUDGED = ("sac", "dsact")  # whose over-estimation is measured
#: A sparse task from demonstrations, and the same from nothing; ratio 20 is for those who have a GPU.
SPARSE = "rl/serl"
RATIO = ("training.update_ratio=4",)
FROM_NOTHING = ("algo=sac", "training.demonstrations.path=null", "training.demonstrations.collect=null")
RUNS = "robopolicy.bench.trial_runs"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    steps: int = 100_000
    points: int = 10
    episodes: int = 20  # of an evaluation
    seeds: int = 3
    random_steps: int = 10_000
    sparse_steps: int = 20_000
    sparse_episodes: int = 50
    entered: int = 50  # report states of what enters the ledger


QUICK = Size(400, 2, 2, 1, 100, 300, 4, 3)


def run(quick: bool, steps: int | None = None, seeds: int | None = None, only: str | None = None, folder: Path | None = None) -> Result:
    """Measure; see the module's text.

    Args:
        quick: A few hundred steps of everything: shows that it runs, says nothing of learning.
        steps: Environment steps of the trainings on the hopper.
        seeds: Training seeds.
        only: Measure only cells with this in their name.
        folder: Of results and runs.
    """
    base = QUICK if quick else Size()
    size = replace(base, steps=steps or base.steps, seeds=seeds or base.seeds)
    folder = folder or (FOLDER.with_name("off_policy-quick") if quick else FOLDER)
    cells = plan(size, folder, "" if size.steps == base.steps else f"{size.steps}-")
    by_seed = [some[seed] for seed in range(size.seeds) for some in cells.values()]
    found = run_cells(by_seed, folder, only=only)
    result = Result(missing=list(found.failed))
    if not _peer():
        result.missing.append(f"{PEER}: not installed; pip install 'stable-baselines3>=2.9,<3'")
    _returns(cells, found, size, result)
    _curves(cells, found, folder, result)
    _gaps(cells, found, result)
    _sparse(cells, found, size, result)
    result.notes.append(f"curves of ours: robopolicy report {folder}")
    if quick:
        result.notes.append("quick: a few hundred steps; returns, over-estimation and successes say nothing of learning")
    return result


def _peer() -> bool:
    return importlib.util.find_spec("stable_baselines3") is not None


def plan(size: Size, folder: Path, length: str = "") -> dict[str, list[Cell]]:
    """Return what is measured -> its cells, one a seed, in the order in which one seed's can run.

    ``length`` tells the run folders of trainings of another number of steps apart.
    """
    out: dict[str, list[Cell]] = {}
    told = {"environment": ENVIRONMENT, "steps": size.steps, "every": size.steps // size.points, "episodes": size.episodes}

    def entry(label: str) -> dict[str, Any]:
        return entries(TASK, label, size.steps, size.entered, folder)

    for seed in range(size.seeds):
        for rule in RULES:
            here = str(folder / f"{rule}-{length}seed{seed}")
            recipe, switched = RECIPES[rule]
            overrides = (*switched, f"training.random_steps={size.random_steps}")
            mine = {
                **told,
                "recipe": recipe,
                "overrides": overrides,
                "planned": digest(recipe, overrides),
                "seed": seed,
                "folder": here,
                "entry": entry(RULES[rule]),
            }
            out.setdefault(rule, []).append(Cell(f"{RULES[rule]}, seed {seed}", f"{RUNS}:curve", mine, 1, size.steps / 60))
            if rule in JUDGED:
                judged = {"folder": here, "episodes": max(2, size.episodes)}
                out.setdefault(f"gap {rule}", []).append(Cell(f"over-estimation of {RULES[rule]}, seed {seed}", f"{RUNS}:overestimate", judged, 1, 5))
        if _peer():
            theirs = {**told, "seed": seed, "random_steps": size.random_steps, "entry": entry(f"{PEER_LABEL}{PEER} SAC")}
            out.setdefault(PEER, []).append(Cell(f"{PEER} SAC, seed {seed}", "robopolicy.bench.baselines:sac_curve", theirs, 1, size.steps / 60))
        sparse = {"recipe": SPARSE, "steps": size.sparse_steps, "episodes": size.sparse_episodes, "seed": seed}
        for name, overrides in (("RLPD", RATIO), ("SAC from nothing", (*RATIO, *FROM_NOTHING))):
            mine = {**sparse, "overrides": overrides, "folder": str(folder / f"{name.replace(' ', '-').lower()}-seed{seed}")}
            out.setdefault(name, []).append(Cell(f"{name}, sparse, seed {seed}", f"{RUNS}:success", mine, 1, size.sparse_steps / 20))
    return out


def _measured(cells: dict[str, list[Cell]], found: Cells, name: str) -> list[dict[str, Any]]:
    return [row for row in map(found.get, cells.get(name, [])) if row is not None]


def _returns(cells: dict[str, list[Cell]], found: Cells, size: Size, result: Result) -> None:
    """Add final returns and speed of whole training beside the peer's."""
    ends = {name: [row["points"][-1] for row in _measured(cells, found, name)] for name in (*RULES, PEER)}
    peer = fmean([end["return"] for end in ends[PEER]]) if ends[PEER] else None
    for rule, title in RULES.items():
        if not ends[rule]:
            continue
        what = f"{ENVIRONMENT}: {title}'s return after {size.steps:,} steps, deterministic"
        values = [end["return"] for end in ends[rule]]
        result.rows.append(Row(what, fmean(values), "return", f"{PEER} SAC" if peer is not None else None, peer))
        result.notes.append(f"{what}, mean [95 % over seeds] (each seed): {said(values)}")
    if ends[PEER]:
        result.notes.append(f"{ENVIRONMENT}: {PEER} SAC's: {said([end['return'] for end in ends[PEER]])}")
    for rule, title in RULES.items():
        for clock, unit in (("wall_s", "env-steps/s"), ("cpu_s", "env-steps/CPU-s")):
            rate = {name: max((end["steps"] / end[clock] for end in ends[name]), default=0.0) for name in (rule, PEER)}
            if rate[rule]:
                name = f"{ENVIRONMENT}: {title}'s whole training, one update a step"
                result.rows.append(Row(name, rate[rule], unit, f"{PEER} SAC" if rate[PEER] else None, rate[PEER] or None))


def _curves(cells: dict[str, list[Cell]], found: Cells, folder: Path, result: Result) -> None:
    """Draw the deterministic returns of every rule and of the peer over training."""
    groups = {
        title: [{"curves": {"return": [(point["steps"], point["return"]) for point in row["points"]]}} for row in _measured(cells, found, name)]
        for name, title in {**RULES, PEER: f"{PEER} SAC"}.items()
    }
    if any(groups.values()):
        draw(folder / "returns.svg", [panel(groups, "return", "return, deterministic")], list(groups))
        result.notes.append(f"drawn: {folder / 'returns.svg'}")


def _gaps(cells: dict[str, list[Cell]], found: Cells, result: Result) -> None:
    """Add over-estimation, DSAC-T's beside SAC's."""
    gaps = {rule: [row["gap"] for row in _measured(cells, found, f"gap {rule}")] for rule in JUDGED}
    for rule in JUDGED:
        if gaps[rule]:
            name = f"{ENVIRONMENT}: over-estimation by {RULES[rule]}'s critics, Q less Monte Carlo return"
            result.rows.append(Row(name, fmean(gaps[rule]), "return", better="lower"))  # no ratio: 0 is the best there is
            errors = [row["error"] for row in _measured(cells, found, f"gap {rule}")]
            each = ", ".join(f"{gap:.2f} +- {error:.2f}" for gap, error in zip(gaps[rule], errors, strict=True))
            result.notes.append(f"{name}: {each} (standard errors over episodes), one a seed")


def _sparse(cells: dict[str, list[Cell]], found: Cells, size: Size, result: Result) -> None:
    """Add successes of RLPD and of SAC from nothing."""
    rate: dict[str, float] = {}
    for name in ("SAC from nothing", "RLPD"):
        some = _measured(cells, found, name)
        if not some:
            continue
        good, all_ = sum(row["successes"] for row in some), sum(row["episodes"] for row in some)
        rate[name], low, high = success(some)
        result.notes.append(f"{SPARSE}: {name} after {size.sparse_steps:,} steps: {good} of {all_} states, {low:.0%} to {high:.0%}; {len(some)} seeds")
    if "RLPD" in rate and not math.isnan(rate["RLPD"]):
        peer = rate.get("SAC from nothing")
        what = f"{SPARSE}: success after {size.sparse_steps:,} steps, four updates a step, 20 demonstrations"
        result.rows.append(Row(what, rate["RLPD"], "share", "ours, SAC from nothing" if peer is not None else None, peer))
