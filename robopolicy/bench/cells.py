"""Long benchmarks in cells: each a process of its own and one line of ``results.jsonl``, so that a stopped benchmark goes on where it was.

    python -m robopolicy.bench.cells MODULE:FUNCTION SETTINGS RESULT

is what such a process runs. A cell that fails is named as missing with its last words, costs the others nothing, and is tried
again the next time. A result that was measured with other versions of the packages that figures depend on is none.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.spec import InputError
from robopolicy.bench.harness import packages, write_json

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        name: For people.
        function: ``module:function`` of this package; called with ``settings``, returns what fits into JSON.
        settings: All that the result depends on.
        threads: Of the arithmetic in its process.
        seconds: How long it may take, roughly.
    """

    name: str
    function: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    seconds: float = 10.0

    @property
    def key(self) -> str:
        """What its line of results is found by."""
        return json.dumps([self.function, dict(self.settings), self.threads], sort_keys=True)


@dataclass
class Cells:
    """What was measured.

    Attributes:
        rows: Key of a cell -> what its function returned.
        failed: One line for every cell without a result: its name, and why.
    """

    rows: dict[str, dict[str, Any]]
    failed: list[str]

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """Return a cell's result, None where it failed."""
        return self.rows.get(cell.key)


def run_cells(cells: Sequence[Cell], folder: Path, progress: bool = True, only: str | None = None, others: Sequence[str] = ()) -> Cells:
    """Measure what has no result yet, one cell at a time in the order given.

    Args:
        cells: What to measure; those with equal keys are one.
        folder: ``results.jsonl``, and ``logs/`` with what the processes say.
        progress: Show a bar with the time left.
        only: Measure only cells whose name has this in it; results of the others are read where they are.
        others: Names of the benchmark's cells that are measured by another call; ``only`` may mean one of them, and none here.

    Raises:
        InputError: if no cell's name has ``only`` in it, nor any of ``others``.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    chosen = [cell for cell in cells if only is None or only.lower() in cell.name.lower()]
    if not chosen and not any(str(only).lower() in name.lower() for name in others):
        raise InputError(f"--only {only!r}: no cell has it in its name; there are: {'; '.join(dict.fromkeys([*(c.name for c in cells), *others]))}")
    here = packages()
    known = _read(folder / RESULTS, here)
    failed: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[now]}"), TimeElapsedColumn())
    waiting = {cell.key: cell for cell in chosen if cell.key not in known}
    with Progress(*columns, disable=not progress) as bar:
        shown = bar.add_task("cells", total=sum(c.seconds for c in waiting.values()) or 1.0, now="")
        for cell in waiting.values():
            bar.update(shown, now=cell.name)
            row, why = _measure(cell, folder)
            bar.update(shown, advance=cell.seconds)
            if row is None:
                failed.append(f"{cell.name}: {why}")
                continue
            known[cell.key] = row
            _append(folder / RESULTS, {"key": cell.key, "name": cell.name, "packages": here, "row": row})
    left = list(dict.fromkeys(cell.name for cell in cells if cell.key not in known and cell not in chosen))
    if left:
        failed.append(f"{', '.join(left[:3])}{f' and {len(left) - 3} more' if len(left) > 3 else ''}: not measured (--only {only})")
    return Cells({cell.key: known[cell.key] for cell in cells if cell.key in known}, failed)


def _read(file: Path, here: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the results so far that are of the versions ``here``, and say which are not; a line that was torn when a process was killed is none."""
    out, changed = {}, dict[str, str]()
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            then = row.get("packages", here)  # not written by earlier versions
            if then == here:
                out[row["key"]] = row["row"]
            else:
                out.pop(row["key"], None)
                changed[row["key"]] = next(f"{k} {then.get(k, 'none')}, here {here.get(k, 'none')}" for k in {**then, **here} if then.get(k) != here.get(k))
    old = [said for key, said in changed.items() if key not in out]
    if old:
        print(f"{file}: {len(old)} results are of other versions ({old[0]}) and measured anew when they are asked for", file=sys.stderr)
    return out


def _append(file: Path, row: Mapping[str, Any]) -> None:
    """Append one line in one write: two benchmarks of the same folder (``--only``) do not tear each other's."""
    torn = file.is_file() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with file.open("a", encoding="utf-8") as out:
        out.write(("\n" if torn else "") + json.dumps(row, allow_nan=False) + "\n")
        out.flush()
        os.fsync(out.fileno())


def _measure(cell: Cell, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Run one cell in its process; returns its row, or None and why."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *([os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [])])
    settings = {"OMP_NUM_THREADS": str(cell.threads), "MKL_NUM_THREADS": str(cell.threads), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": paths}
    log = folder / "logs" / ("".join(c if c.isalnum() else "-" for c in cell.name)[:120] + ".txt")
    result = log.with_suffix(".json")
    log.parent.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)
    call = [sys.executable, "-m", "robopolicy.bench.cells", cell.function, json.dumps(dict(cell.settings)), str(result)]
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(call, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**os.environ, **settings})
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code == 0 and result.is_file():
        row = json.loads(result.read_text(encoding="utf-8"))
        result.unlink()
        return row, ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return None, f"{lines[-1] if lines else 'it said nothing'} (exit code {code}, {log})"


def end_with(parent: int) -> None:
    """Let this process end within a second of its parent, so that after a kill no training holds a folder that is to go on."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    """Run one cell in this process; see the module's text. Returns the exit code."""
    name, settings, result = arguments
    module, _, function = name.partition(":")
    if not module.startswith("robopolicy."):
        raise InputError(f"cell {name!r}: expected a function of this package")
    end_with(os.getppid())
    began = time.perf_counter()
    row = getattr(importlib.import_module(module), function)(**json.loads(settings))
    write_json(Path(result), {**row, "cell_s": round(time.perf_counter() - began, 3)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
