"""Speed of one update of SAC and PPO on this machine's devices: ours eager, compiled and graphed, beside stable-baselines3's.

Batch 256, networks of 256 x 256, HalfCheetah's sizes; what an update includes is the same on both sides: the batch drawn, all
losses, gradients and optimisers. Rounds take all sides in turn and the best counts. On a GPU the gain of graphs stands beside
LeanRL's published one, which is of environment steps in whole training, simulator included, on another GPU. Resumable:
``runs/benchmarks/updates/results.jsonl``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from robopolicy.bench.cells import Cell, Cells, run_cells
from robopolicy.bench.harness import Result, Row

FOLDER = Path("runs/benchmarks/updates")
PEER = "stable-baselines3"
#: LeanRL's gain over CleanRL's eager loops on an H100 with the simulator on the CPU, steps/s before and after.
LEANRL = {"SAC": (127, 725), "PPO, continuous actions": (652, 1774)}
OURS, THEIRS = "robopolicy.bench.update_cells", "robopolicy.bench.baselines:update_speed"
#: Device -> ways that ours runs there, by rule.
WAYS = {"cpu": {"sac": ("eager", "compile"), "ppo": ("eager",)}, "cuda": {"sac": ("eager", "compile", "graph"), "ppo": ("eager",)}}


def run(quick: bool, only: str | None = None, folder: Path | None = None) -> Result:
    """Measure; see the module's text.

    Args:
        quick: Fewer updates, one round, nothing compiled (a minute by itself).
        only: Measure only cells with this in their name.
        folder: Of the results.
    """
    import torch

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    folder = folder or (FOLDER.with_name("updates-quick") if quick else FOLDER)
    sides = {key: cells for device in devices for key, cells in plan(device, quick).items()}
    rounds = 1 if quick else 3
    found = run_cells([cells[turn] for turn in range(rounds) for cells in sides.values()], folder, only=only)
    result = Result(missing=list(found.failed))
    if not _peer():
        result.missing.append(f"{PEER}: not installed; pip install 'stable-baselines3>=2.9,<3'")
    if "cuda" not in devices:
        result.missing.append("GPU: none on this machine; its rows (eager, compiled, graphed) need one with CUDA")
    if quick:
        result.missing.append("compiled updates: not with --quick")
    for device in devices:
        result.rows += rows(device, sides, found)
    if "cuda" in devices:
        gains = ", ".join(f"{name} {before} -> {after} steps/s, {after / before:.1f} x" for name, (before, after) in LEANRL.items())
        result.notes.append(f"LeanRL's published gain of compiling and graphs (H100, whole training): {gains}")
    result.notes.append("batch 256, networks 256 x 256, one torch thread; best of rounds in turn, each in a process of its own")
    return result


def _peer() -> bool:
    return importlib.util.find_spec("stable_baselines3") is not None


def plan(device: str, quick: bool) -> dict[tuple[str, str, str], list[Cell]]:
    """Return (device, rule, side) -> its rounds."""
    out: dict[tuple[str, str, str], list[Cell]] = {}
    rounds, base = (1, 60) if quick else (3, 400 if device == "cpu" else 2000)
    for algo, ways in WAYS[device].items():
        updates = base if algo == "sac" else 4 * base
        for way in ways:
            if quick and way == "compile":
                continue
            told: dict[str, Any] = {"updates": updates, "device": device, **({"way": way} if algo == "sac" else {})}
            cells = [Cell(f"{algo} {way} on {device}, round {k + 1}", f"{OURS}:{algo}", {**told, "turn": k}, 1, 8) for k in range(rounds)]
            out[device, algo, way] = cells
        if _peer():
            told = {"algo": algo, "updates": updates, "device": device}
            out[device, algo, PEER] = [Cell(f"{algo} {PEER} on {device}, round {k + 1}", THEIRS, {**told, "turn": k}, 1, 10) for k in range(rounds)]
    return out


def rows(device: str, sides: dict[tuple[str, str, str], list[Cell]], found: Cells) -> list[Row]:
    """Return the rows of one device: ours in every way beside the peer, and on a GPU beside our own eager updates."""
    out = []
    for algo, ways in WAYS[device].items():
        for clock, unit in (("wall_s", "updates/s"), ("cpu_s", "updates/CPU-s")):
            if device == "cuda" and clock == "cpu_s":
                continue  # the CPU waits for the GPU: its seconds say nothing
            rate = {side: _best(sides.get((device, algo, side), []), found, clock) for side in (*ways, PEER)}
            for way in ways:
                if rate[way]:
                    name = f"{algo.upper()}, {device}, {way}"
                    out.append(Row(name, rate[way], unit, f"{PEER}, eager" if rate[PEER] else None, rate[PEER] or None))
                    if device == "cuda" and way != "eager" and rate["eager"]:
                        out.append(Row(name, rate[way], unit, "ours, eager", rate["eager"]))
    return out


def _best(cells: list[Cell], found: Cells, clock: str) -> float:
    """Return the most updates a second of ``clock`` in any round; 0 where there is none."""
    measured = [row for row in map(found.get, cells) if row is not None]
    return max((row["updates"] / row[clock] for row in measured), default=0.0)
