"""Late plans: pushing a kicked puck when plans take 0 to 8 control steps, by four ways to execute the same flow policy.

One policy (``robopolicy.bench.arm_policy``) and its weights, 200 paired report states a cell in lock-step, ten of them
again in real time. One plan is in flight at a time, as in the runtime, and the next is asked for:

- plain switching, real-time chunking (RTC): when as many of the plan's 16 actions are left as the delay has steps;
- ensembling, real-time iteration (RTI): as soon as the last has come, at every step without delay. Of an RTI plan those
  actions are played, from the delay on, that come before the next plan's: with a delay of d steps d of them, else one.

RTI's level is chosen on selection states. Resumable: cells that have a result in ``runs/benchmarks/late/results.jsonl``
are not run again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.bench import arm_policy, late_real, late_run, late_world
from robopolicy.bench.harness import Result, Row, measured
from robopolicy.evaluation import ledger
from robopolicy.evaluation.seeds import REPORT, SELECTION
from robopolicy.evaluation.statistics import compare, wilson

FOLDER = Path("runs/benchmarks/late")
DELAYS = (0, 1, 2, 4, 8)  # control steps of 50 ms
PLAIN, METHODS = "plain switching", ("plain switching", "ensembling", "rtc", "rti")
LEVELS, CHOSEN_AT = (5, 10, 20, 40), 2  # of RTI; the delay at which one is chosen


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        states: Report states of a cell in lock-step.
        selection: Selection states for each level of RTI.
        levels: Of RTI.
        delays: In lock-step.
        real: Episodes of a cell in real time.
        real_delays: In real time, in this order.
        limit: Control steps of an episode.
        small: Whether the policy is one that has hardly been trained.
    """

    states: int = 200
    selection: int = 60
    levels: Sequence[int] = LEVELS
    delays: Sequence[int] = DELAYS
    real: int = 10
    real_delays: Sequence[int] = (0, 2, 8, 1, 4)
    limit: int = late_world.LIMIT
    small: bool = False


def run(quick: bool) -> Result:
    """Measure; ``quick`` takes under two minutes on a policy that has hardly been trained, with one cell in real time."""
    if quick:
        return measure(FOLDER.with_name("late-quick"), Size(4, 2, (10,), (0, 8), 1, (8,), 40, True))
    return measure(FOLDER, Size())


def measure(folder: Path, size: Size) -> Result:
    """Run what has no result yet, lock-step before real time, and compare."""
    bench = Bench(folder, size)
    level, said = bench.choose_level()
    rows = {(name, delay): bench.lockstep(name, delay, level) for delay in size.delays for name in METHODS}
    result = Result(notes=[said])
    _report(result, rows, size.delays, "")
    methods = METHODS[-1:] if size.small else METHODS
    real = {(name, delay): bench.real_time(name, delay, level) for delay in size.real_delays for name in methods} if size.real else {}
    if real and not size.small:
        _report(result, real, size.real_delays, ", real time")
    _conditions(result, real)
    result.notes.append(
        f"paired by initial state, kicks and noise; kicks: {late_world.OFTEN:g} a step at {late_world.SPEED:g} m/s; {size.limit} steps an episode"
    )
    return result


def method(name: str, delay: int, level: int, real_time: bool = False) -> str:
    """Return the text of a method for plans that take ``delay`` steps; in real time they take one even if nothing is added."""
    taken = max(1, 2 * max(delay, int(real_time)))  # of which ``delay`` have passed when the plan comes
    texts = {PLAIN: "none", "rtc": "rtc", "ensembling": f"ensemble:n_action_steps={taken}", "rti": f"rti:level={level},n_action_steps={taken}"}
    return texts[name]


class Bench:
    """Cells and their results.

    Args:
        folder: Of policy and results.
        size: How much is run.
    """

    def __init__(self, folder: Path, size: Size) -> None:
        from policies.checkpoint import fingerprint

        self.size, self._file = size, folder / "results.jsonl"
        self.checkpoint = arm_policy.checkpoint(folder, size.small)
        self._about = [fingerprint(self.checkpoint), size.limit, late_world.OFTEN, late_world.SPEED]
        self._rows = {row["key"]: row for row in (ledger.read(self._file) if self._file.is_file() else ())}

    def choose_level(self) -> tuple[int, str]:
        """Return the level of RTI with most successes on selection states (the lower of equal ones), and a line on all."""
        count, wins = self.size.selection, {}
        for level in self.size.levels:
            wins[level] = sum(self._play(method("rti", CHOSEN_AT, level), CHOSEN_AT, int(SELECTION), count)["outcomes"])
        best = max(self.size.levels, key=lambda level: wins[level])
        shown = ", ".join(f"{level}: {won}" for level, won in wins.items())
        return best, f"RTI: level {best} chosen; successes of {count} selection states, delay {CHOSEN_AT}, by level {shown}"

    def lockstep(self, name: str, delay: int, level: int) -> dict[str, Any]:
        """Return the row of a cell in lock-step."""
        return self._play(method(name, delay, level), delay, int(REPORT), self.size.states)

    def real_time(self, name: str, delay: int, level: int) -> dict[str, Any]:
        """Return the row of a cell in real time."""
        text = method(name, delay, level, real_time=True)
        key = json.dumps([*self._about, "real", text, delay, int(REPORT), self.size.real])
        if key not in self._rows:
            label = f"real time, delay {delay}, {name}"
            with measured() as took:
                row = late_real.play(self.checkpoint, text, delay, int(REPORT), self.size.real, self.size.limit, lambda line: _say(f"{label}: {line}"))
            self._keep(key, {**row, "wall_s": took.wall_s, "cpu_s": took.cpu_s})
        return self._rows[key]

    def _play(self, text: str, delay: int, first: int, count: int) -> dict[str, Any]:
        from robopolicy.execution import load_policy

        key = json.dumps([*self._about, "lock-step", text, delay, first, count])
        if key not in self._rows:
            import torch

            torch.set_num_threads(1)
            env = late_world.make(count, self.size.limit)
            with measured() as took:
                found = late_run.play(env, load_policy(self.checkpoint, method=text), first + np.arange(count), delay)
            env.close()
            _say(f"lock-step, delay {delay}, {text}: {int(found.success.sum())} of {count} succeeded, {took.cpu_s:.0f} s of CPU")
            row = {"outcomes": found.success.astype(int).tolist(), "lengths": found.length.tolist(), "plans": found.plans, "jump": found.jump}
            self._keep(key, {**row, "wall_s": took.wall_s, "cpu_s": took.cpu_s})
        return self._rows[key]

    def _keep(self, key: str, row: dict[str, Any]) -> None:
        self._rows[key] = {"key": key, **row}
        ledger.append(self._file, self._rows[key])


def _report(result: Result, cells: dict[tuple[str, int], dict[str, Any]], delays: Sequence[int], where: str) -> None:
    """Add the successes of all cells, each against plain switching at the same delay."""
    for delay in sorted(delays):
        base = cells[PLAIN, delay]["outcomes"]
        for name in METHODS:
            cell = cells[name, delay]
            won, n = sum(cell["outcomes"]), len(cell["outcomes"])
            if not n:
                result.missing.append(f"{name}, delay {delay}{where}: {cell.get('ended', 'no episode')}")
                continue
            low, high = wilson(won, n)
            peer = None if name == PLAIN or not base else PLAIN
            label = f"{name}, delay {delay}{where}: success [{low:.3f}, {high:.3f}]"
            result.rows.append(Row(label, won / n, "share", peer, sum(base) / len(base) if peer else None, wall_s=cell["wall_s"], cpu_s=cell["cpu_s"]))
            if peer and len(base) == n:
                p = compare(list(map(bool, cell["outcomes"])), list(map(bool, base)))
                found = f"{100 * p.difference:+.1f} points [{100 * p.low:+.1f}, {100 * p.high:+.1f}], p = {p.p_value:.2g}"
                result.notes.append(f"{name} less {PLAIN}, delay {delay}{where}: {found}; only {name} {p.first_only}, only plain {p.second_only}")


def _conditions(result: Result, real: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Say under which conditions the cells in real time were run."""
    for (name, delay), row in real.items():
        share = row["missed_ticks"] / max(row["ticks"] + row["missed_ticks"], 1)
        result.notes.append(
            f"real time, {name}, delay {delay}: {sum(row['outcomes'])} of {len(row['outcomes'])}; plan {row['plan_ms']:.0f} ms, late {row['late_chunks']}, "
            f"missed ticks {100 * share:.1f} %, load {row['load']:.1f}; {row['ended']}"
        )


def _say(line: str) -> None:
    print(line, flush=True)
