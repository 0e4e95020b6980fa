"""``policy.teacher=CHECKPOINT or RUN``: which checkpoint a student learns from, settled before anything is collected or written."""

from __future__ import annotations

from policies import checkpoint
from policies.registry import policy_class
from policies.spec import InputError
from policies.teacher import Student
from robopolicy.recipe import Recipe
from robopolicy.training.run_folder import find_checkpoint


def with_teacher(recipe: Recipe) -> Recipe:
    """Return the recipe with ``policy.teacher`` as the path of one checkpoint, which is what a run remembers.

    Raises:
        InputError: if there is no such checkpoint, it holds no generative policy, or the policy needs one and has none.
    """
    kind = policy_class(recipe.policy_type)
    if not issubclass(kind, Student):
        return recipe
    named = getattr(recipe.policy, "teacher", None)
    if named is None:
        if kind.needs_teacher:
            raise InputError(f"policy {recipe.policy_type!r} learns from another policy: set policy.teacher to a checkpoint or run of diffusion or flow")
        return recipe
    try:
        path = find_checkpoint(named)
    except InputError as error:
        raise InputError(f"policy.teacher={named}: {error}") from None
    kind.load_teacher(str(path))
    return recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"teacher": str(path)})})


def teacher_fingerprint(recipe: Recipe) -> str | None:
    """Return the fingerprint of the teacher's checkpoint, None without one; a run goes on with the same teacher alone."""
    path = getattr(recipe.policy, "teacher", None)
    return None if path is None else checkpoint.fingerprint(path)
