"""ROS 2: sensor value to command, two cameras, and the same task and checkpoint over ROS 2 and over ZeroMQ, episode by episode.

Everything runs in real time on this machine, in processes of its own: the arm's twin behind its topics (or its socket), the drive
with its driver, the runtime with levels and safety filter, the policy. Each part is a cell in ``FOLDER/results.jsonl``: a benchmark
that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robopolicy.bench import ros_run
from robopolicy.bench.cells import Cell, Cells, run_cells
from robopolicy.bench.harness import Result, Row, measured
from robopolicy.bench.ros_run import TRANSPORTS
from robopolicy.evaluation.seeds import REPORT
from robopolicy.evaluation.statistics import compare, wilson

FOLDER = Path("runs/benchmarks/ros")
_LATENCY_SEED = 500_000  # after REPORT: of episodes that are not reported


def run(quick: bool, only: str | None = None, folder: Path | None = None) -> Result:
    """Measure: 60 s of latency each, 60 s of cameras, 100 episodes each, a quarter of an hour; ``quick``: four episodes, seconds of each."""
    folder = folder or (FOLDER.with_name("ros-quick") if quick else FOLDER)
    policy = ros_run.checkpoint(folder, small=quick)
    given = (8.0, 8.0, 4, 2) if quick else (60.0, 60.0, 100, 10)
    return measure(policy, folder, *given, only=only)


def measure(policy: Path, folder: Path, latency_s: float, cameras_s: float, episodes: int, block: int, only: str | None = None) -> Result:
    """Measure.

    Args:
        policy: Checkpoint that drives.
        folder: Of the results.
        latency_s: How long latency is measured over each transport, s.
        cameras_s: How long the cameras run, s.
        episodes: Of each transport, the same seeds.
        block: Episodes of one run; what a stopped benchmark loses at most.
        only: Measure only the cells with this in their name.
    """
    from policies.checkpoint import fingerprint

    mark = {"policy": str(policy.resolve())}
    latencies = {t: _latency(t, mark, latency_s) for t in TRANSPORTS}
    cameras = Cell("cameras", f"{ros_run.__name__}:cameras", {"seconds": cameras_s}, seconds=cameras_s + 5)
    blocks = [(first, min(block, episodes - first)) for first in range(0, episodes, block)]
    loops = {t: [_loop(t, mark, first, count) for first, count in blocks] for t in TRANSPORTS}
    in_turn = [cell for pair in zip(*loops.values(), strict=True) for cell in pair]  # a busy hour of this machine falls on both alike
    with measured() as took:
        found = run_cells([*latencies.values(), cameras, *in_turn], folder, only=only)
    result = Result(missing=found.failed)
    _latency_rows(result, found, latencies)
    _camera_rows(result, found.get(cameras))
    _loop_rows(result, found, loops, episodes)
    result.notes += [f"checkpoint {policy} ({fingerprint(policy)}), task {ros_run.TASK}; results and logs: {folder}", f"measured in {took.wall_s:.0f} s"]
    return result


def _latency(transport: str, mark: dict[str, Any], seconds: float) -> Cell:
    settings = {**mark, "transport": transport, "seconds": seconds, "seed0": REPORT + _LATENCY_SEED}
    return Cell(f"latency over {transport}", f"{ros_run.__name__}:latency", settings, seconds=seconds + 15)


def _loop(transport: str, mark: dict[str, Any], first: int, count: int) -> Cell:
    settings = {**mark, "transport": transport, "seed0": REPORT + first, "count": count}
    return Cell(f"episodes {first}-{first + count - 1} over {transport}", f"{ros_run.__name__}:episodes", settings, seconds=4.0 * count + 12)


def _latency_rows(result: Result, found: Cells, cells: dict[str, Cell]) -> None:
    ours, theirs = (found.get(cells[t]) for t in TRANSPORTS)
    if ours is None:
        return
    for which in ("p50", "p99"):
        peer = None if theirs is None else theirs["reaction_ms"][which]
        result.rows.append(Row(f"sensor value -> command written, {which}", ours["reaction_ms"][which], "ms", TRANSPORTS[1], peer, better="lower"))
    for which in ("p50", "p99"):
        peer = None if theirs is None else theirs["lateness_ms"][which]
        result.rows.append(Row(f"lateness of the drive's ticks, {which}", ours["lateness_ms"][which], "ms", TRANSPORTS[1], peer, better="lower"))
    peer = None if theirs is None else theirs["rate_held"]
    result.rows.append(Row("commands on time, share of ticks", ours["rate_held"], "1", TRANSPORTS[1], peer))
    arrived = ours["twin"].get("latency_ms", {})
    result.rows += [
        Row(f"newest joint state at the twin -> command there, {which}", arrived[which], "ms", better="lower") for which in ("p50", "p99") if arrived
    ]
    result.notes.append("a command answers the reading of the tick before, so one period of the drive (10 ms) is in every latency")


def _camera_rows(result: Result, row: dict[str, Any] | None) -> None:
    if row is None:
        return
    name = "two cameras 640x480 at 30 Hz"
    result.rows.append(Row(f"{name}: frames sent", row["sent"], "1"))
    result.rows.append(Row(f"{name}: frames lost", row["lost"], "1", target=0, better="lower"))
    result.rows += [Row(f"{name}: publish -> callback, {which}", row["delay_ms"][which], "ms", better="lower") for which in ("p50", "p99")]


def _loop_rows(result: Result, found: Cells, loops: dict[str, list[Cell]], episodes: int) -> None:
    outcomes: dict[str, dict[str, bool]] = {}
    for transport, cells in loops.items():
        rows = [row for cell in cells if (row := found.get(cell)) is not None]
        outcomes[transport] = {seed: won for row in rows for seed, won in row["success"].items()}
    shared = sorted(set.intersection(*(set(found) for found in outcomes.values())), key=int)
    if not shared:
        return
    first, second = ([outcomes[t][seed] for seed in shared] for t in TRANSPORTS)
    for transport, won in zip(TRANSPORTS, (first, second), strict=True):
        result.notes.append(f"success over {transport}: {_interval(won)}")
    paired = compare(first, second)
    result.rows.append(
        Row(f"success over {TRANSPORTS[0]}, {len(shared)} paired episodes", sum(first) / len(first), "1", TRANSPORTS[1], sum(second) / len(second))
    )
    result.rows.append(Row("paired difference of success", paired.difference, "1"))
    result.rows += [Row(f"paired difference, {end} end of 95 %", value, "1") for end, value in (("lower", paired.low), ("upper", paired.high))]
    told = f"only over {TRANSPORTS[0]}: {paired.first_only}, only over {TRANSPORTS[1]}: {paired.second_only}, McNemar p = {paired.p_value:.3g}"
    inside = "within" if paired.low <= 0.0 <= paired.high else "NOT within"
    result.notes.append(f"{told}; no difference lies {inside} the interval; {len(shared)} of {episodes} episodes are there")


def _interval(won: Sequence[bool]) -> str:
    low, high = wilson(sum(won), len(won))
    return f"{sum(won)}/{len(won)}, 95 % [{100 * low:.0f}, {100 * high:.0f}] (Wilson)"
