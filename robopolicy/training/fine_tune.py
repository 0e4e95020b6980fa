"""``init=CHECKPOINT``: begin with another policy's weights and keep its normaliser, which those weights were trained behind."""

from __future__ import annotations

from policies import checkpoint
from policies.learnt import LearntPolicy
from policies.spec import InputError
from robopolicy.recipe import Experiment
from robopolicy.training.run_folder import find_checkpoint

#: What the numbers that weights put out stand for; no shape tells of it, and the normaliser that is kept was fitted to them.
_MEANING = ("actions", "action_reference", "action_rotation", "two_valued_scale", "prediction")


def load_initial(recipe: Experiment) -> LearntPolicy | None:
    """Return the policy that the recipe's ``init`` names, a checkpoint or a run; None if it names none.

    Raises:
        InputError: if there is no such checkpoint, or it holds another type of policy, or one whose weights stand for something else.
    """
    if recipe.init is None:
        return None
    path = find_checkpoint(recipe.init)
    found = checkpoint.read_manifest(path)["policy"]
    if found != recipe.policy_type:
        raise InputError(f"init {path}: holds policy {found!r}, the recipe trains {recipe.policy_type!r}; use policy={found}")
    policy = checkpoint.load(path)
    for key in _MEANING:
        theirs, ours = (getattr(config, key, None) for config in (policy.config, recipe.policy))
        if theirs != ours:
            raise InputError(f"init {path}: its {key} is {theirs!r}, the recipe's {ours!r}; set policy.{key} to that of the weights, or train without init")
    return policy
