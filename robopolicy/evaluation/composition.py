"""Checkpoints that act as one policy: what ``robopolicy eval --compose`` evaluates, and how its weights are chosen.

Weights that are tried and reported on the same states look better than they are: the grid holds each part alone, so its
best is at least the best part by construction, and the best of ten noisy rates is noise too. So the grid is run on
selection seeds, and what was chosen is then run on report seeds.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policies.spec import InputError, Spec, suggest

if TYPE_CHECKING:
    from policies.base import Policy
    from robopolicy.evaluation.records import Evaluation

RULES = ("average", "or")
#: Parts of a weight in the grid: tenths, as published.
STEPS = 10


@dataclass(frozen=True)
class Composition:
    """Which checkpoints, with which weights, by which rule (``policies.composition``).

    Attributes:
        checkpoints: Their folders.
        weights: One each, together 1.
        by: ``average`` or ``or``.
        chosen: How the weights were chosen, for the ledger; None: they were given.
        chosen_on: First seed, episodes and trials of that choice.
    """

    checkpoints: tuple[str, ...]
    weights: tuple[float, ...]
    by: str = "average"
    chosen: str | None = None
    chosen_on: tuple[int, int, int] | None = None

    @functools.cached_property
    def spec(self) -> Spec:
        """What the parts read and command together. Raises InputError naming the field in which they differ."""
        from policies.checkpoint import read_spec
        from policies.composition import union

        return union([read_spec(folder) for folder in self.checkpoints], list(self.checkpoints))

    @functools.cached_property
    def described(self) -> dict[str, Any]:
        """What the ledger says: the rule, and of every part its folder, hash, policy and weight; JSON-ready."""
        from policies.checkpoint import fingerprint, read_manifest

        parts = [
            {"checkpoint": folder, "checkpoint_hash": fingerprint(folder), "policy": str(read_manifest(folder)["policy"]), "weight": weight}
            for folder, weight in zip(self.checkpoints, self.weights, strict=True)
        ]
        return {"by": self.by, "parts": parts, "chosen": self.chosen}

    @property
    def label(self) -> str:
        """Name for tables, e.g. ``0.6 flow + 0.4 diffusion``."""
        sign = " or " if self.by == "or" else " + "
        return sign.join(f"{part['weight']:.3g} {part['policy']}" for part in self.described["parts"])

    @property
    def fingerprint(self) -> str:
        """16 hex digits, equal for equal parts, weights and rule."""
        parts = "".join(f"{part['checkpoint_hash']}:{part['weight']!r}\n" for part in self.described["parts"])
        return hashlib.sha256(f"{self.by}\n{parts}".encode()).hexdigest()[:16]


def load(composition: Composition, device: str = "cpu", method: str | None = None) -> Policy:
    """Read the parts into one policy, executed by ``method``; at module level so that workers can be sent it by name.

    Raises:
        InputError: if a checkpoint cannot be read, the parts do not go together, or the method cannot execute them.
    """
    from policies import checkpoint
    from policies.composition import ComposedPolicy
    from policies.realtime import registry

    parts: list[Any] = [checkpoint.load(folder, device) for folder in composition.checkpoints]
    policy = ComposedPolicy(parts, composition.weights, composition.by, list(composition.checkpoints))  # type: ignore[arg-type]
    described = None if method is None else registry.parse(method)
    return registry.apply(described, policy)


def parse(items: Sequence[str], by: str, choosing: bool) -> Composition:
    """Read ``CHECKPOINT:WEIGHT`` items; runs stand for their last checkpoint.

    Args:
        items: Two or more; without weights when ``choosing``.
        by: The rule.
        choosing: The weights are chosen later, see :func:`choose`; meanwhile they are equal.

    Raises:
        InputError: for another form, weights that do not sum to 1, or no readable checkpoint.
    """
    from policies.composition import checked_weights
    from robopolicy.training.run_folder import find_checkpoint

    if by not in RULES:
        raise InputError(f"--compose-by {by!r} is unknown{suggest(by, RULES)}")
    folders, weights = [], []
    for item in items:
        folder, weight = _split(item)
        if choosing and weight is not None:
            raise InputError(f"--compose {item}: --choose-weights chooses the weights; give {folder} alone")
        if not choosing and weight is None:
            raise InputError(f"--compose {item}: expected CHECKPOINT:WEIGHT, e.g. {item}:0.5, or --choose-weights")
        folders.append(str(find_checkpoint(folder)))
        weights.append(1.0 / len(items) if weight is None else weight)
    return Composition(tuple(folders), checked_weights(weights, len(folders)), by)


def _split(item: str) -> tuple[str, float | None]:
    """Return checkpoint and weight; None where what follows the last colon is no number."""
    folder, colon, number = item.rpartition(":")
    try:
        return (folder, float(number)) if colon and folder else (item, None)
    except ValueError:
        return item, None


def grid(parts: int) -> list[tuple[float, ...]]:
    """Return every way to share ten tenths among ``parts``, from all to the first to all to the last."""
    bars = itertools.combinations(range(STEPS + parts - 1), parts - 1)
    shares = [tuple(b - a - 1 for a, b in itertools.pairwise((-1, *cut, STEPS + parts - 1))) for cut in bars]
    return [tuple(n / STEPS for n in share) for share in sorted(shares, reverse=True)]


@dataclass(frozen=True)
class Trial:
    """One candidate of the grid.

    Attributes:
        composition: With its weights.
        evaluation: On selection seeds.
    """

    composition: Composition
    evaluation: Evaluation

    @property
    def rank(self) -> tuple[int, float, float]:
        """Successes, then the mean score where the task has one, then nearness to equal weights."""
        equal = 1.0 / len(self.composition.weights)
        return self.evaluation.successes, self.evaluation.score or 0.0, -sum((w - equal) ** 2 for w in self.composition.weights)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready row of the grid."""
        e = self.evaluation
        return {
            "weights": list(self.composition.weights),
            "episodes": len(e.episodes),
            "successes": e.successes,
            "wilson95": list(e.interval),
            "score": e.score,
        }


def choose(composition: Composition, evaluate_one: Any) -> tuple[Composition, list[Trial]]:
    """Evaluate the grid and return the composition with the best weights, and every trial in the order of the grid.

    Args:
        composition: The parts and the rule; its weights do not matter.
        evaluate_one: Composition -> its evaluation on selection seeds.
    """
    trials = []
    for weights in grid(len(composition.checkpoints)):
        candidate = dataclasses.replace(composition, weights=weights)
        trials.append(Trial(candidate, evaluate_one(candidate)))
    best = max(trials, key=lambda trial: trial.rank)
    e = best.evaluation
    said = f"{e.successes}/{len(e.episodes)} on {e.purpose} seeds from {e.seed0}, best of {len(trials)}"
    return dataclasses.replace(best.composition, chosen=said, chosen_on=(e.seed0, len(e.episodes), len(trials))), trials
