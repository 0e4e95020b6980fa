"""Real-time chunking (Black et al. 2025): a new plan is guided to go on where the old one, still being played, will be.

While a plan is computed, d steps of the last one are played; the new plan takes over after them. Each step of the walk
from noise to data is steered towards the last plan Y with pseudo-inverse guidance (Song et al. 2023, "Pseudoinverse-guided
diffusion models for inverse problems"): fully for the d steps, ever less up to the last step that Y has.

On a flow, with x1 = x + (1 - t) v the estimate of the data: v + min(beta, (1 - t) / t (t^2 + (1 - t)^2) / (1 - t)^2) g.

==============  ===========================================  ======================================
``form``        g                                            cost of one step
==============  ===========================================  ======================================
``vjp``         J^T W (Y - x1), J = dx1/dx; the paper        network forward and backward, about 3 x
``identity``    W (Y - x1): J taken for the identity         network forward
==============  ===========================================  ======================================

Any other path a data + b noise is the flow at time t = a / (a + b), seen through x / (a + b) (:func:`strength`), so
diffusion policies are guided by the same rule. There, without beta's bound, data moves by (a^2 + b^2) / a J^T W (Y - data),
which is Song et al.'s step with the posterior variance r^2 = b^2 / (a^2 + b^2) of data of unit variance. Normalised
actions spread less, most of all with min_max; ``deviation`` c makes it r^2 = c^2 b^2 / (c^2 a^2 + b^2), so guidance is stronger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import pydantic
import torch

from policies.base import Execution, Plan, State
from policies.chunk import ChunkPolicy
from policies.config import Config
from policies.generative.paths import Estimate, Level, NoisePath, spread
from policies.generative.policy import GenerativePolicy
from policies.generative.samplers import Model
from policies.learnt import Batch
from policies.noise import Noise
from policies.realtime.method import ExecutionMethod
from policies.realtime.overlap import Overlap
from policies.spec import InputError

Form = Literal["vjp", "identity"]


class RtcConfig(Config):
    """What real-time chunking can be told."""

    form: Form = "vjp"  # vjp: the paper's, true vector-Jacobian product; identity: the error itself, cheaper
    beta: pydantic.NonNegativeFloat = 5.0  # bound of the guidance; 0: none, plans as the policy's own
    deviation: pydantic.PositiveFloat = 1.0  # of normalised actions, taken for granted by the guidance; published: 1


class Rtc(ExecutionMethod):
    """Real-time chunking of a generative policy (diffusion, flow).

    ``plan.info`` also holds ``prefix_error``, the largest difference to the committed steps (normalised units; actions
    have a range of 2 with min_max), ``out_of_range``, 1 where d <= s <= H - d does not hold (see ``Overlap``), and
    ``backward_calls`` of the network. Rows without a last plan are not guided.

    Args:
        config: See :class:`RtcConfig`.
        policy: A generative policy.

    Raises:
        InputError: for a policy that does not walk from noise to data.
    """

    Config = RtcConfig
    config: RtcConfig
    policy: GenerativePolicy

    def __init__(self, config: RtcConfig, policy: ChunkPolicy) -> None:
        super().__init__(config, policy)
        if not isinstance(policy, GenerativePolicy):
            raise InputError(f"method rtc: expected a generative policy, such as diffusion or flow, found {type(policy).__name__}")

    @torch.no_grad()
    def act(self, obs: Batch, state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See ``policies.base.Policy.act``; ``execution`` gives d (delay or frozen) and s (elapsed)."""
        policy, config = self.policy, self.config
        self.spec.observation.validate(obs, (len(noise.keys), self.n_obs_steps))
        overlap, last = Overlap.of(self, state, execution), self.continued(obs, state, execution)
        steer = partial(guided, path=policy.path, last=last, weights=prefix_weights(overlap), config=config, clip=policy.clip)
        chunk, calls = policy.walk(policy.condition(obs, noise), noise, steer=steer if config.beta else None)
        backward = calls if config.beta and config.form == "vjp" else 0
        info = {
            "network_calls": chunk.new_full((len(chunk),), calls),
            "backward_calls": chunk.new_full((len(chunk),), backward),
            "prefix_error": overlap.error(chunk, last),
            "out_of_range": overlap.out_of_range.to(chunk.dtype),
        }
        plan, new = self.finish(chunk, obs, info)
        return plan, overlap.remember(new, policy.decode(last, obs))


def prefix_weights(overlap: Overlap) -> torch.Tensor:
    """Return W (B, Tp) float32: 1 up to the last committed step, then w (e^w - 1) / (e - 1), then 0 where the last plan ends.

    w = (H - s - i) / (H - s - d + 1) falls linearly over the steps i from d on (Black et al. 2025, eq. 5).
    """
    steps, d, end = overlap.steps(), overlap.committed[:, None], overlap.length[:, None].clamp_min(0)
    w = ((end - steps) / (end - d + 1)).clamp(0.0, 1.0)
    return torch.where(overlap.known(), w * torch.expm1(w) / (math.e - 1.0), 0.0)


def strength(path: NoisePath, t: Level, beta: float, deviation: float = 1.0) -> Level:
    """Return how far the data estimate moves along g at level ``t``: (1 - tau) min(beta, (tau^2 + (1 - tau)^2 / c^2) / (tau (1 - tau))).

    tau = a / (a + b) is the time at which the straight path of a flow has the same share of data and noise; a velocity
    that changes by dv moves the estimate of the data by (1 - tau) dv. At pure noise the bound is beta. c: ``deviation``.
    """
    a, b = path.scales(t)
    tau = a / (a + b)
    ideal, mixed = tau**2 + ((1.0 - tau) / deviation) ** 2, tau * (1.0 - tau)
    if isinstance(tau, torch.Tensor):
        return (1.0 - tau) * torch.as_tensor(ideal / mixed).clamp(max=beta)
    return (1.0 - tau) * (min(beta, ideal / mixed) if mixed > 0.0 else beta)


def guided(model: Model, path: NoisePath, last: torch.Tensor, weights: torch.Tensor, config: RtcConfig, clip: float | None = None) -> Model:
    """Return ``model`` steered towards ``last``; rows of weight 0 come out as they are.

    Args:
        model: What x is made of.
        path: Its noise path.
        last: Y (B, Tp, De), normalised; not looked at where the weight is 0.
        weights: W (B, Tp).
        config: Form and bound of the guidance.
        clip: Bound of the data, which guidance does not leave either; None: none.
    """
    share = weights[..., None]

    def error(data: torch.Tensor) -> torch.Tensor:
        return torch.where(share > 0.0, share * (last - data), 0.0)

    def steered(x: torch.Tensor, t: Level) -> Estimate:
        (a, b), gain = path.scales(t), strength(path, t, config.beta, config.deviation)
        if config.form == "identity":
            data, noise = model(x, t)
            pull = error(data)
        else:
            data, noise, pull = _product(model, x, t, error)
            gain = gain * (a + b)  # J in x / (a + b), as of the flow
        moved = data + spread(gain, x) * pull
        if clip is not None:
            moved = moved.clamp(-clip, clip)
        return Estimate(moved, noise - spread(a / b, x) * (moved - data))  # together they still make up x

    return steered


def _product(model: Model, x: torch.Tensor, t: Level, error: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return data, noise and J^T error(data) with J = d data / dx, all (B, Tp, De), detached."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        estimate = model(leaf, t)
        (pull,) = torch.autograd.grad(estimate.data, leaf, error(estimate.data.detach()))
    return estimate.data.detach(), estimate.noise.detach(), pull
