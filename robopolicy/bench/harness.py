"""What every benchmark shares: finding it by name, one form of result, how it is timed, shown and written.

A benchmark is a module of this folder with ``run(quick: bool) -> Result``; nothing else has to be changed to add one. Long ones
may take some of ``steps``, ``seeds``, ``only`` and ``folder`` besides (``robopolicy.bench.cells``).
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from policies.spec import InputError, suggest

if TYPE_CHECKING:
    from rich.table import Table

_PACKAGES = ("numpy", "torch", "mujoco", "pyarrow", "av", "pyzmq", "daqp", "gymnasium", "metaworld", "diffusers", "lerobot", "stable-baselines3")


@dataclass
class Row:
    """One figure.

    Attributes:
        name: What was measured.
        value: The figure.
        unit: Of ``value``.
        peer: What it is compared with, if anything.
        peer_value: The peer's figure, same unit, measured in the same run.
        target: For the ratio where there is a peer, else for the value; None: there is none.
        better: Whether more or less of ``value`` is good.
        wall_s: Wall time of the measurement, s.
        cpu_s: CPU time of the measurement over all its processes, s.
    """

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    target: float | None = None
    better: Literal["higher", "lower"] = "higher"
    wall_s: float | None = None
    cpu_s: float | None = None

    @property
    def ratio(self) -> float | None:
        """``value`` over the peer's; None where there is no peer, or its figure is 0."""
        return self.value / self.peer_value if self.peer_value else None

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None if there is none, or the peer it is about was not measured."""
        judged = self.ratio if self.peer else self.value
        if self.target is None or judged is None:
            return None
        return judged >= self.target if self.better == "higher" else judged <= self.target


@dataclass
class Result:
    """What a benchmark returns.

    Attributes:
        rows: Its figures.
        missing: Peers that could not be measured, and why.
        notes: What a reader of the figures should know.
    """

    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Elapsed:
    """Wall and CPU seconds of a measured block."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


def names() -> dict[str, str]:
    """Return benchmark -> one line about it, by reading the modules' text."""
    out = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            out[file.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return out


def run_benchmark(name: str, quick: bool, **options: Any) -> Result:
    """Run a benchmark.

    Args:
        name: Of its module; ``-`` stands for ``_``.
        quick: Same rows in under two minutes.
        options: ``steps``, ``seeds``, ``only``, ``folder``, for those whose ``run`` takes them; None: as it chooses itself.

    Raises:
        InputError: for an unknown name, or an option that this benchmark does not have.
    """
    known, name = names(), name.replace("-", "_")
    if name not in known:
        raise InputError(f"benchmark {name!r} does not exist{suggest(name, known)}")
    measure: Callable[..., Result] = importlib.import_module(f"robopolicy.bench.{name}").run
    taken, given = inspect.signature(measure).parameters, {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in taken:
            raise InputError(f"benchmark {name!r} has no --{key}; options of its own: {', '.join(f'--{k}' for k in taken if k != 'quick') or 'none'}")
    return measure(quick, **given)


@contextmanager
def measured() -> Iterator[Elapsed]:
    """Measure the block; the seconds are there when it ends. CPU time includes children that have ended."""
    out, wall, before = Elapsed(), time.perf_counter(), os.times()
    yield out
    after = os.times()
    out.wall_s = time.perf_counter() - wall
    out.cpu_s = sum(after[:4]) - sum(before[:4])


def peak_memory_mb() -> float:
    """Return the peak resident size of this process, MB. ``getrusage`` would count what the parent held when it forked."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        if lines:
            return int(lines[0].split()[1]) / 1024
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def machine() -> dict[str, Any]:
    """Describe this machine."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].partition(":")[2].strip() if lines else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": cpu, "cores": cores, "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(), "load_before": load}


def packages() -> dict[str, str]:
    """Return the versions of the packages that figures depend on, where installed."""
    out = {}
    for name in _PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def to_json(name: str, result: Result, about: dict[str, Any]) -> dict[str, Any]:
    """Return the result as the mapping that ``--json`` writes."""
    rows = [asdict(row) | {"ratio": row.ratio, "reached": row.reached} for row in result.rows]
    return {"bench": name, "machine": about, "packages": packages(), "rows": rows, "missing": result.missing, "notes": result.notes}


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Write ``value`` whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(file.name + ".tmp")
    fresh.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    fresh.replace(file)


def table(name: str, result: Result, width: int = 160) -> Table:
    """Return the result as a table for people; below 150 columns of ``width`` the times are left out (they are in the JSON)."""
    from rich.table import Column, Table

    numbers = [Column(title, no_wrap=True, justify="right") for title in ("value", "peer's", "ratio", "target", "wall s", "CPU s")]
    value, peers, ratio, target, *times = numbers
    columns = ["what", value, Column("unit", no_wrap=True), "peer", peers, ratio, target, *(times if width >= 150 else ())]
    out = Table(*columns, title=f"bench {name}", title_justify="left")
    for row in result.rows:
        sign = {"higher": ">=", "lower": "<="}[row.better]
        colour = {True: "[green]", False: "[red]", None: ""}[row.reached]
        aim = "" if row.target is None else f"{colour}{sign} {row.target:g}"
        cells = [
            row.name,
            _number(row.value),
            row.unit,
            row.peer or "",
            _number(row.peer_value),
            _number(row.ratio),
            aim,
            _number(row.wall_s),
            _number(row.cpu_s),
        ]
        out.add_row(*cells[: len(columns)])
    return out


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
