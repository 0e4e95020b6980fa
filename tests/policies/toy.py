"""Small tasks for policies: specs, batches and a training loop of seconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from policies import registry
from policies.flow import FlowConfig
from policies.learnt import LearntPolicy
from policies.noise import Noise, row_keys
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from policies.statistics import RunningStats
from policies.teacher import Student

CAMERA = "observation.images.front"
STATE = Spec(
    ObservationSpec({"observation.state": Field((3,), unit="m"), "observation.environment_state": Field((2,), unit="m")}),
    ActionSpec({"position": Field((3,), unit="m", kind="position"), "gripper": Field((1,), kind="gripper")}),
)
IMAGE = Spec(ObservationSpec({**STATE.observation.fields, CAMERA: Field((24, 24, 3), "uint8", kind="image")}), STATE.action)

#: Small backbones, so that tests take seconds.
SMALL = {
    "mlp": {"width": 32, "blocks": 2, "clock_features": 16},
    "unet": {"channels": [16, 32], "clock_features": 16},
    "transformer": {"width": 32, "layers": 2},
    "image": {"channels": [8, 16], "features": 8, "keypoints": 4},
}

Batch = dict[str, torch.Tensor]


def random_batch(spec: Spec, rows: int, horizon: int = 16, n_obs_steps: int = 2, seed: int = 0) -> Batch:
    """Return a batch as the data loader makes it, with random contents."""
    generator = torch.Generator().manual_seed(seed)
    batch: Batch = {}
    for name, field in spec.observation.fields.items():
        shape = (rows, n_obs_steps, *field.shape)
        batch[name] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) if field.is_image else torch.randn(shape, generator=generator)
    batch["action"] = torch.randn(rows, horizon, spec.action.dim, generator=generator)
    batch["action_is_pad"] = torch.arange(horizon).expand(rows, horizon) >= horizon - 3
    return batch


def observation(batch: Batch) -> Batch:
    """Return the observations of a batch alone."""
    return {name: value for name, value in batch.items() if not name.startswith("action")}


def stats_of(batch: Batch, spec: Spec) -> dict[str, dict[str, np.ndarray]]:
    """Return the statistics of a batch as a data set would hold them."""
    out = {}
    for name in (*spec.observation.state_names, "action"):
        running = RunningStats(tuple(batch[name].shape[2:]))
        running.update(batch[name].flatten(0, 1).numpy())
        out[name] = running.result()
    return out


def build(name: str, spec: Spec, batch: Batch, seed: int = 0, **config) -> LearntPolicy:
    """Build a policy with small networks and a normaliser fitted to ``batch``."""
    kind = registry.policy_class(name)
    chosen = kind.Config(**{**SMALL, **config})
    normalizer = kind.fit_normalizer(chosen, spec, stats_of(batch, spec), [batch])
    torch.manual_seed(seed)
    policy = registry.create(name, chosen, spec, normalizer)
    if isinstance(policy, Student) and policy.needs_teacher:
        policy.follow(build("flow", spec, batch, seed, **{key: value for key, value in config.items() if key in FlowConfig.model_fields}))
    return policy


def train(policy: LearntPolicy, batch_of: Callable[[int], Batch], steps: int, lr: float = 2e-3) -> list[float]:
    """Train on ``batch_of(step)`` with a cosine schedule; returns the losses. The policy is in eval mode afterwards."""
    optimizer = torch.optim.AdamW(policy.parameter_groups(1e-6), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    policy.train()
    losses = []
    for step in range(steps):
        batch = batch_of(step)
        rows = len(batch["action"])
        policy.begin_update(step / steps)
        loss, _ = policy.loss(batch, Noise(row_keys(0, step * rows + np.arange(rows))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    policy.eval()
    return losses


#: One action of one number, +1 or -1 with equal chance whatever is observed.
COIN = Spec(ObservationSpec({"observation.state": Field((1,))}), ActionSpec({"action": Field((1,), kind="position")}))
COIN_CONFIG = {"n_obs_steps": 1, "horizon": 1, "n_action_steps": 1, "mlp": {"width": 64, "blocks": 2, "clock_features": 32}}


def coin_batch(step: int, rows: int = 256) -> Batch:
    """Return a batch of the +-1 task."""
    uniform = Noise(row_keys(5, step * rows + np.arange(rows)))
    sign = torch.where(uniform.uniform(1, 1) < 0.5, -1.0, 1.0)
    return {"observation.state": uniform.normal(1, 1), "action": sign, "action_is_pad": torch.zeros(rows, 1, dtype=torch.bool)}


def coin_answers(policy: LearntPolicy, n: int = 1000) -> torch.Tensor:
    """Return the actions (n,) that a policy plans for n different observations of the +-1 task."""
    noise = Noise(row_keys(9, np.arange(n)))
    plan, _ = policy.act({"observation.state": noise.normal(1, 1)}, {}, noise)
    return plan.actions[:, 0, 0]
