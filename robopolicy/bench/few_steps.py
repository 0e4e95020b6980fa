"""Ways to act, as a table: which policy, how it is trained, and how it is told to make 1, 2, 4, 10 or 100 network calls.

A row with another sampler of the same policy shares its checkpoint. What is not registered is reported as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policies.base import Policy

BASE = "DDIM"
FEW = 4  # network calls
Settings = Mapping[str, Any]


def _steps(*counts: int, per_step: int = 1) -> dict[int, Settings]:
    return {n * per_step: {"steps": n} for n in counts}


USUAL = _steps(1, 2, 4, 10, 100)
ONE: dict[int, Settings] = {1: {}}


@dataclass(frozen=True)
class Way:
    """One way to act.

    Attributes:
        label: Its name in tables and plots.
        policy: Policy type.
        calls: Network calls a plan -> keys of the policy's config (of the method's where there is one) that make it so many.
        train: Keys of the policy's config in training, beyond those of the bed.
        sample: Keys of the policy's config that all its ``calls`` share.
        teacher: Policy type that it is distilled from, trained on the same bed.
        method: Method of execution that uses the policy (``policies.realtime.registry``).
        few_step: Whether it claims to act well in few calls, so that it is judged against its peer.
        peer: Label of what it is compared with at equal calls.
        adaptive: Whether it may stop before it has made so many calls.
    """

    label: str
    policy: str
    calls: Mapping[int, Settings]
    train: Settings = field(default_factory=dict)
    sample: Settings = field(default_factory=dict)
    teacher: str | None = None
    method: str | None = None
    few_step: bool = False
    peer: str = BASE
    adaptive: bool = False


WAYS = (
    Way(BASE, "diffusion", USUAL, sample={"sampler": "ddim"}),
    Way("DDPM", "diffusion", USUAL, sample={"sampler": "ddpm"}),
    Way("flow, Euler", "flow", USUAL, sample={"solver": "euler"}, few_step=True),
    Way("flow, Heun", "flow", {1: {"steps": 1}, 3: {"steps": 2}, 9: {"steps": 5}, 99: {"steps": 50}}, sample={"solver": "heun"}, few_step=True),
    Way("regression", "regression", ONE),
    Way("ACT", "act", ONE, train={"detr": {"width": 64, "feed_forward": 128, "encoder_layers": 1}}),  # of its style encoder, in training alone
    Way("energy", "energy", {n: {"max_steps": n - 1} for n in (2, 4, 10, 100)}, few_step=True, adaptive=True),  # a last look takes no step
    Way("consistency", "consistency", USUAL, few_step=True),
    Way("consistency, distilled", "consistency", USUAL, teacher="diffusion", few_step=True),
    Way("MeanFlow", "meanflow", USUAL, few_step=True),
    Way("one-step, distilled", "onestep", ONE, teacher="flow", few_step=True),
    Way("DDIM, closed loop", "diffusion", USUAL, sample={"sampler": "ddim", "n_action_steps": 1}),
    Way("RTI, closed loop", "diffusion", _steps(1, 2, 4, 10), method="rti", few_step=True, peer="DDIM, closed loop"),
)


def missing(ways: tuple[Way, ...] = WAYS) -> dict[str, str]:
    """Return what cannot be measured -> why: rows of the table without their policy, and registered policies without a row."""
    from policies.realtime.registry import method_names
    from policies.registry import chunk_policy_names

    known, out = chunk_policy_names(), {}
    for way in ways:
        absent = [name for name in (way.policy, way.teacher) if name is not None and name not in known]
        if absent:
            out[way.label] = f"policy {absent[0]!r} is not registered"
        elif way.method is not None and way.method not in method_names():
            out[way.label] = f"method {way.method!r} is not registered"
    for name in known:
        if name not in {way.policy for way in ways}:
            out[name] = "a registered policy without a row in the benchmark's table"
    return out


def build(checkpoint: Path, way: Way, calls: int) -> Policy:
    """Return the policy of a checkpoint, told to make ``calls`` network calls a plan.

    Raises:
        InputError: if the checkpoint cannot be read, or the policy or method does not know a key of the table.
    """
    from policies import registry
    from policies.checkpoint import load
    from policies.realtime.registry import apply
    from robopolicy.config import validate

    trained = load(checkpoint)
    told = dict(way.calls[calls])
    own = {**trained.config.model_dump(), **way.sample, **({} if way.method else told)}
    config = validate(type(trained.config), own, f"benchmark: {way.label} at {calls} calls", "policy.")
    policy = registry.create(way.policy, config, trained.spec, trained.normalizer)
    policy.load_state_dict(trained.state_dict())
    policy.eval()
    return policy if way.method is None else apply({"type": way.method, **told}, policy)
