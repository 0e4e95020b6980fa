"""The chain of a ledger: every row carries a hash of its content and of all rows before it, so that editing shows.

``id`` is the hash of a row's content without the paths at which things lay, so a row keeps it when it is copied into
another ledger. ``chain`` is the hash of the ``chain`` of the row before and the row's own ``id``. Whoever rewrites the whole
file can make a new chain; its head then differs from the one that was noted elsewhere (``docs/benchmarks.md`` notes it).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.spec import InputError

#: Parts of a checkpoint's path that are kept: ``RUN/checkpoints/step_NNNNNN``.
_KEPT = 3
_LINKS = ("id", "chain")
#: What every row of an evaluation has, of whatever version.
_ALWAYS = ("task", "episodes", "label", "purpose", "seed0", "time")


def link(row: Mapping[str, Any], last: Mapping[str, Any] | None) -> dict[str, str]:
    """Return ``id`` and ``chain`` of a row that follows ``last`` (None: the first)."""
    own = identity(row)
    return {"id": own, "chain": _joined(_chain_of(last), own)}


def identity(row: Mapping[str, Any]) -> str:
    """Return 16 hex digits of a row's content, equal wherever it was copied to."""
    return _digest(json.dumps({k: v for k, v in portable(row).items() if k not in _LINKS}, sort_keys=True, separators=(",", ":")))


def portable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the paths of the machine it was made on: a checkpoint keeps run and step, a data set its name."""
    out = {**row}
    if out.get("checkpoint"):
        out["checkpoint"] = _short(out["checkpoint"])
    if "results" in out:
        out["results"] = None
    training = out.get("training")
    if isinstance(training, Mapping) and isinstance(training.get("dataset"), str):
        out["training"] = {**training, "dataset": Path(training["dataset"]).name}
    mixed = out.get("composition")
    if isinstance(mixed, Mapping):
        parts = [{**part, "checkpoint": _short(part.get("checkpoint") or "")} for part in mixed.get("parts", ())]
        out["composition"] = {**mixed, "parts": parts}
    return out


def _short(path: str) -> str:
    return "/".join([part for part in Path(path).parts if part != "/"][-_KEPT:])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _joined(before: str, own: str) -> str:
    return _digest(f"{before}:{own}")


def _chain_of(row: Mapping[str, Any] | None) -> str:
    """Return the chain up to a row; one from before there were chains stands for itself."""
    return "" if row is None else str(row.get("chain") or identity(row))


@dataclass
class Check:
    """What is found out about a ledger.

    Attributes:
        file: The ledger.
        rows: Whole lines in it.
        unchained: Of them, those at its beginning that are older than chains.
        head: Chain of the last row, empty for an empty ledger.
        problems: What was altered, removed or moved; one line each.
        notes: What a reader should know and is no fault.
    """

    file: Path
    rows: int = 0
    unchained: int = 0
    head: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(file: Path, head: str | None = None) -> Check:
    """Verify a ledger: contents, order, seeds, and the evaluations that lie beside it.

    Args:
        file: The ledger.
        head: The chain of a row that must be in it, as noted earlier; a ledger that was cut off before it is found so.

    Raises:
        InputError: if the file cannot be read.
    """
    out, last, heads = Check(file), None, set()
    damaged: int | None = None
    for number, row in _lines(file):
        if row is None:
            out.notes.append(f"line {number}: not a whole row, as a killed writer leaves it")
            damaged = number
            continue
        out.rows += 1
        said = _judge(row, last, damaged)
        out.problems += [f"line {number} ({_name(row)}): {what}" for what in said]
        out.unchained += "chain" not in row and not said
        last, damaged = row, None
        out.head = _chain_of(row)
        heads.add(out.head)
    if head is not None and head not in heads:
        out.problems.append(f"no row has the chain {head}: rows at the end were removed, or the ledger was rewritten")
    out.problems += _beside(file)
    return out


def _judge(row: Mapping[str, Any], last: Mapping[str, Any] | None, damaged: int | None) -> list[str]:
    """Return what is wrong with a row that follows ``last``."""
    from robopolicy.evaluation import ledger

    if "chain" not in row:
        return ["has no chain, though rows before it have: not written by robopolicy, or its chain was removed"] if last and "chain" in last else []
    out = []
    if identity(row) != row.get("id"):
        out.append(f"was altered: its content gives the id {identity(row)}, it says {row.get('id')}")
    if _joined(_chain_of(last), str(row.get("id"))) != row["chain"]:
        where = f"line {damaged}, which is damaged, was one" if damaged else "a row between them was removed, or rows were moved"
        out.append(f"does not follow the row before it: {where}")
    try:
        ledger.require_separate(str(row.get("purpose")), int(row["seed0"]), int(row["episodes"]), row.get("chosen") or ())
    except (InputError, KeyError, TypeError, ValueError) as error:
        out.append(str(error))
    return out


def _name(row: Mapping[str, Any]) -> str:
    return f"{row.get('label', '?')} on {row.get('task', '?')}, {row.get('time', '?')}"


def _lines(file: Path) -> Iterable[tuple[int, dict[str, Any] | None]]:
    """Yield number and row of every line that is not empty; None for one that is no JSON object."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{file}: the ledger cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        yield number, value if isinstance(value, dict) else None


def _beside(file: Path) -> list[str]:
    """Return what the evaluations in the folders beside a ledger say against it."""
    from robopolicy.evaluation import ledger
    from robopolicy.evaluation.records import FILE, Evaluation

    rows = {row["results"]: row for _, row in _lines(file) if row and row.get("results")}
    out = []
    for found in sorted(file.parent.glob(f"*/{FILE}")):
        name = f"{found.parent.name}/{FILE}"
        row = rows.get(name)
        if row is None:
            if file.name == ledger.FILE:  # what is entered nowhere else; a merged one names no records, and need not hold all that lies beside it
                out.append(f"{name}: no row for it: the row was removed, or its writer was killed before it wrote it")
            continue
        try:
            made = Evaluation.load(found)
        except InputError as error:
            out.append(str(error))
            continue
        if row.get("outcomes") not in (None, ledger.packed([e.success for e in made.episodes])) or row.get("successes") != made.successes:
            out.append(f"{name}: its outcomes are not those of its row ({made.successes} successes, the row says {row.get('successes')})")
    return out


def merged(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the rows of several ledgers, oldest first, each evaluation once; ``ledger`` says which file a row is from.

    Lines that are no rows of evaluations are left out.

    Raises:
        InputError: if one cannot be read.
    """
    out: dict[str, dict[str, Any]] = {}
    for file in files:
        for _, row in _lines(file):
            if row is not None and all(key in row for key in _ALWAYS):
                out.setdefault(str(row.get("id") or identity(row)), {**row, "ledger": str(file)})
    return sorted(out.values(), key=lambda row: str(row.get("time")))  # of one second: as they stand


def merge_into(target: Path, files: Sequence[Path]) -> int:
    """Append to ``target`` the rows of ``files`` that it lacks, without machine paths; returns how many.

    Raises:
        InputError: if one of them is faulty (:func:`check`), or cannot be read or written.
    """
    from robopolicy.evaluation import ledger

    for file in (*files, *([target] if target.is_file() else ())):
        problems = check(file).problems
        if problems:
            raise InputError(f"{file}: {problems[0]}{f' (and {len(problems) - 1} more)' if len(problems) > 1 else ''}; robopolicy ledger check {file}")
    known = {str(row.get("id") or identity(row)) for row in (merged([target]) if target.is_file() else ())}
    fresh = [row for row in merged(files) if str(row.get("id") or identity(row)) not in known]
    for row in fresh:
        ledger.enter(target, portable({k: v for k, v in row.items() if k != "ledger"}))
    return len(fresh)
