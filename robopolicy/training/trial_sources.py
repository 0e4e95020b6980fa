"""What learning by trial takes from beside its worlds: demonstrations, a reward classifier, a teacher. A run goes on with the same ones alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policies import checkpoint
from policies.spec import InputError
from robopolicy.data.dataset import Dataset
from robopolicy.recipe_trial import TrialRecipe


def sources_of(recipe: TrialRecipe, known: Mapping[str, str] | None = None, demonstrations: bool = True) -> dict[str, str]:
    """Return key of the recipe -> fingerprint of what it names; demonstrations that are still to be collected are left out.

    Args:
        recipe: Resolved.
        known: Fingerprints that were found before, which are not looked for again.
        demonstrations: Whether to open those, which takes a while the first time.

    Raises:
        InputError: if what it names cannot be read.
    """
    out, training = dict(known or {}), recipe.training
    shown, reward = getattr(training, "demonstrations", None), getattr(training, "reward", None)
    path, classifier, teacher = getattr(shown, "path", None), getattr(reward, "classifier", None), getattr(recipe.algo, "teacher", None)
    if demonstrations and path is not None and "training.demonstrations.path" not in out and Path(recipe.filled(path)).exists():
        out["training.demonstrations.path"] = Dataset.open(recipe.filled(path)).fingerprint
    if classifier is not None and "training.reward.classifier" not in out:
        from robopolicy.training.reward_model import fingerprint

        out["training.reward.classifier"] = fingerprint(classifier)
    if teacher is not None and "algo.teacher" not in out:
        out["algo.teacher"] = checkpoint.fingerprint(teacher)
    return out


def require_same_sources(facts: Mapping[str, Any], now: Mapping[str, str], folder: Path) -> None:
    """Raise InputError, one line, if a run with ``facts`` of its training state learnt from something else than ``now`` stands there."""
    for key, was in facts.get("sources", {}).items():
        if now.get(key, was) != was:
            raise InputError(
                f"{folder}: what {key} names has changed since this run began (fingerprint {now[key]}, was {was}); "
                "take another folder with output=..., or begin anew with --fresh"
            )
