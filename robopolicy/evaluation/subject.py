"""Who is evaluated: a checkpoint, a policy in memory or the expert, and what a checkpoint's recipe says of how."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.base import Policy
from policies.realtime.registry import apply, config_of, describe, method_names, parse, to_text
from policies.spec import InputError, Spec
from robopolicy.evaluation import composition
from robopolicy.evaluation.composition import Composition
from robopolicy.execution import joined_name, load_policy, method_of
from robopolicy.recipe import EvaluationConfig

EXPERT = "expert"


@dataclass(frozen=True)
class Subject:
    """How a process makes the policy, and what the ledger says of it.

    Attributes:
        make: () -> Policy, None for the expert; may be sent to another process.
        policy: Type, with a method of execution behind a plus sign (``diffusion+rti``), or ``expert``.
        checkpoint: Its folder, or None.
        checkpoint_hash: 16 hex digits, or None.
        training: Seed, step and the like, for tables.
        execution: The method as text, e.g. ``rti:level=15,steps=3``; None without one.
        composition: Its parts and weights, None for a single policy.
        chosen: ``{what, seed0, episodes, trials}`` of what was chosen by evaluating.
    """

    make: Callable[[], Policy] | None
    policy: str
    checkpoint: str | None = None
    checkpoint_hash: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    execution: str | None = None
    composition: dict[str, Any] | None = None
    chosen: Sequence[dict[str, Any]] = ()


@contextlib.contextmanager
def take(policy: Policy | Composition | str | Path, device: str, workers: int, method: str | None = None, weights: str | None = None) -> Iterator[Subject]:
    """Yield the subject for ``policy``: a checkpoint's folder, several composed, ``"expert"``, or a policy in memory.

    A torch module in memory is in eval mode meanwhile; to several workers it goes as a temporary checkpoint. ``method`` is
    how it is executed (``robopolicy.execution``); None: as the checkpoint says, a policy in memory as it is. ``weights`` is the
    number format of a checkpoint's (``policies.inference``); None: as trained.

    Raises:
        InputError: if there is no readable checkpoint, or method or weights cannot be for the policy.
    """
    if weights is not None and (policy == EXPERT or not isinstance(policy, (str, Path))):
        found = "the expert" if policy == EXPERT else type(policy).__name__
        raise InputError(f"weights {weights}: expected the folder of one checkpoint, found {found}")
    if policy == EXPERT:
        if method is not None:
            raise InputError(f"method {method!r}: the expert plans one action at a time, there is nothing to execute in another way")
        yield Subject(None, EXPERT)
    elif isinstance(policy, Composition):
        text = None if method is None or parse(method) is None else method  # a part's own method is not that of the whole
        name = joined_name(policy.label, None if text is None else parse(text))
        make = functools.partial(composition.load, policy, device, text)
        on = policy.chosen_on
        chosen = [] if on is None else [{"what": "weights", "seed0": on[0], "episodes": on[1], "trials": on[2]}]
        yield Subject(make, name, None, policy.fingerprint, execution=text, composition=policy.described, chosen=chosen)
    elif isinstance(policy, (str, Path)):
        from policies.checkpoint import fingerprint, read_manifest

        manifest = read_manifest(policy)
        about = training_of(manifest, policy)
        described = method_of(policy, method)
        name, text = joined_name(str(manifest["policy"]), described), to_text(described)
        make = functools.partial(load_policy, str(policy), device, text, weights)
        chosen = [dict(one) for one in (manifest.get("extra") or {}).get("chosen", ())]
        yield Subject(make, name, str(policy), fingerprint(policy), about, None if described is None else text, chosen=chosen)
    else:
        with _eval_mode(policy):
            bare, described = _parts(policy, method)
            name, said = joined_name(type(bare).__module__.rpartition(".")[2], described), None if described is None else to_text(described)
            known = described is None or described["type"] in method_names()
            if workers == 1 or not (known and hasattr(bare, "normalizer")):
                yield Subject(functools.partial(_same, policy if method is None else apply(described, bare)), name, execution=said)
                return
            from policies.checkpoint import save

            with tempfile.TemporaryDirectory(prefix="robopolicy-") as folder:
                save(Path(folder) / "checkpoint", bare, recipe={}, extra={}, execution=described)
                yield Subject(functools.partial(load_policy, str(Path(folder) / "checkpoint"), device), name, execution=said)


#: Keys of a recipe that do not make another method of training: where it is written, how it is watched, and the seed.
_NOT_THE_METHOD = ("seed", "output", "name", "evaluation")
_NOT_THE_LOOP = ("threads", "log_every", "checkpoint_every", "keep_checkpoints", "evaluate_every")


def training_of(manifest: Mapping[str, Any], checkpoint: str | Path) -> dict[str, Any]:
    """Return how a checkpoint came about, for tables: ``seed``, ``step``, ``recipe`` (its name), ``recipe_hash`` and the like.

    ``recipe_hash`` (12 hex digits) is equal for training runs that differ in nothing but their seed and where they were written.
    """
    recipe = manifest.get("recipe") or {}
    told = {"seed": recipe.get("seed"), **(manifest.get("extra") or {})}
    out = {k: v for k, v in told.items() if isinstance(v, int | str) or (isinstance(v, float) and math.isfinite(v))}
    if recipe:
        loop = recipe.get("training")
        kept = {k: v for k, v in recipe.items() if k not in _NOT_THE_METHOD}
        if isinstance(loop, Mapping):
            kept["training"] = {k: v for k, v in loop.items() if k not in _NOT_THE_LOOP}
        text = json.dumps(kept, sort_keys=True).replace(str(recipe.get("output")), "")
        out["recipe_hash"] = hashlib.sha256(text.encode()).hexdigest()[:12]
    run = Path(checkpoint).resolve().parent
    return {**out, "run": run.parent.name} if run.name == "checkpoints" else out


def _parts(policy: Any, method: str | None) -> tuple[Any, dict[str, Any] | None]:
    """Return a policy in memory without its method, and the mapping of the method that it is to be executed by."""
    own: dict[str, Any] | None = None
    methods = sys.modules.get("policies.realtime.method")
    if methods is not None and isinstance(policy, methods.ExecutionMethod):
        own = describe(type(policy).__module__.rpartition(".")[2], policy.config)
        policy = policy.policy
    if method is None:
        return policy, own
    described = parse(method)
    return policy, None if described is None else describe(described["type"], config_of(described))


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


def read_defaults(checkpoint: str | Path | Composition) -> Defaults:
    """Read them from the recipe in the manifest, or from the spec where there is no recipe; needs no torch.

    A composition has those of its first part, in a world that shows what all parts see.

    Raises:
        InputError: if there is no readable checkpoint, or parts of a composition are for different worlds.
    """
    if isinstance(checkpoint, Composition):
        return _shared([read_defaults(folder) for folder in checkpoint.checkpoints], checkpoint)
    from policies.checkpoint import read_manifest, read_spec
    from robopolicy.config import validate
    from robopolicy.recipe import world_options

    recipe = read_manifest(checkpoint).get("recipe") or {}
    task = recipe.get("task")
    env = recipe.get("env")
    if not isinstance(env, dict):
        env = _env_of(read_spec(checkpoint))
    env = world_options(env)
    config = validate(EvaluationConfig, recipe.get("evaluation") or {}, f"checkpoint {checkpoint}: recipe: evaluation")
    return Defaults(task if isinstance(task, str) else None, env, config)


def _shared(defaults: list[Defaults], whole: Composition) -> Defaults:
    tasks = list(dict.fromkeys(d.task for d in defaults))
    sizes = list(dict.fromkeys(d.env["image_size"] for d in defaults if "image" in d.env.get("observations", "") and "image_size" in d.env))
    if len(sizes) > 1:
        raise InputError(f"composition of {', '.join(whole.checkpoints)}: image_size: expected one, found {sizes}")
    shown = {word for d in defaults for word in d.env.get("observations", "state").split("+")}
    env = {**defaults[0].env, "observations": "+".join(word for word in ("state", "image") if word in shown)}
    return Defaults(tasks[0] if len(tasks) == 1 else None, {**env, "image_size": sizes[0]} if sizes else env, defaults[0].evaluation)


def _env_of(spec: Spec) -> dict[str, Any]:
    images = [spec.observation.fields[name] for name in spec.observation.image_names]
    if not images:
        return {"observations": "state"}
    if len({f.shape for f in images}) > 1:
        sizes = ", ".join(str(f.shape) for f in images)
        raise InputError(f"the checkpoint sees images of different sizes ({sizes}) and has no recipe that says how to make them")
    return {"observations": "state+image" if spec.observation.state_names else "image", "image_size": images[0].shape[0]}
