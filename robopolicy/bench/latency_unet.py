"""The U-Net of Diffusion Policy at its published size for images: ours in every format of its weights, beside LeRobot's.

Channels 512, 1024 and 2048, 128 clock features, kernel 5: 251 million weights; DDIM with 10 steps, chunks of 16, To = 2.
Per observed step the condition has 66 numbers, as PushT from images has: 64 features of a picture and 2 of the hand. Both
sides get these as states, so what is timed is one chunk from the same U-Net, whose weights are copied from ours.

Deviations are of whole chunks from those in float32. The weights are random, except that the last layer is fitted (ridge
regression) to chunks that follow from the condition, which it predicts as data: an untrained prediction of the noise walks
into the ends of the range, where every format looks exact or flips. The latency does not depend on what is predicted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from policies import registry
from policies.diffusion import DiffusionPolicy
from policies.inference import Weights, accelerate
from policies.noise import Noise, row_keys
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from robopolicy.bench.harness import Result, Row, measured
from robopolicy.bench.latency import in_turn

CHANNELS, CLOCK_FEATURES = (512, 1024, 2048), 128
STATE, FEATURES, ACTION = 2, 64, 2
FORMATS: tuple[Weights, ...] = ("float32", "bfloat16", "int8")
TARGET, DEVIATION = 0.5, 0.01  # of LeRobot's latency; of the action's range
_PEER = "LeRobot's U-Net"


def unet_policy(channels: tuple[int, ...] = CHANNELS) -> DiffusionPolicy:
    """Return the policy with its last layer fitted, in eval mode."""
    names = {"observation.state": Field((STATE,)), "observation.environment_state": Field((FEATURES,))}
    action = Field((ACTION,), low=(-1.0,) * ACTION, high=(1.0,) * ACTION)
    spec = Spec(ObservationSpec(names, 10.0), ActionSpec({"action": action}, 10.0))
    kind = registry.policy_class("diffusion")
    options = {"prediction": "x0", "state_normalization": "identity", "action_normalization": "identity", "backbone": "unet"}
    config = kind.Config(**options, unet={"channels": list(channels), "clock_features": CLOCK_FEATURES})  # type: ignore[call-arg]
    stats = {name: {k: np.full(f.shape, v) for k, v in (("min", -1.0), ("max", 1.0), ("mean", 0.0), ("std", 1.0))} for name, f in spec_fields(spec)}
    torch.manual_seed(0)
    policy: Any = registry.create("diffusion", config, spec, kind.fit_normalizer(config, spec, stats, iter(())))
    fit_last_layer(policy.eval().requires_grad_(False))
    return policy


def spec_fields(spec: Spec) -> list[tuple[str, Field]]:
    """Return (name, field) of what is observed and of the action."""
    return [*spec.observation.fields.items(), ("action", spec.action.fields["action"])]


def conditions(rows: int, seed: int) -> dict[str, torch.Tensor]:
    """Return ``rows`` fixed observations."""
    noise = Noise(row_keys(seed, np.arange(rows)))
    return {"observation.state": noise.normal(2, STATE), "observation.environment_state": noise.normal(2, FEATURES)}


def chunk_for(condition: torch.Tensor, horizon: int) -> torch.Tensor:
    """Return the chunk (B, Tp, De) that goes with a condition (B, To, C): arcs whose shape the condition sets."""
    t = torch.linspace(0.0, 1.0, horizon)[None, :, None]
    start, speed, bend = (condition[:, -1, i * ACTION : (i + 1) * ACTION].unsqueeze(1) for i in range(3))
    return torch.tanh(0.5 * start + speed * t + bend * t * t)


def fit_last_layer(policy: DiffusionPolicy, batches: int = 4, rows: int = 64) -> None:
    """Fit the last layer to the chunks of :func:`chunk_for`, by ridge regression on what the network feeds it."""
    network: Any = policy.network
    last, seen = network.final[1], []
    hook = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].mT.flatten(0, 1)))
    targets = []
    for batch in range(batches):
        noise = Noise(row_keys(11 + batch, np.arange(rows)))
        condition = policy.condition(conditions(rows, 100 + batch), noise)
        chunk = chunk_for(condition, policy.horizon)
        level, z = noise.integers(policy.path.levels), noise.normal(*chunk.shape[1:])
        network(policy.path.mix(chunk, z, level), torch.as_tensor(policy.path.clock(level), dtype=torch.float32), condition)
        targets.append(policy.path.target(policy.prediction, chunk, z, level).flatten(0, 1))
    hook.remove()
    x, y = torch.cat(seen).double(), torch.cat(targets).double()
    mean = x.mean(0)
    centred = x - mean
    gram = centred.T @ centred
    weight = torch.linalg.solve(gram + 1e-2 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype), centred.T @ (y - y.mean(0)))
    last.weight.copy_(weight.T.unsqueeze(-1))
    last.bias.copy_(y.mean(0) - mean @ weight)


def planner(policy: Any, rows: int = 1, seed: int = 0) -> Callable[[], torch.Tensor]:
    """Return what plans one batch of chunks (B, Ta, Da), the same every time."""
    obs, keys = conditions(rows, seed), row_keys(seed, np.arange(rows))
    return lambda: policy.act(obs, {}, Noise(keys))[0].actions


def deviation(reference: Any, policy: Any, inputs: int, rows: int = 16) -> tuple[float, float]:
    """Return the largest and the mean deviation of chunks for ``inputs`` observations, as shares of the action's range."""
    worst, total = 0.0, 0.0
    for seed in range(0, inputs, rows):
        difference = (planner(policy, rows, 1000 + seed)() - planner(reference, rows, 1000 + seed)()).abs() / 2.0
        worst, total = max(worst, float(difference.max())), total + float(difference.mean()) * rows
    return worst, total / inputs


def lerobot_planner(policy: DiffusionPolicy) -> Callable[[], torch.Tensor]:
    """Return what makes LeRobot's diffusion policy, with the U-Net's weights of ``policy``, plan one chunk (1, Ta, Da).

    Raises:
        ModuleNotFoundError: if LeRobot, or what its policies import, is not installed.
    """
    from lerobot.configs.types import FeatureType, PolicyFeature  # type: ignore[import-not-found]
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig  # type: ignore[import-not-found]
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel  # type: ignore[import-not-found]

    state, features = PolicyFeature(FeatureType.STATE, (STATE,)), PolicyFeature(FeatureType.ENV, (FEATURES,))
    unet = policy.config.unet
    config = DiffusionConfig(
        input_features={"observation.state": state, "observation.environment_state": features},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        down_dims=tuple(unet.channels),
        diffusion_step_embed_dim=unet.clock_features,
        noise_scheduler_type="DDIM",
        num_inference_steps=policy.config.steps,
        prediction_type={"epsilon": "epsilon", "x0": "sample"}[policy.config.prediction],
        device="cpu",
    )
    model = DiffusionModel(config).eval().requires_grad_(False)
    model.unet.load_state_dict(lerobot_weights(policy.network.state_dict()))
    obs = conditions(1, 0)

    def plan() -> torch.Tensor:
        with torch.no_grad():
            return model.generate_actions(obs)

    plan.unet = model.unet  # type: ignore[attr-defined]
    return plan


def lerobot_weights(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of our U-Net under the names of LeRobot's, which is the same network."""
    parts = {"clock": "diffusion_step_encoder", "down": "down_modules", "middle": "mid_modules", "up": "up_modules", "final": "final_conv"}
    inside = {"first": "conv1.block", "second": "conv2.block", "film": "cond_encoder.1", "residual": "residual_conv"}
    out = {}
    for name, tensor in ours.items():
        part, *rest = name.split(".")
        if part == "final" and rest[0] == "0":
            rest.insert(1, "block")
        out[".".join([parts[part], *(inside.get(word, word) for word in rest)])] = tensor
    return out


def measure_unet(result: Result, repetitions: int, inputs: int, threads: tuple[int, ...] = (1, 2), channels: tuple[int, ...] = CHANNELS) -> None:
    """Add latencies of all formats, in turn with LeRobot's so that what else the machine does falls on all, and deviations."""
    policy = unet_policy(channels)
    plans: dict[str, Callable[[], torch.Tensor]] = {"as trained": planner(policy)}
    try:
        plans[_PEER] = lerobot_planner(policy)
    except ModuleNotFoundError as error:
        result.missing.append(f"{_PEER}: not installed ({error.name}); tests/parity/lerobot_policies.py measures beside it")
    fast = {weights: accelerate(copy.deepcopy(policy), weights) for weights in FORMATS}
    plans |= {f"{weights}, accelerated": planner(one) for weights, one in fast.items()}
    for count in threads:
        with measured() as took:
            times = in_turn(plans, repetitions, count)
        theirs = times.get(_PEER)
        for name in (n for n in plans if n != _PEER):
            for quantile in (50, 99):
                value, peer = (None if t is None else 1e3 * float(np.percentile(t, quantile)) for t in (times[name], theirs))
                target = TARGET if quantile == 50 and name != "as trained" else None
                label = f"published U-Net, {name}, {count} thread{'s' * (count > 1)}, p{quantile}"
                result.rows.append(Row(label, value or 0.0, "ms", _PEER if theirs else None, peer, target, "lower", took.wall_s, took.cpu_s))
    torch.set_num_threads(1)
    for weights, one in fast.items():
        with measured() as took:
            worst, mean = deviation(policy, one, inputs)
        label = f"published U-Net, {weights}, deviation of the chunk over {inputs} inputs"
        result.rows.append(Row(f"{label}, largest", worst, "of the range", target=DEVIATION, better="lower", wall_s=took.wall_s, cpu_s=took.cpu_s))
        result.rows.append(Row(f"{label}, mean", mean, "of the range", better="lower"))
    size = sum(p.numel() for p in policy.network.parameters())
    result.notes.append(f"published U-Net: {size:,} weights, DDIM {policy.config.steps}, chunk {policy.horizon}, {STATE + FEATURES} numbers an observed step")
