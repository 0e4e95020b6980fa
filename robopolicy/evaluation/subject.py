"""Who is evaluated: a checkpoint, a policy in memory or the expert, and what a checkpoint's recipe says of how."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.base import Policy
from policies.spec import InputError, Spec
from robopolicy.recipe import EvaluationConfig

if TYPE_CHECKING:
    from policies.learnt import LearntPolicy

EXPERT = "expert"


@dataclass(frozen=True)
class Subject:
    """How a process makes the policy, and what the ledger says of it.

    Attributes:
        make: () -> Policy, None for the expert; may be sent to another process.
        policy: Type, or ``expert``.
        checkpoint: Its folder, or None.
        checkpoint_hash: 16 hex digits, or None.
        training: Seed, step and the like, for tables.
    """

    make: Callable[[], Policy] | None
    policy: str
    checkpoint: str | None = None
    checkpoint_hash: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


def load_policy(folder: str, device: str) -> LearntPolicy:
    """Read a checkpoint; at module level so that workers can be sent it by name."""
    from policies.checkpoint import load

    return load(folder, device)


@contextlib.contextmanager
def take(policy: Policy | str | Path, device: str, workers: int) -> Iterator[Subject]:
    """Yield the subject for ``policy``: a checkpoint's folder, ``"expert"``, or a policy in memory.

    A torch module in memory is in eval mode meanwhile; to several workers it goes as a temporary checkpoint.

    Raises:
        InputError: if there is no readable checkpoint.
    """
    if policy == EXPERT:
        yield Subject(None, EXPERT)
    elif isinstance(policy, (str, Path)):
        from policies.checkpoint import fingerprint, read_manifest

        manifest = read_manifest(policy)
        told = {"seed": (manifest.get("recipe") or {}).get("seed"), **(manifest.get("extra") or {})}
        about = {k: v for k, v in told.items() if isinstance(v, int | float | str)}
        yield Subject(functools.partial(load_policy, str(policy), device), str(manifest["policy"]), str(policy), fingerprint(policy), about)
    else:
        with _eval_mode(policy):
            name = type(policy).__module__.rpartition(".")[2]
            if workers == 1 or not hasattr(policy, "normalizer"):
                yield Subject(functools.partial(_same, policy), name)
                return
            from policies.checkpoint import save

            with tempfile.TemporaryDirectory(prefix="robopolicy-") as folder:
                save(Path(folder) / "checkpoint", policy, recipe={}, extra={})  # type: ignore[arg-type]
                yield Subject(functools.partial(load_policy, str(Path(folder) / "checkpoint"), device), name)


def _same(policy: Policy) -> Policy:
    return policy


@contextlib.contextmanager
def _eval_mode(policy: Any) -> Iterator[None]:
    training = getattr(policy, "training", None)
    if not isinstance(training, bool):
        yield
        return
    policy.eval()
    try:
        yield
    finally:
        policy.train(training)


@dataclass(frozen=True)
class Defaults:
    """What a checkpoint says of its own evaluation.

    Attributes:
        task: The task it was trained for, None when it does not say.
        env: Options of ``sim.registry.make``.
        evaluation: Episodes, block, workers, threads, seed, videos.
    """

    task: str | None
    env: dict[str, Any]
    evaluation: EvaluationConfig


def read_defaults(checkpoint: str | Path) -> Defaults:
    """Read them from the recipe in the manifest, or from the spec where there is no recipe; needs no torch.

    Raises:
        InputError: if there is no readable checkpoint.
    """
    from policies.checkpoint import read_manifest, read_spec
    from robopolicy.config import validate

    recipe = read_manifest(checkpoint).get("recipe") or {}
    task = recipe.get("task")
    env = recipe.get("env")
    if not isinstance(env, dict):
        env = _env_of(read_spec(checkpoint))
    config = validate(EvaluationConfig, recipe.get("evaluation") or {}, f"checkpoint {checkpoint}: recipe: evaluation")
    return Defaults(task if isinstance(task, str) else None, env, config)


def _env_of(spec: Spec) -> dict[str, Any]:
    images = [spec.observation.fields[name] for name in spec.observation.image_names]
    if not images:
        return {"observations": "state"}
    if len({f.shape for f in images}) > 1:
        sizes = ", ".join(str(f.shape) for f in images)
        raise InputError(f"the checkpoint sees images of different sizes ({sizes}) and has no recipe that says how to make them")
    return {"observations": "state+image" if spec.observation.state_names else "image", "image_size": images[0].shape[0]}
