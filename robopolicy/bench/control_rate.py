"""Control rate: half an hour at 100 Hz, the whole stack in processes of its own, while a learnt policy plans in another.

The arm's twin, its drive, the runtime with its safety filter and telemetry, and a server whose flow policy is asked for a
plan at every policy step (20 a second, ensembled, 150 ms to come). Nothing is made faster than it is: no priorities, no
reserved core, and whatever else the machine does is in the figures, with its load average, read once a minute.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.bench import arm_policy, harness
from robopolicy.bench.harness import Result, Row

FOLDER = Path("runs/benchmarks/control_rate")
METHOD, LEAD = "ensemble:n_action_steps=4", 3  # 3 of 4 actions left: the next plan is asked for as soon as the last has come
EDGES_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_EVERY_S = 60.0  # between two looks at the machine's load


class Watch:
    """Looks at the machine once a minute, between two ticks of the runtime; a tenth of a millisecond each time.

    Args:
        every_s: Between two looks.
        say: Where a line goes at each; None: nowhere.

    Attributes:
        loads: Load average of the last minute at each look.
        counted: Ticks, overruns and plans of the runtime up to each look.
        cpu_s: Name of a process -> (seconds of CPU at the first look, at the last).
    """

    def __init__(self, every_s: float, say: Callable[[str], None] | None = None) -> None:
        self.loads: list[float] = []
        self.counted: list[tuple[int, int, int]] = []
        self.cpu_s: dict[str, list[float]] = {}
        self._every_s, self._say, self._due, self._runtime = every_s, say, 0.0, None
        self._processes: dict[str, int] = {}
        self._begun = self._last = time.monotonic()

    @contextmanager
    def attached(self, runtime: Any) -> Iterator[None]:
        """Take the runtime whose counts are told, when all processes run; the last look is when the block ends."""
        self._runtime, self._processes, self._begun = runtime, processes(), time.monotonic()
        self.look()
        yield
        self.look()

    def __call__(self) -> bool:
        """Look if a look is due; never ends the run."""
        if time.monotonic() >= self._due:
            self.look()
        return False

    def look(self) -> None:
        """Read the load and what the processes have used."""
        self._last = time.monotonic()
        self._due = self._last + self._every_s
        self.loads.append(os.getloadavg()[0])
        for name, pid in self._processes.items():
            used = cpu_seconds(pid)
            self.cpu_s[name] = [self.cpu_s.get(name, [used])[0], used]
        if self._runtime is None:
            return
        summary = self._runtime.summary
        self.counted.append((summary.ticks, summary.overruns, summary.plans))
        if self._say:
            self._say(f"{self._last - self._begun:.0f} s, load {self.loads[-1]:.1f}: {summary.line()}")

    def shares(self) -> dict[str, float]:
        """Return what each process used of one core between the first look and the last."""
        seconds = max(self._last - self._begun, 1e-9)
        return {name: (after - before) / seconds for name, (before, after) in self.cpu_s.items()}


def processes() -> dict[str, int]:
    """Return name -> id of this process and of server, twin and drive, which it has started; on Linux, elsewhere nothing."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_text().split("\0")
        except (OSError, IndexError, ValueError):
            continue  # it has ended meanwhile
        text = " ".join(words)
        for name in ("serve", "twin", "drive"):
            if parent == os.getpid() and (f"robopolicy {name} " in text or f"real.{name}_server" in text):
                found[name] = int(folder.name)
    return {"runtime": os.getpid(), **found} if Path("/proc/self/stat").is_file() else {}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, s; 0 if it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(quick: bool) -> Result:
    """Measure; ``quick`` takes 20 s and trains a policy that cannot push, in seconds."""
    if quick:
        return measure(20.0, FOLDER.with_name("control_rate-quick"), True)
    return measure(1800.0, FOLDER)


def measure(seconds: float, folder: Path, small: bool = False) -> Result:
    """Run the stack for ``seconds``; what it counted is also written to ``folder``/summary.json."""
    policy = arm_policy.checkpoint(folder if small else Path("runs/benchmarks/late"), small)
    watch = Watch(min(_EVERY_S, seconds / 4), lambda line: print(line, flush=True))
    with harness.measured() as took:
        counts = drive(policy, seconds, watch)
    counts["loads"], counts["counted"], counts["cpu_share"] = watch.loads, watch.counted, watch.shares()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(counts, indent=1), encoding="utf-8")
    result = Result(rows_of(counts), notes=notes_of(counts))
    result.notes.append(f"everything that was counted: {folder / 'summary.json'}; CPU time of all processes {took.cpu_s:.0f} s in {took.wall_s:.0f} s")
    return result


def drive(policy: Path, seconds: float, watch: Watch) -> dict[str, Any]:
    """Return what a run of ``seconds`` counted (``Summary.to_dict``): server, twin and drive in processes of their own, the runtime in this one."""
    from robopolicy.deployment import RunConfig
    from robopolicy.deployment import run as run_robot
    from robopolicy.processes import Background

    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="robopolicy-bench-", ignore_cleanup_errors=True)))
        server = stack.enter_context(Background(["serve", str(policy), "--method", METHOD, "--stats", "0"], place, "serve"))
        twin = stack.enter_context(Background(["twin", arm_policy.TASK], place, "twin"))
        given: dict[str, Any] = {"robot": {"type": "twin", "address": twin.address()}, "policy": server.address()}
        own: dict[str, Any] = {
            "drive_options": {"state_dir": str(place / "state")},
            "lead": LEAD,
            "seconds": seconds,
            "preflight": False,
        }  # a loaded machine is what is measured
        summary = run_robot(RunConfig(**given, **own), watch, watch.attached)
    return summary.to_dict()


def rows_of(counts: dict[str, Any]) -> list[Row]:
    """Return the figures of a run: ticks and what was missed, late or braked; plans; times; CPU."""
    drive, ticks = counts["drive"], counts["drive"]["ticks"]
    rows = [
        Row("drive: ticks", ticks, "1"),
        Row("drive: missed ticks", drive["missed_ticks"], "1", better="lower"),
        Row("drive: missed ticks, share", drive["missed_ticks"] / max(ticks + drive["missed_ticks"], 1), "1", better="lower"),
        Row("drive: commands executed", drive["commands"], "1"),
        Row("drive: commands that came late", drive["late"], "1", better="lower"),
        Row("drive: brake ticks", drive["brake_ticks"], "1", better="lower"),
        Row("drive: hold ticks", drive["hold_ticks"], "1", better="lower"),
        Row("runtime: commands on time, share of ticks", counts["rate_held"], "1"),
        Row("policy: plans a second", counts["plans"] / max(counts["seconds"], 1e-9), "1/s"),
        Row("policy: plans that came too late", counts["late_chunks"] + sum(counts["failed_requests"].values()), "1", better="lower"),
    ]
    times = {"drive: lateness of a tick": drive["lateness_ms"], "runtime: jitter of readings": counts["jitter_ms"]}
    times |= {"drive: work of a tick": drive["work_ms"], "plan, request to reply": counts["ms_per_chunk"], "plan, inside the policy": counts["inference_ms"]}
    for name, found in times.items():
        rows += [Row(f"{name}, {which}", found[which], "ms", better="lower") for which in ("p50", "p99", "max")]
    for name in list(times)[:2]:
        rows += [Row(f"{name}, up to {edge:g} ms", share, "1") for edge, share in cumulative(times[name], EDGES_MS)]
    rows += [Row(f"CPU of one core, {name}", share, "1", better="lower") for name, share in counts["cpu_share"].items()]
    return rows


def cumulative(histogram: dict[str, Any], edges: tuple[float, ...]) -> list[tuple[float, float]]:
    """Return (edge in ms, share of durations in bins that end at or below it) for a ``real.latency.Latency`` as a mapping."""
    bins = np.array(histogram["histogram"], np.float64).reshape(-1, 2)
    total = max(bins[:, 1].sum(), 1.0)
    return [(edge, float(bins[bins[:, 0] <= edge, 1].sum() / total)) for edge in edges]


def notes_of(counts: dict[str, Any]) -> list[str]:
    """Return what is to be known of a run beside its figures."""
    loads = counts["loads"]
    held = ", ".join(f"{cause} {n}" for cause, n in sorted(counts["holds"].items())) or "none"
    refused = ", ".join(f"{cause} {n}" for cause, n in sorted(counts["drive"]["refused"].items())) or "none"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        f"{counts['seconds']:.0f} s at {counts['rate_hz']:g} Hz on {cores} cores; ended: {counts['ended']}; {len(counts['episodes'])} episodes",
        f"load average (1 min), once a minute: {min(loads):.1f} to {max(loads):.1f}, mean {np.mean(loads):.1f}",
        f"ticks without a command, by cause: {held}; other commands refused by the drive: {refused}",
        "bins are 10 % wide: a share counts the bins that end at or below the edge",
    ]
