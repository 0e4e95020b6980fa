"""The outcomes of one policy in one world, as a record or a ledger row has them, and what makes two of them a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from policies.spec import InputError, suggest
from robopolicy.evaluation import chain, ledger
from robopolicy.evaluation.records import FILE, Evaluation, world_of

Quantity = Literal["success", "score", "return"]


@dataclass(frozen=True)
class Outcomes:
    """Episodes of one policy in one world.

    Attributes:
        label: Name for tables.
        task: Registered name.
        world: What must be equal in two that are paired, besides the seeds: JSON.
        purpose: ``selection`` or ``report``.
        seeds: (n,) int64.
        success: (n,) bool.
        score: (n,) float64; None where the task has none, or the row alone is left.
        returns: (n,) float64; None where the row alone is left.
        source: File it was read from.
        checkpoint_hash: Of the policy; None for the expert.
    """

    label: str
    task: str
    world: str
    purpose: str
    seeds: np.ndarray
    success: np.ndarray
    score: np.ndarray | None
    returns: np.ndarray | None
    source: str
    checkpoint_hash: str | None = None

    def values(self, quantity: Quantity) -> np.ndarray | None:
        """Return what is compared, (n,) float64; None where it is not known."""
        if quantity == "success":
            return self.success.astype(np.float64)
        return self.score if quantity == "score" else self.returns


def of_evaluation(e: Evaluation) -> Outcomes:
    """Return the outcomes of an evaluation."""
    score = None if any(x.score is None for x in e.episodes) else np.array([x.score for x in e.episodes], np.float64)
    return Outcomes(
        e.label,
        e.task,
        e.world,
        e.purpose,
        np.array([x.seed for x in e.episodes], np.int64),
        np.array([x.success for x in e.episodes], bool),
        score,
        np.array([x.return_ for x in e.episodes], np.float64),
        str(e.folder or "memory"),
        e.checkpoint_hash,
    )


def of_row(row: Mapping[str, Any]) -> Outcomes:
    """Return the outcomes of a row of :func:`robopolicy.evaluation.chain.merged`: those of its record where it still lies there, else its own.

    Raises:
        InputError: if neither is left.
    """
    record = Path(str(row.get("ledger", ""))).parent / str(row["results"]) if row.get("results") else None
    if record is not None and record.is_file():
        return of_evaluation(Evaluation.load(record))
    if row.get("outcomes") is None:
        raise InputError(f"{row.get('ledger', 'ledger')}: {row['label']} on {row['task']}, {row['time']}: an old row, whose record is no longer beside it")
    n = int(row["episodes"])
    return Outcomes(
        str(row["label"]),
        str(row["task"]),
        world_of(str(row["task"]), str(row["suite_version"]), row.get("max_episode_steps"), row.get("env") or {}),
        str(row["purpose"]),
        np.arange(n, dtype=np.int64) + int(row["seed0"]),
        ledger.unpacked(str(row["outcomes"]), n),
        None,
        None,
        str(row.get("ledger", "ledger")),
        row.get("checkpoint_hash"),
    )


def paired(first: Outcomes, second: Outcomes, quantity: Quantity) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the values (n,) of both on the initial states that both hold, by seed; None where there is no pair to make.

    Raises:
        InputError: if one side does not know the quantity.
    """
    if first.world != second.world or first.purpose != second.purpose:
        return None
    _, mine, yours = np.intersect1d(first.seeds, second.seeds, assume_unique=True, return_indices=True)
    if not len(mine):
        return None
    values = []
    for side, index in ((first, mine), (second, yours)):
        known = side.values(quantity)
        if known is None:
            raise InputError(f"{side.source}: no {quantity} of single episodes of {side.label} on {side.task}; compare by success")
        values.append(known[index])
    return values[0], values[1]


def is_made(name: str) -> bool:
    """Whether ``name`` is of evaluations that exist: a record, a ledger or one label of it, a folder that holds records but is no run or checkpoint."""
    path = Path(name)
    if _ledger_of(name) is not None or path.suffix == ".json":
        return True
    if not path.is_dir() or any((path / own).is_file() for own in ("manifest.json", "last", "recipe.yaml")):
        return False
    return next(path.rglob(FILE), None) is not None


def _ledger_of(name: str) -> tuple[Path, str] | None:
    """Return file and label of ``LEDGER.jsonl`` or ``LEDGER.jsonl:LABEL``; the label may be empty."""
    file, ending, label = name.partition(".jsonl")
    return (Path(file + ending), label.removeprefix(":")) if ending and (not label or label.startswith(":")) else None


def read(name: str, purpose: str = "report") -> list[Outcomes]:
    """Return the newest outcomes of one policy in every world, from a record, a folder of records, or ``LEDGER.jsonl:LABEL``.

    Raises:
        InputError: if there are none, or those of several policies.
    """
    found = _ledger_of(name)
    if found is not None:
        rows = [row for row in chain.merged([found[0]]) if row["purpose"] == purpose and row.get("mode", "synchronous") == "synchronous"]
        labels = list(dict.fromkeys(str(row["label"]) for row in rows))
        label = found[1] or (labels[0] if len(labels) == 1 else "")
        chosen = [row for row in rows if row["label"] == label or (len(label) >= 6 and str(row.get("checkpoint_hash")).startswith(label))]
        if not chosen:
            hint = suggest(label, labels) if label else ""
            raise InputError(f"{name}: expected {found[0]}:LABEL with one of {', '.join(labels) or 'no label at all'}{hint}")
        return _newest([of_row(row) for row in chosen], name)
    path = Path(name)
    files = [path] if path.is_file() else [path / FILE] if (path / FILE).is_file() else sorted(path.rglob(FILE))
    made = sorted((Evaluation.load(file) for file in files), key=lambda e: e.time)
    return _newest([of_evaluation(e) for e in made if len(made) == 1 or e.purpose == purpose], name)


def _newest(made: Sequence[Outcomes], name: str) -> list[Outcomes]:
    """Return the last of ``made`` in every world. Raises InputError unless they are of one policy: one label, and one checkpoint a world."""
    labels = list(dict.fromkeys(o.label for o in made))
    if len(labels) != 1:
        said = f"those of {len(labels)}: {', '.join(labels)}; give the folder of one, or LEDGER.jsonl:LABEL" if labels else "none"
        raise InputError(f"{name}: expected evaluations of one policy, found {said}")
    for o in made:
        hashes = list(dict.fromkeys(str(x.checkpoint_hash) for x in made if (x.world, x.purpose) == (o.world, o.purpose)))
        if len(hashes) > 1:
            raise InputError(f"{name}: {len(hashes)} checkpoints of {labels[0]} were run on {o.task}: give LEDGER.jsonl:HASH, one of {', '.join(hashes)}")
    return list({(o.world, o.purpose): o for o in made}.values())
