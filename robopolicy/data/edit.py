"""Editing whole data sets: delete, split, merge, relabel episodes, and compact many files into few.

An edit never touches the frames that are there: it writes a new set beside the old one and renames it when it is whole.
In place, the old set is kept under the name NAME.backup (NAME.backup-2, ...) until a person removes it, unless
``backup=False``. Provenance is carried on, with the edit noted; a collected set that was edited is not continued.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.spec import InputError
from robopolicy.data import layout
from robopolicy.data.atomic import exchange
from robopolicy.data.lock import FolderLock
from robopolicy.data.rewrite import Pick, Source, write_set


@dataclass(frozen=True)
class EditResult:
    """What was written.

    Attributes:
        path: The new set.
        episodes: Its episodes.
        backup: Where the old set is, if it was replaced and kept.
        encoded_again: Videos that could not be cut without encoding them again.
    """

    path: Path
    episodes: int
    backup: Path | None
    encoded_again: int


def parse_episodes(text: str, total: int) -> list[int]:
    """Read ``3,5-8`` as episode numbers of a set with ``total``. Raises InputError naming the part that is wrong."""
    out: list[int] = []
    for part in text.replace(" ", "").split(","):
        first, sign, last = part.partition("-")
        if not first.isdecimal() or (sign and not last.isdecimal()):  # a superscript is a digit, but no number
            raise InputError(f"episodes {text!r}: {part!r} is neither a number nor a range such as 5-8")
        low, high = int(first), int(last) if sign else int(first)
        if low > high or high >= total:
            raise InputError(f"episodes {text!r}: {part!r} is not within 0-{total - 1}")
        out += [n for n in range(low, high + 1) if n not in out]
    return out


def delete(path: str | Path, episodes: Sequence[int], out: str | Path | None = None, backup: bool = True, progress: bool = False) -> EditResult:
    """Remove ``episodes`` from the set at ``path``; what remains goes to ``out``, or in its place. Raises InputError."""
    source = Source.open(path)
    gone = _known(source, episodes)
    picks = [Pick(source, e) for e in range(len(source.table.rows)) if e not in gone]
    return _finish(source, picks, {"operation": "delete", "episodes": sorted(gone)}, out, backup, progress)


def relabel(
    path: str | Path,
    episodes: Sequence[int],
    task: str | None = None,
    success: bool | None = None,
    out: str | Path | None = None,
    backup: bool = True,
    progress: bool = False,
) -> EditResult:
    """Give ``episodes`` another task text, another success mark, or both. Raises InputError."""
    if task is None and success is None:
        raise InputError("relabel: give a task, a success mark, or both")
    source = Source.open(path)
    chosen = _known(source, episodes)
    picks = [Pick(source, e, task, success) if e in chosen else Pick(source, e) for e in range(len(source.table.rows))]
    return _finish(source, picks, {"operation": "relabel", "episodes": sorted(chosen), "task": task, "success": success}, out, backup, progress)


def merge(paths: Sequence[str | Path], out: str | Path, progress: bool = False) -> EditResult:
    """Write the episodes of all ``paths``, in order, as one new set. Raises SpecMismatch if they differ in form."""
    sources = [Source.open(p) for p in paths]
    picks = [Pick(s, e) for s in sources for e in range(len(s.table.rows))]
    note = {"operation": "merge", "sets": [s.root.name for s in sources], "episodes": [len(s.table.rows) for s in sources]}
    return _finish(sources[0], picks, note, out, True, progress)


def split(path: str | Path, parts: Mapping[str, str], out: str | Path, progress: bool = False) -> list[EditResult]:
    """Write parts of the set at ``path`` as sets ``out/NAME``.

    Args:
        path: The set.
        parts: NAME -> episodes (``0-79``), or a share (``0.8``); shares are taken one after the other.
        out: Folder of the parts.
        progress: Whether to show progress bars.

    Raises:
        InputError: if a part is not understood, is empty, its folder exists, or a share would take episodes that another part
            names; nothing is written then.
    """
    source = Source.open(path)
    total, taken, upto = len(source.table.rows), 0, 0.0
    chosen: dict[str, list[int]] = {}
    whole = sum(_share(name, text) for name, text in parts.items() if "." in text)
    if whole > 1 + 1e-9:
        raise InputError(f"split: the shares add up to {whole:g}, expected at most 1")
    for name, text in parts.items():
        if "." in text:
            upto += _share(name, text)  # where a part ends is rounded, not its size: shares that add up to 1 leave no episode out
            end = min(total, math.floor(upto * total + 0.5 + 1e-9))
            chosen[name] = list(range(taken, end))
            taken = end
        else:
            chosen[name] = parse_episodes(text, total)
        if not chosen[name]:
            raise InputError(f"split: part {name!r} ({text}) of {total} episodes is empty")
        if not name or "/" in name or (Path(out) / name).exists():
            raise InputError(f"split: {Path(out) / name} exists already, or is no name for a folder")
    for name, other in ((a, b) for a in parts if "." in parts[a] for b in parts if "." not in parts[b]):
        if common := sorted(set(chosen[name]) & set(chosen[other])):
            raise InputError(f"split: part {name!r} ({parts[name]}) would hold episode {common[0]}, which is in {other!r}; give all parts as episodes")
    Path(out).mkdir(parents=True, exist_ok=True)
    note = {"operation": "split"}
    return [
        _finish(source, [Pick(source, e) for e in episodes], note | {"part": name, "episodes": episodes}, Path(out) / name, True, progress)
        for name, episodes in chosen.items()
    ]


def compact(path: str | Path, out: str | Path | None = None, backup: bool = False, progress: bool = False) -> EditResult:
    """Merge the many files of a recording into few; contents and fingerprint stay the same. Raises InputError.

    In place the old files are removed once the new set has its name, unless ``backup`` is set: nothing is lost.
    """
    source = Source.open(path)
    own = layout.read_own(source.root) or {}
    picks = [Pick(source, e) for e in range(len(source.table.rows))]
    return _finish(source, picks, None if own else {"operation": "compact"}, out, backup, progress)


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"split: part {name!r}: {text!r} is neither episodes (0-79) nor a share (0.8)") from None
    if not 0 < value <= 1:
        raise InputError(f"split: part {name!r}: a share must lie in (0, 1], found {text}")
    return value


def _known(source: Source, episodes: Sequence[int]) -> set[int]:
    total = len(source.table.rows)
    for e in episodes:
        if not 0 <= e < total:
            raise InputError(f"data set {source.root} has episodes 0 to {total - 1}, not {e}")
    if not episodes:
        raise InputError("no episodes were given; e.g. --episodes 3,5-8")
    return set(episodes)


def _finish(source: Source, picks: Sequence[Pick], note: dict[str, Any] | None, out: str | Path | None, backup: bool, progress: bool) -> EditResult:
    provenance = dict((layout.read_own(source.root) or {}).get("provenance") or {})
    if note is not None:
        if "collect" in provenance:  # its seeds are no longer those of a collection in order
            provenance["collected"] = provenance.pop("collect")
        provenance["edits"] = [*provenance.get("edits", []), note]
    if out is not None:
        again = write_set(out, picks, provenance, progress)
        return EditResult(Path(out), len(picks), None, again)
    lock = FolderLock(source.root)
    try:
        if (now := len(Source.open(source.root).table.rows)) != len(source.table.rows):
            raise InputError(f"{source.root}: was recorded into meanwhile, {now} episodes instead of {len(source.table.rows)}; give the command again")
        again, kept = _replace(source.root, picks, provenance, backup, progress)
    finally:
        lock.release()
    return EditResult(source.root, len(picks), kept, again)


def _replace(root: Path, picks: Sequence[Pick], provenance: Mapping[str, Any], backup: bool, progress: bool) -> tuple[int, Path | None]:
    root = root.resolve()  # the name beside which the new set is written, also for "."
    fresh, old = root.with_name(f".{root.name}.edited"), _backup_name(root)  # hidden: NAME.edited may be a set of the user's
    if fresh.exists():
        shutil.rmtree(fresh)
    again = write_set(fresh, picks, provenance, progress)
    exchange(fresh, root)
    if backup:
        fresh.replace(old)
        return again, old
    shutil.rmtree(fresh)
    return again, None


def _backup_name(root: Path) -> Path:
    n, path = 1, root.with_name(f"{root.name}.backup")
    while path.exists():
        n += 1
        path = root.with_name(f"{root.name}.backup-{n}")
    return path
