"""Energy policy (EBT-Policy): descends a learnt energy from noise to a chunk of actions, for as long as each row needs.

Acting: y <- y - alpha dE(y, o)/dy from y ~ N(0, I), until the slope is small; alpha is a weight like any other. Training
``denoise`` (equilibrium matching, Wang & Du 2025): y_g = (1 - g) A + g eps, and the slope of the energy at y_g becomes
min(1, g / near) (eps - A), which points away from the data and ends there. Training ``mse`` (Gladstone et al. 2025,
"Energy-based transformers") descends from noise and squares the distance to the demonstration; what starts from noise that
knows nothing of the demonstration can but learn its mean, so modes are averaged. It is kept to show that.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import pydantic
import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from policies.base import Execution, Plan, State
from policies.chunk import ChunkConfig, ChunkPolicy
from policies.learnt import Batch, row_errors
from policies.networks.energy import ChunkEnergy, ObservationEnergy
from policies.noise import Noise
from policies.normalize import Normalizer
from policies.spec import Spec


class EnergyConfig(ChunkConfig):
    """What an energy policy can be told."""

    objective: Literal["denoise", "mse"] = "denoise"
    max_steps: pydantic.PositiveInt = 20  # of the descent; mse: also in training, published 2 to 3
    min_slope: pydantic.NonNegativeFloat = 0.05  # a row is done once the root mean square of dE/dy is below this
    near: float = pydantic.Field(default=0.2, gt=0, le=1)  # share of noise from which on slopes fall to 0 (denoise)
    step_size: pydantic.PositiveFloat = 0.2  # alpha before training
    through_steps: bool = False  # mse: pass gradients from step to step; published: each step alone
    observation_noise: pydantic.PositiveFloat = 2.0  # largest deviation of noise on observations, normalised units: what unfamiliar means


def _recorded() -> bool:
    """Whether a graph is being recorded, which cannot end early: there, rows that are done stand still to the last step."""
    return torch.compiler.is_compiling() or get_proxy_mode() is not None


class Descent(NamedTuple):
    """What a descent came to.

    Attributes:
        chunk: (B, Tp, De), normalised.
        steps: (B,) int64 steps taken.
        energies: (looks, B) energy at every point that was looked at; a row that is done repeats its last.
    """

    chunk: torch.Tensor
    steps: torch.Tensor
    energies: torch.Tensor


class EnergyPolicy(ChunkPolicy):
    """Energy-based action chunks, with an energy of the observations that says how unfamiliar they are."""

    Config = EnergyConfig
    config: EnergyConfig

    def __init__(self, config: EnergyConfig, spec: Spec, normalizer: Normalizer) -> None:
        super().__init__(config, spec, normalizer)
        self.network = ChunkEnergy(self.network)
        self.observation_energy = ObservationEnergy(config.n_obs_steps * self.features, 256)
        self.log_step_size = torch.nn.Parameter(torch.tensor(math.log(config.step_size)))

    # --- the energy ---------------------------------------------------------------------------------------------------

    def slope(self, chunk: torch.Tensor, condition: torch.Tensor, real: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the energy (B,) and its gradient by the chunk (B, Tp, De).

        Args:
            chunk: (B, Tp, De), normalised.
            condition: (B, To, C), normalised.
            real: (B, Tp) weights of the steps; None: all 1.
        """

        def total(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            steps = self.network(y, condition)
            energy = (steps if real is None else steps * real).sum(1)
            return energy.sum(), energy

        gradient, energy = torch.func.grad(total, has_aux=True)(chunk)
        return energy, gradient

    def step_size(self, energy: torch.Tensor) -> torch.Tensor:
        """Return alpha, a scalar or (B, 1, 1), ready to multiply a chunk.

        ``mse``: larger where the energy is high, alpha exp(tanh E), so within a factor e of alpha; EBT-Policy's exp(E) has
        no bound. ``denoise``: alpha itself, since there the slope near the data is known, 1 / ``near``.
        """
        alpha = self.log_step_size.exp()
        if self.config.objective == "denoise":
            return alpha
        return alpha * torch.exp(torch.tanh(energy / (self.config.horizon * self.transform.dim)))[:, None, None]

    # --- acting -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Batch, state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See base class; more is in ``plan.info``, each (B,).

        That is the ``energy`` of the chunk, and ``unfamiliarity``, about how far the observation is from those of training, in
        normalised units (standard deviations with ``mean_std``).
        """
        self.spec.observation.validate(obs, (len(noise.keys), self.n_obs_steps))
        condition = self.condition(obs, noise)
        descent = self.descend(self.start(condition, noise), condition)
        now = self.n_obs_steps - 1
        info = {
            "network_calls": descent.steps.to(condition.dtype) + 1,
            "energy": descent.energies[-1],
            "unfamiliarity": self.unfamiliarity(condition),
        }
        return Plan(self.decode(descent.chunk, obs)[:, now : now + self.n_action_steps], info), state

    def generate(self, condition: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, int]:
        """Return a chunk (B, Tp, De) for ``condition`` (B, To, C), both normalised, and the network calls of the longest row."""
        descent = self.descend(self.start(condition, noise), condition)
        return descent.chunk, int(descent.steps.max()) + 1

    def start(self, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return where descents begin, N(0, I) of (B, Tp, De)."""
        return noise.normal(self.config.horizon, self.transform.dim).to(condition.dtype)

    def descend(self, chunk: torch.Tensor, condition: torch.Tensor) -> Descent:
        """Descend from ``chunk`` (B, Tp, De); a row that is done stays where it is, whatever the others do.

        At every look the slope is computed for all rows. A row whose root mean square slope is at most ``min_slope``, or
        that has taken ``max_steps``, is done; the rest take a step. Rows are never compacted, so that what a row
        computes does not hang on its batch.
        """
        steps = torch.zeros(len(chunk), dtype=torch.int64, device=chunk.device)
        running = torch.ones_like(steps, dtype=torch.bool)
        energies: list[torch.Tensor] = []
        for look in range(self.config.max_steps + 1):
            energy, gradient = self.slope(chunk, condition)
            energies.append(torch.where(running, energy, energies[-1]) if energies else energy)
            running = running & (gradient.square().mean((1, 2)).sqrt() > self.config.min_slope)
            if look == self.config.max_steps or not (_recorded() or running.any()):
                break
            chunk = torch.where(running[:, None, None], chunk - self.step_size(energy) * gradient, chunk)
            steps = steps + running
        return Descent(chunk, steps, torch.stack(energies))

    def unfamiliarity(self, condition: torch.Tensor) -> torch.Tensor:
        """Return (B,) for ``condition`` (B, To, C): the distance whose half square is the energy of the observation."""
        return (2 * self.observation_energy(condition)).sqrt()

    # --- training -----------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, noise: Noise) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss (a scalar) of the chunk's energy plus that of the observation's, and both; see base class."""
        condition = self.condition(batch, noise)
        chunk = self.encode(batch["action"], batch)
        real = (~batch["action_is_pad"]).to(chunk.dtype) if self.config.mask_padding else torch.ones_like(chunk[..., 0])
        errors = self.errors(chunk, condition, noise, real)
        chunks = (errors * real[..., None]).sum() / (real.sum() * errors.shape[-1])
        observations = self.observation_errors(condition.detach(), noise).mean()
        metrics = {"chunk_loss": chunks.detach(), "observation_loss": observations.detach(), "step_size": self.log_step_size.detach().exp()}
        return chunks + observations, {**metrics, **row_errors(errors, batch)}

    def errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise, real: torch.Tensor | None = None) -> torch.Tensor:
        """Return squared errors (B, Tp, De), normalised; steps where ``real`` (B, Tp) is 0 have no energy."""
        if self.config.objective == "mse":
            return self._descent_errors(chunk, condition, noise, real)
        return self._slope_errors(chunk, condition, noise, real)

    def _slope_errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise, real: torch.Tensor | None) -> torch.Tensor:
        """Squared errors of the slope at a noised demonstration, and of where a step from near the data ends.

        The second teach the step size alone: its minimum is the step that lands on the data from ``near`` at once, which
        is also small enough for a descent from far away to follow the field.
        """
        share, z = noise.uniform(1, 1).to(chunk.dtype), noise.normal(*chunk.shape[1:]).to(chunk.dtype)
        noised = torch.lerp(chunk, z, share)
        energy, gradient = self.slope(noised, condition, real)
        far = (share / self.config.near).clamp_max(1.0)
        landed = noised - self.step_size(energy) * gradient.detach()
        return (gradient - far * (z - chunk)) ** 2 + (share < self.config.near) * (landed - chunk) ** 2

    def _descent_errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise, real: torch.Tensor | None) -> torch.Tensor:
        """Squared distances to the demonstration after each of ``max_steps`` steps from noise, their mean."""
        y = self.start(condition, noise)
        errors = torch.zeros_like(chunk)
        for _ in range(self.config.max_steps):
            y = y if self.config.through_steps else y.detach()
            energy, gradient = self.slope(y, condition, real)
            y = y - self.step_size(energy) * gradient
            errors = errors + (y - chunk) ** 2
        return errors / self.config.max_steps

    def observation_errors(self, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return squared errors (B, To C) of the slope of the observation's energy at a noised ``condition`` (B, To, C).

        The slope is to be the noise, so that the energy grows with the distance from what was seen. The noise has a
        deviation of its own in every row and falls on a random part of the features, all observed steps alike: what a
        moved object or a lost sensor does.
        """
        features = condition.shape[-1]
        deviation, share = noise.uniform(2).split(1, 1)
        hit = noise.uniform(features) < share
        shift = (self.config.observation_noise * deviation * hit * noise.normal(features)).to(condition.dtype)
        noised = condition + shift[:, None]
        gradient: Any = torch.func.grad(lambda o: self.observation_energy(o).sum())(noised)
        return (gradient - shift[:, None]).square().flatten(1)
