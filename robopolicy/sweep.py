"""A sweep: one recipe over a grid of its keys (or draws from it), each cell a run folder of its own, resumable, with a report.

Below the sweep's folder: ``runs/CELL/`` (ordinary training runs), ``logs/CELL.txt`` (what they said) and ``results.jsonl``, one line
a finished cell. Cells that have a line are not run again; a cell that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.spec import InputError
from robopolicy.config import parse_yaml
from robopolicy.evaluation.study import append_result, read_results
from robopolicy.recipe import flatten, load_recipe

if TYPE_CHECKING:
    from robopolicy.cluster import Cluster

RESULTS = "results.jsonl"
_RANGE = re.compile(r"(-?[0-9.eE+-]*[0-9.])\.\.(-?[0-9.][0-9.eE+-]*)")
_MOST_CELLS = 10_000
_TRIES = 100  # draws for one combination of a random sweep, at most
_LOOK_S = 0.1


@dataclass(frozen=True)
class Axis:
    """One key of the recipe and the values that it takes; ``span`` is set for a range of real numbers, which only draws can use."""

    key: str
    values: tuple[str, ...]
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        recipe: Name or path of the recipe.
        settings: ``key=value`` of the axes, in their order.
        fixed: ``key=value`` that all cells share.
        evaluate: Episodes of the evaluation on selection seeds; 0: none.
    """

    recipe: str
    settings: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    evaluate: int = 0

    @property
    def name(self) -> str:
        """Folder of the run inside the sweep."""
        plain = "-".join(re.sub(r"[^\w.+-]+", "_", item) for item in self.settings) or "run"
        mark = hashlib.sha256(json.dumps([self.recipe, self.settings, self.fixed]).encode()).hexdigest()[:6]
        return f"{plain[:80]}-{mark}"

    @property
    def key(self) -> str:
        """What identifies the cell in ``results.jsonl``."""
        return json.dumps([self.recipe, self.settings, self.fixed, self.evaluate])

    @property
    def group(self) -> str:
        """The settings without the seed: cells of one group differ in their seed alone."""
        return " ".join(item for item in self.settings if not item.startswith("seed=")) or "all"

    def overrides(self, out: Path) -> list[str]:
        """Return what the recipe is loaded with."""
        return [*self.fixed, *self.settings, f"output={out / 'runs' / self.name}"]


def parse_axes(items: Sequence[str]) -> tuple[list[Axis], list[str]]:
    """Split ``KEY=V1,V2,...`` items into axes and fixed ``key=value`` items (those with one value).

    ``seed=0..2`` is 0, 1, 2; commas inside brackets, braces and quotes do not separate; ``lr=1e-4..1e-2`` is a range to draw from.

    Raises:
        InputError: for an item without a key or values, or a key that is given twice.
    """
    axes, fixed, seen = [], [], set()
    for item in items:
        key, sign, text = item.partition("=")
        key = key.strip()
        if not sign or not key:
            raise InputError(f"sweep: {item!r}: expected KEY=V1,V2,..., e.g. policy=flow,diffusion seed=0..2")
        if key in seen:
            raise InputError(f"sweep: key {key!r} is given twice")
        seen.add(key)
        axis = _axis(key, text, item)
        if len(axis.values) == 1:
            fixed.append(item)
        else:
            axes.append(axis)
    return axes, fixed


def _axis(key: str, text: str, item: str) -> Axis:
    values: list[str] = []
    for value in _split(text):
        found = _RANGE.fullmatch(value)
        if found is None:
            values.append(value)
            continue
        low, high = (parse_yaml(end) for end in found.groups())
        if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)) or low > high:
            raise InputError(f"sweep: {item!r}: {value!r} is no range; expected LOW..HIGH")
        if isinstance(low, int) and isinstance(high, int):
            if high - low >= _MOST_CELLS:
                raise InputError(f"sweep: {item!r}: {high - low + 1} values; at most {_MOST_CELLS} cells are run")
            values += [str(number) for number in range(low, high + 1)]
        elif len(_split(text)) > 1:
            raise InputError(f"sweep: {item!r}: a range of real numbers stands alone")
        else:
            return Axis(key, (), (float(low), float(high)))
    if not values or "" in values:
        raise InputError(f"sweep: {item!r}: expected values behind the sign, separated by commas")
    return Axis(key, tuple(dict.fromkeys(values)))


def _split(text: str) -> list[str]:
    """Split at commas that stand in no brackets, braces or quotes."""
    out, depth, quote, part = [], 0, "", ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            out.append(part.strip())
            part = ""
            continue
        part += letter
    return [*out, part.strip()]


def cells_of(recipe: str, items: Sequence[str], draws: int | None = None, evaluate: int = 0) -> list[Cell]:
    """Return the cells of a grid, or ``draws`` of them at random (the same ones every time), each with all seeds that are given.

    Raises:
        InputError: as :func:`parse_axes`, for too many cells, or a range of real numbers in a grid.
    """
    axes, fixed = parse_axes(items)
    if draws is None:
        spans = [axis.key for axis in axes if axis.span is not None]
        if spans:
            raise InputError(f"sweep: {spans[0]} is a range of real numbers: a grid needs values; draw from it with --random N")
        if math.prod(len(axis.values) for axis in axes) > _MOST_CELLS:
            raise InputError(f"sweep: {math.prod(len(axis.values) for axis in axes)} cells; at most {_MOST_CELLS} are run; draw from them with --random N")
        combinations = itertools.product(*([f"{axis.key}={value}" for value in axis.values] for axis in axes))
        return [Cell(recipe, combination, tuple(fixed), evaluate) for combination in combinations]
    seeds = next((axis for axis in axes if axis.key == "seed"), None)
    others = [axis for axis in axes if axis is not seeds]
    rng = np.random.Generator(np.random.Philox(key=[draws, 0x53]))
    drawn: dict[tuple[str, ...], None] = {}
    most = draws if any(axis.span for axis in others) else min(draws, math.prod(len(axis.values) for axis in others))
    for _ in range(_TRIES * draws):  # a combination that came before is drawn anew; a range may hold fewer numbers than are wanted
        if len(drawn) == most:
            break
        drawn[tuple(_drawn(axis, rng) for axis in others)] = None
    each = [(f"seed={value}",) for value in seeds.values] if seeds else [()]
    return [Cell(recipe, (*settings, *seed), tuple(fixed), evaluate) for settings in drawn for seed in each]


def _drawn(axis: Axis, rng: np.random.Generator) -> str:
    """Return one ``key=value``: of the values, or of the range, evenly in its logarithm where both ends are above zero."""
    if axis.span is None:
        return f"{axis.key}={axis.values[int(rng.integers(len(axis.values)))]}"
    low, high = axis.span
    value = math.exp(rng.uniform(math.log(low), math.log(high))) if low > 0 else rng.uniform(low, high)
    return f"{axis.key}={value:.4g}"


@dataclass
class Sweep:
    """What a sweep has come to.

    Attributes:
        rows: Results of the cells that are finished, in the order of the cells.
        failed: (cell, one line) of those that are not.
    """

    rows: list[dict[str, Any]]
    failed: list[tuple[Cell, str]]


def check(cells: Sequence[Cell], out: Path) -> list[Any]:
    """Return the recipe of every cell. Raises InputError for the first that is wrong, before anything runs."""
    said: list[str] = []
    return [load_recipe(cell.recipe, cell.overrides(out), note=said.append) for cell in cells]


def run_sweep(cells: Sequence[Cell], out: Path, workers: int = 1, progress: bool = True, cluster: Cluster | None = None) -> Sweep:
    """Run every cell that has no result yet; a cell that fails costs the others nothing.

    Args:
        cells: What to run.
        out: Folder of the sweep.
        workers: Cells at once, each a process with its own log.
        progress: Show a bar with the time left.
        cluster: Run them there instead; the folder must be one that its machines share.

    Raises:
        InputError: if a recipe is wrong, the folder cannot be made or holds results of what the recipe was before; nothing was run then.
        KeyboardInterrupt: after Ctrl-C; cells that ran have saved themselves.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    cells = list({cell.key: cell for cell in cells}.values())
    recipes = check(cells, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: a sweep cannot be begun here: {error.strerror or error}") from error
    known = {row["key"]: row for row in read_results(out)}
    for cell, recipe in zip(cells, recipes, strict=True):
        if cell.key in known:
            _require_unchanged(cell, recipe, known[cell.key], out)
    waiting = [cell for cell in cells if cell.key not in known]
    collect_first([r for cell, r in zip(cells, recipes, strict=True) if cell.key not in known], progress)
    failed: list[tuple[Cell, str]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("sweep", total=len(cells), completed=len(cells) - len(waiting))
        asked = {cell.key: _asked_for(recipe) for cell, recipe in zip(cells, recipes, strict=True)}
        for cell, outcome in _outcomes(waiting, out, workers, cluster):
            bar.advance(task)
            if isinstance(outcome, str):
                failed.append((cell, outcome))
                continue
            known[cell.key] = {"key": cell.key, "name": cell.name, "group": cell.group, "settings": list(cell.settings), "recipe": asked[cell.key], **outcome}
            append_result(out / RESULTS, known[cell.key])
            if progress:
                bar.console.print(f"{cell.name}: {told(known[cell.key])}", markup=False, highlight=False, soft_wrap=True)
    return Sweep([known[cell.key] for cell in cells if cell.key in known], failed)


def _asked_for(recipe: Any) -> dict[str, Any]:
    """Return what a recipe says, flat, as it comes back from a line of results; a run resolves it further."""
    return json.loads(json.dumps({key: value for key, value in flatten(recipe.to_dict()).items() if key != "output"}))


def _require_unchanged(cell: Cell, recipe: Any, row: Mapping[str, Any], out: Path) -> None:
    """Refuse to show a result of what the recipe was before its file was changed. Raises InputError: the first key that differs."""
    new = _asked_for(recipe)
    old = row.get("recipe", new)
    for key in {**old, **new}:
        was, now = old.get(key, "absent"), new.get(key, "absent")
        if was != now:
            raise InputError(
                f"{out}: holds the result of {cell.name} with {key} {was!r}, not {now!r}: {cell.recipe} has changed; take another folder with --out"
            )


def collect_first(recipes: Sequence[Any], progress: bool) -> None:
    """Collect demonstrations that several cells share once, before they run beside each other. Raises InputError."""
    from robopolicy.recipe import Recipe
    from robopolicy.training.demonstrations import open_demonstrations
    from robopolicy.training.replay_demonstrations import ensure_collected

    seen = set()
    for recipe in recipes:
        if not isinstance(recipe, Recipe):
            shown = getattr(recipe.training, "demonstrations", None)  # of learning by trial
            if shown is not None and shown.collect and shown.path and (wanted := (recipe.filled(shown.path), shown.collect)) not in seen:
                seen.add(wanted)
                ensure_collected(recipe, progress, lambda text: None)
        elif recipe.data.sets is None and (path := recipe.filled(recipe.data.path)) not in seen:
            seen.add(path)
            open_demonstrations(recipe, progress, lambda text: None)


def told(row: Mapping[str, Any]) -> str:
    """Return a cell's result in words."""
    numbers = [f"{name} {row[name]:.4g}" for name in ("success", "return", "loss") if row.get(name) is not None]
    return ", ".join(numbers) + f" after {row['steps']} steps, {row['seconds']:.0f} s"


def _outcomes(cells: Sequence[Cell], out: Path, workers: int, cluster: Cluster | None) -> Iterator[tuple[Cell, dict[str, Any] | str]]:
    """Yield every cell with its row, or with one line that says why there is none, as they come."""
    if cluster is not None:
        from robopolicy.sweep_cell import begin

        for index, outcome in cluster.each(begin, [(cell, str(out)) for cell in cells], failed=str):
            yield cells[index], outcome
        return
    from robopolicy.sweep_cell import CellProcess

    waiting, running = list(cells)[::-1], []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(CellProcess(waiting.pop(), out))
            for process in [p for p in running if p.ended]:
                running.remove(process)
                yield process.cell, process.outcome()
            time.sleep(_LOOK_S)
    finally:
        _stop(running)


def _stop(running: Sequence[Any]) -> None:
    """Let cells that run save themselves, then end them."""
    for process in running:
        process.signal(signal.SIGTERM)
    for process in running:
        with contextlib.suppress(TimeoutError):
            process.wait(20.0)
        process.kill()
