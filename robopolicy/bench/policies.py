"""Policies: success and distance to the truth against network calls 1, 2, 4, 10 and 100, on a known mixture and on two routes.

Every policy is trained once a task, at one network size and number of updates, and then sampled with each number of
calls. A few-step method works only if it is above DDIM at 4 calls or fewer: with at most 1, 2 and 4 calls, each side at its
best, it is above by more than chance on the same states (95 %, paired) at one of these limits at least, and below at none.
Checkpoints, figures, the plot and a report stay in ``runs/benchmarks/policies``; run it again after a stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robopolicy.bench.few_steps import BASE, FEW, WAYS, Way
from robopolicy.bench.few_steps_beds import Bed, Measured, OracleBed, toys
from robopolicy.bench.few_steps_run import Outcome, measure_all
from robopolicy.bench.harness import Result, Row
from robopolicy.evaluation.statistics import compare, mean_interval, wilson
from robopolicy.reporting import curves
from robopolicy.reporting.curves import Curve, Panel, Point

FOLDER = Path("runs/benchmarks/policies")
LIMITS = (1, 2, FEW)  # network calls a plan
SHARES = (0.35, 0.65)  # of the left route, where both must be taken


def run(quick: bool) -> Result:
    """Train and measure on the oracle bed and the two-route toy; ``quick`` only shows that everything runs."""
    return contest(toys(quick), FOLDER.with_name("policies-quick") if quick else FOLDER)


def contest(beds: Sequence[Bed], folder: Path, workers: int = 2, progress: bool = True, ways: Sequence[Way] = WAYS) -> Result:
    """Measure everything on ``beds``, write plot and report, and return the rows.

    Raises:
        InputError: see :func:`robopolicy.bench.few_steps_run.measure_all`.
    """
    from robopolicy.reporting.report import gather, write_report

    folder.mkdir(parents=True, exist_ok=True)
    outcome = measure_all(beds, folder, workers, progress, ways)
    result = Result()
    for bed in beds:
        panel(bed, outcome, ways).save(folder / bed.name)
        result.rows += figures(bed, outcome, ways)
        result.missing += [f"{bed.title}: {line}" for line in outcome.missing[bed.name]]
    for bed in beds:
        result.rows += [row for way in ways if way.few_step for row in judged(bed, outcome, way, ways)]
    (folder / "few_steps.svg").write_text(curves.picture(gather(folder).panels), encoding="utf-8")
    sizes = [f"{bed.title}: {label} {int(t['parameters']):,}" for bed in beds for (name, label), t in outcome.trainings.items() if name == bed.name]
    result.notes += [f"plot: {folder / 'few_steps.svg'}; report: {write_report(folder)}", f"parameters: {'; '.join(sizes)}"]
    result.notes.append(
        "closed loop: one action of every plan is executed; RTI's calls are those of every plan but an episode's first, which takes the policy's default"
    )
    if any(bed.quick for bed in beds):
        result.notes.append("quick: trained for a few updates to see that everything runs; the figures and verdicts say nothing of the policies")
    return result


def interval(bed: Bed, values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of ``values``: Wilson's for success, Student's for distances."""
    if bed.quantity == "success":
        return wilson(int(sum(values)), len(values))
    return _student(np.asarray(values))


def _student(values: np.ndarray) -> tuple[float, float]:
    mean, half = mean_interval(values)
    return float(mean - half), float(mean + half)


def advantage(bed: Bed, mine: Sequence[float], peers: Sequence[float]) -> tuple[float, float]:
    """Return the paired 95 % interval of how much better ``mine`` are than ``peers``, in the units of the bed."""
    if bed.quantity == "success":
        paired = compare([v > 0.5 for v in mine], [v > 0.5 for v in peers])
        return paired.low, paired.high
    sign = 1.0 if bed.better == "higher" else -1.0
    return _student(sign * (np.asarray(mine) - np.asarray(peers)))


def counted(way: Way, asked: int, found: Measured) -> float:
    """Return the calls that a figure stands at: as counted; as asked where the first plan of an episode takes others."""
    return float(asked) if way.method else found.calls


def peer_at(peers: dict[int, Measured], calls: float) -> tuple[int, Measured] | None:
    """Return the peer's figure with the fewest calls that are no fewer than ``calls``, else the one with most; None: no peer."""
    enough = [n for n in sorted(peers) if n >= calls - 0.01]
    best = enough[0] if enough else max(peers, default=None)
    return None if best is None else (best, peers[best])


def best_within(bed: Bed, outcome: Outcome, way: Way, limit: float) -> Measured | None:
    """Return the best figure of ``way`` with at most ``limit`` calls, None without any."""
    found = outcome.measured.get((bed.name, way.label), {})
    fit = [m for asked, m in found.items() if counted(way, asked, m) <= limit + 0.01]
    sign = 1.0 if bed.better == "higher" else -1.0
    return max(fit, key=lambda m: sign * float(np.mean(m.values)), default=None)


def works(bed: Bed, outcome: Outcome, way: Way, ways: Sequence[Way] = WAYS) -> bool | None:
    """Return whether ``way`` is above its peer at few calls, None where either was not measured; see the module."""
    peer = next((w for w in ways if w.label == way.peer), None)
    above, below, judged_at = 0, 0, 0
    for limit in LIMITS:
        mine = best_within(bed, outcome, way, limit)
        other = None if peer is None else best_within(bed, outcome, peer, limit)
        if mine is None or other is None:
            continue
        low, high = advantage(bed, mine.values, other.values)
        judged_at += 1
        above += low > 0 and _balanced(bed, mine)
        below += high < 0
    return bool(above and not below) if judged_at else None


def _balanced(bed: Bed, found: Measured) -> bool:
    return not bed.balanced or SHARES[0] <= found.also.get("left share", 0.0) <= SHARES[1]


def panel(bed: Bed, outcome: Outcome, ways: Sequence[Way]) -> Panel:
    """Return what the report draws of one bed."""
    drawn = []
    for way in ways:
        found = outcome.measured.get((bed.name, way.label), {})
        points = []
        for asked, measured in sorted(found.items()):
            low, high = interval(bed, measured.values)
            points.append(Point(counted(way, asked, measured), float(np.mean(measured.values)), max(low, 1e-3), high, measured.also))
        if points:
            drawn.append(Curve(way.label, way.policy, points, works(bed, outcome, way, ways) if way.few_step else None))
    floor = float(np.mean(bed.floor.values)) if isinstance(bed, OracleBed) else None
    return Panel(bed.title, bed.quantity, bed.better, bed.about, drawn, floor, outcome.missing[bed.name])


def figures(bed: Bed, outcome: Outcome, ways: Sequence[Way]) -> list[Row]:
    """Return one row for each way and number of calls beside its peer at equal calls, and one for everything else measured there."""
    rows = []
    if isinstance(bed, OracleBed):
        rows.append(Row(f"{bed.title}: two sets of exact samples", float(np.mean(bed.floor.values)), bed.quantity, better=bed.better))
        rows += [Row(f"{bed.title}: exact samples", value, name, better="lower") for name, value in bed.floor.also.items()]
    for way in ways:
        for asked, mine in sorted(outcome.measured.get((bed.name, way.label), {}).items()):
            calls = counted(way, asked, mine)
            low, high = interval(bed, mine.values)
            name = f"{bed.title}: {way.label}, {calls:.3g} {'call' if calls == 1 else 'calls'}"
            other = peer_at(outcome.measured.get((bed.name, way.peer), {}), calls) if way.label != BASE else None
            peer = (None, None) if other is None else (f"{way.peer}, {other[0]}", float(np.mean(other[1].values)))
            rows.append(Row(f"{name} [{low:.3f}, {high:.3f}]", float(np.mean(mine.values)), bed.quantity, *peer, better=bed.better))
            rows += [Row(name, value, unit, better="lower" if "error" in unit else "higher") for unit, value in mine.also.items()]
    return rows


def judged(bed: Bed, outcome: Outcome, way: Way, ways: Sequence[Way] = WAYS) -> list[Row]:
    """Return the verdict on a few-step method, and its best figure at few calls beside its peer's best there."""
    verdict = works(bed, outcome, way, ways)
    if verdict is None:
        return []
    name, peer = f"{bed.title}: {way.label}", next(w for w in ways if w.label == way.peer)
    rows = [Row(f"{name} works (above {way.peer} at {FEW} calls or fewer)", float(verdict), "1 = yes", target=1.0)]
    best = [best_within(bed, outcome, each, FEW) for each in (way, peer)]
    values = [None if m is None else float(np.mean(m.values)) for m in best]
    if values[0] is not None:
        rows.append(Row(f"{name}, best at {FEW} calls or fewer", values[0], bed.quantity, f"{way.peer}, best there", values[1], better=bed.better))
    return rows
