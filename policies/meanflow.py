"""MeanFlow policy: learns the mean velocity between any two times of a flow, so that one network call crosses all of it.

Geng et al. 2025, "Mean flows for one-step generative modeling", in this house's direction of time: noise at t = 0, data
at t = 1, x_t = t A + (1 - t) z with velocity v = A - z. The mean velocity from t to a later r, and how far it carries:

    u(x_t, t, r) = 1 / (r - t) integral of v(x_s, s) ds over [t, r],        x_r = x_t + (r - t) u(x_t, t, r).

Differentiating (r - t) u along the flow, with r fixed, gives what training makes true (theirs has the other sign: their
time runs towards the noise):

    u = v + (r - t) du/dt,        du/dt = (v . d/dx + d/dt) u, a Jacobian-vector product with tangent (v, 1, 0) of (x, t, r).

At r = t it is flow matching. The right-hand side is a constant to the gradient.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import ClassVar, Literal

import pydantic
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from policies.chunk import ChunkConfig
from policies.generative.paths import Estimate, Level, LinearPath, spread
from policies.generative.policy import GenerativePolicy, Steer, WarmStart
from policies.generative.robust import tempered
from policies.generative.samplers import Euler, Model, Solver
from policies.generative.translate import rows
from policies.learnt import Batch
from policies.networks.embedding import ClockEmbedding
from policies.noise import Noise
from policies.normalize import Normalizer
from policies.spec import Spec

_CLOCK = 10.0  # of networks, per unit of time: a tenth of the flow policy's. Faster sines have derivatives that drown the rest
_FLOW_STEPS = 10  # least steps of a walk along the velocity of the moment, those of the flow policy
_FLOOR = 0.03  # root mean square error below which samples count as squared errors: c = 1e-3 of the paper


class MeanFlowConfig(ChunkConfig):
    """What a MeanFlow policy can be told."""

    steps: pydantic.PositiveInt = 1  # network calls per chunk
    intervals: float = pydantic.Field(default=0.5, ge=0, le=1)  # share of training samples with r > t; the others train the velocity itself
    time: Literal["uniform", "logit_normal"] = "uniform"  # of t and r in training; logit_normal (0.4, 1): the published one, seldom near the ends
    weight_power: float = pydantic.Field(default=0.5, ge=0, le=1)  # p of its weight 1 / (d^2 + c)^p; 0, squared errors, misses both sides of a coin

    @property
    def input_skip(self) -> bool:
        """See base class: a velocity holds the noise."""
        return True


class MeanFlowPolicy(GenerativePolicy):
    """Mean velocities over action chunks."""

    Config = MeanFlowConfig
    config: MeanFlowConfig

    path = LinearPath()
    prediction = "velocity"
    jumps = True
    extra_features: ClassVar[int] = 32  # tell the network how far the interval reaches

    def __init__(self, config: MeanFlowConfig, spec: Spec, normalizer: Normalizer) -> None:
        super().__init__(config, spec, normalizer)
        self.reach = ClockEmbedding(self.extra_features)

    @property
    def solver(self) -> Solver:
        """See base class: of walks that are steered."""
        return Euler()

    @property
    def steps(self) -> int:
        """See base class."""
        return self.config.steps

    def mean_velocity(self, x: torch.Tensor, t: torch.Tensor, r: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return u (B, Tp, De) from ``x`` (B, Tp, De) at time ``t`` (B,) until ``r`` (B,), for ``condition`` (B, To, C), normalised."""
        reach = self.reach(_CLOCK * (r - t))[:, None].expand(-1, condition.shape[1], -1)
        return self.network(x, _CLOCK * t, torch.cat([condition, reach.to(condition.dtype)], -1))

    def model(self, condition: torch.Tensor) -> Model:
        """See base class: for chunks (B, Tp, De) the velocity of this moment, u with r = t, which makes a flow policy of this one."""

        def estimate(x: torch.Tensor, t: Level) -> Estimate:
            now = rows(t, x).to(x.dtype)
            return self.path.estimate(self.prediction, self.mean_velocity(x, now, now, condition), x, t)

        return estimate

    def walk(
        self, condition: torch.Tensor, noise: Noise, *, start: WarmStart | None = None, steer: Steer | None = None, steps: int | None = None
    ) -> tuple[torch.Tensor, int]:
        """See base class; returns (B, Tp, De): each step is one mean velocity.

        A walk that is steered, or whose start brings a solver, follows the velocity of the moment instead, from pure noise in as many
        steps as a flow needs: one alone would end at the mean of all routes.
        """
        if steer is not None or (start is not None and start.solver is not None):
            return super().walk(condition, noise, start=start, steer=steer, steps=steps or max(self.steps, _FLOW_STEPS))
        z = noise.normal(self.config.horizon, self.transform.dim).to(condition.dtype)
        levels = self.path.step_list(steps or self.steps) if start is None else tuple(start.levels)
        x = z if start is None else self.path.mix(start.plan, z, levels[0])
        for t, r in itertools.pairwise(levels):
            now, then = (x.new_full((x.shape[0],), time) for time in (t, r))
            x = x + (r - t) * self.mean_velocity(x, now, then, condition)
        return x, len(levels) - 1

    def errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return squared errors (B, Tp, De) of the mean velocity between two random times a row, normalised."""
        t, r = self.times(noise)
        z = noise.normal(*chunk.shape[1:])
        velocity = self.path.target("velocity", chunk, z, t)
        found, change = self.with_change(self.path.mix(chunk, z, t), t, r, velocity, condition)
        target = velocity + spread(r - t, chunk) * change.detach()
        return (found - target) ** 2

    def average(self, errors: torch.Tensor, batch: Batch) -> torch.Tensor:
        """See base class; a scalar, with the adaptive weight of each sample."""
        real = ~batch["action_is_pad"] if self.config.mask_padding else None
        return super().average(tempered(errors, self.config.weight_power, _FLOOR, real), batch)

    def with_change(
        self, x: torch.Tensor, t: torch.Tensor, r: torch.Tensor, velocity: torch.Tensor, condition: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return u and du/dt, both (B, Tp, De), as x (B, Tp, De) moves with ``velocity`` (B, Tp, De) and r stays."""

        def u(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.mean_velocity(x, t, r, condition)

        # On processors GroupNorm in bfloat16 has a forward derivative in float32, which the next convolution refuses.
        whole = x.device.type == "cpu" and self.config.backbone == "unet"
        precision = torch.autocast("cpu", enabled=False) if whole else contextlib.nullcontext()
        with precision, sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward derivative
            found, change, *_ = torch.func.jvp(u, (x, t), (velocity, torch.ones_like(t)))
        return found, change

    def times(self, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw training times t <= r, each (B,), 0 noise to 1 data; equal in all but a share ``intervals`` of the rows."""
        both = noise.uniform(2) if self.config.time == "uniform" else torch.sigmoid(noise.normal(2) + 0.4)
        t, r = both.amin(1), both.amax(1)
        apart = noise.uniform() < self.config.intervals
        return torch.where(apart, t, both[:, 0]), torch.where(apart, r, both[:, 0])
