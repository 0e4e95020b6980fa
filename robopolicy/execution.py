"""How a checkpoint is executed: the method that was chosen for it, another one given by hand, and choosing one.

A method is given as text, ``NAME`` or ``NAME:KEY=VALUE,...`` (``policies.realtime.registry``); None means what the
checkpoint says, ``none`` the policy alone, whose plans follow one another without knowing of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.checkpoint import read_execution, read_manifest
from policies.realtime import registry
from policies.spec import InputError

if TYPE_CHECKING:
    from policies.base import Policy
    from policies.learnt import LearntPolicy
    from robopolicy.evaluation.records import Evaluation
    from robopolicy.recipe import EvaluationConfig


def method_of(checkpoint: str | Path, method: str | None = None) -> dict[str, Any] | None:
    """Return the mapping of the method that ``checkpoint`` is executed by, given ``method``; None for none.

    Raises:
        InputError: for a method that is unknown or has keys or values that cannot be, or a checkpoint that cannot be read.
    """
    if method is None:
        return read_execution(checkpoint)
    described = registry.parse(method)
    return None if described is None else registry.describe(described["type"], registry.config_of(described))


def load_policy(checkpoint: str | Path, device: str = "cpu", method: str | None = None, weights: str | None = None) -> Policy:
    """Read a checkpoint as it is executed; at module level so that workers can be sent it by name.

    ``weights`` lays it out for the CPU in that format (``policies.inference``); None: as it was trained.

    Raises:
        InputError: if the checkpoint cannot be read, the method cannot execute its policy, or they cannot have such weights.
    """
    from policies.checkpoint import load

    described, policy = method_of(checkpoint, method), load(checkpoint, device)
    if weights is None:
        return registry.apply(described, policy)
    from policies.inference import accelerate, require_acts

    executed = registry.apply(described, accelerate(policy, weights))  # type: ignore[arg-type]
    require_acts(executed, weights)  # type: ignore[arg-type]
    return executed


def policy_name(checkpoint: str | Path, method: str | None = None) -> str:
    """Return what tables call a checkpoint: its policy, and its method behind a plus sign, e.g. ``diffusion+rti``."""
    return joined_name(str(read_manifest(checkpoint)["policy"]), method_of(checkpoint, method))


def joined_name(policy: str, described: dict[str, Any] | None) -> str:
    """Return ``policy`` alone, or with the name of the method of a mapping, e.g. ``diffusion+rti``."""
    return policy if described is None else f"{policy}+{described['type']}"


@dataclass(frozen=True)
class Trial:
    """One candidate of a choice.

    Attributes:
        method: Its mapping, complete.
        evaluation: On selection seeds.
    """

    method: dict[str, Any]
    evaluation: Evaluation

    @property
    def rank(self) -> tuple[int, float]:
        """Successes, then the mean score where the task has one."""
        return self.evaluation.successes, self.evaluation.score or 0.0


def candidates(checkpoint: str | Path, method: str, varied: Mapping[str, Sequence[Any]] | None = None) -> list[dict[str, Any]]:
    """Return the methods among which to choose, as complete mappings.

    Args:
        checkpoint: Its folder.
        method: Text; what it sets is not varied.
        varied: Key -> values to try (one key); None: what the method itself proposes.

    Raises:
        InputError: if there is nothing to choose, or a value that cannot be.
    """
    from policies.checkpoint import load

    described = registry.parse(method)
    if described is None:
        raise InputError("tune: none is no method to tune; choose it with: robopolicy eval CHECKPOINT --method none")
    name, policy = described["type"], load(checkpoint)
    wanted = [described]
    for key, values in (varied or {}).items():
        wanted = [{**one, key: value} for one in wanted for value in values]
    configs = [registry.config_of(one) for one in wanted]
    if not varied:
        configs = registry.method_class(name).candidates(configs[0], _chunked(policy, name)) or configs  # none fits: applying it says why
    out = [registry.describe(name, config) for config in configs]
    for one in out:
        registry.apply(one, policy)  # refused now, not after the candidates before it have run
    if len(out) < 2 and not varied:
        raise InputError(f"tune: method {registry.to_text(out[0])!r} leaves nothing to choose; say what with KEY=VALUE1,VALUE2")
    return out


def remark(checkpoint: str | Path, method: str) -> str:
    """Return what a reader of :func:`candidates` should know, one line; empty for nothing. Raises InputError as there."""
    from policies.checkpoint import load

    described = registry.parse(method)
    return "" if described is None else registry.method_class(described["type"]).remark(_chunked(load(checkpoint), described["type"]))


def _chunked(policy: LearntPolicy, name: str) -> Any:
    from policies.chunk import ChunkPolicy

    if not isinstance(policy, ChunkPolicy):
        raise InputError(f"method {name!r}: expected a policy that predicts chunks, found {type(policy).__name__}")
    return policy


def choose(
    checkpoint: str | Path,
    wanted: Sequence[dict[str, Any]],
    task: str,
    config: EvaluationConfig,
    env: dict[str, Any],
    *,
    device: str = "cpu",
    out: Path | None = None,
    progress: bool = True,
) -> list[Trial]:
    """Evaluate candidates on the same selection seeds and return them, the best first; equal ones stay in order.

    Args:
        checkpoint: Its folder.
        wanted: See :func:`candidates`.
        task: Registered name.
        config: Episodes, block, workers, threads, seed.
        env: Options of ``sim.registry.make``.
        device: Where the policy runs.
        out: Folder for records and the ledger; None: nothing is written.
        progress: Whether to draw a bar for each.

    Raises:
        InputError: as ``robopolicy.evaluation.rollout.evaluate``.
    """
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.evaluation.seeds import SELECTION

    trials = []
    for method in wanted:
        text = registry.to_text(method)
        label = f"{read_manifest(checkpoint)['policy']}+{text}"
        evaluation = evaluate(
            str(checkpoint), task, episodes=config.episodes, seed0=SELECTION + config.seed, block=config.block, workers=config.workers,
            threads=config.threads, env=env, noise_seed=config.seed, device=device, out=out, label=label, progress=progress, method=text,
        )  # fmt: skip
        trials.append(Trial(method, evaluation))
    return sorted(trials, key=lambda trial: trial.rank, reverse=True)
