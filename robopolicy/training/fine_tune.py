"""``init=CHECKPOINT``: begin with another policy's weights and keep its normaliser, which those weights were trained behind."""

from __future__ import annotations

from policies import checkpoint
from policies.learnt import LearntPolicy
from policies.spec import InputError
from robopolicy.recipe import Experiment
from robopolicy.training.run_folder import find_checkpoint


def load_initial(recipe: Experiment) -> LearntPolicy | None:
    """Return the policy that the recipe's ``init`` names, a checkpoint or a run; None if it names none.

    Raises:
        InputError: if there is no such checkpoint, or it holds another type of policy.
    """
    if recipe.init is None:
        return None
    path = find_checkpoint(recipe.init)
    found = checkpoint.read_manifest(path)["policy"]
    if found != recipe.policy_type:
        raise InputError(f"init {path}: holds policy {found!r}, the recipe trains {recipe.policy_type!r}; use policy={found}")
    return checkpoint.load(path)
