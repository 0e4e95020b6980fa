"""Bidirectional decoding (Liu et al. 2024): of many sampled plans, take one that goes on as the last did and that is likely.

Backward: of N samples the K that stay closest to the last plan Y are kept, by sum_i rho^i |a_i - Y_i| over the steps that
both have. Forward: of these, the one with the smallest mean distance to the nearest half of the others kept, minus, with
a weak policy (an early checkpoint), that to the nearest half of the K weak samples that are closest to Y.
"""

from __future__ import annotations

import numpy as np
import pydantic
import torch

from policies.base import Execution, Plan, State
from policies.chunk import ChunkPolicy
from policies.config import Config
from policies.learnt import Batch
from policies.noise import Noise, row_keys
from policies.realtime.method import ExecutionMethod
from policies.realtime.overlap import Overlap
from policies.spec import InputError

_KEYS = 0xB1D  # seed of the keys of single samples


class BidConfig(Config):
    """What bidirectional decoding can be told. Published: 15 samples, a third kept, rho 0.5."""

    samples: pydantic.PositiveInt = 15  # N, plans drawn at once
    keep: pydantic.PositiveInt | None = None  # K, samples that stay in; None: a third
    rho: float = pydantic.Field(default=0.5, gt=0.0, le=1.0)  # weight of a step over that of the one before
    weak: str | None = None  # checkpoint of a weak policy, to keep away from; None: none

    @pydantic.model_validator(mode="after")
    def _keeps_some(self) -> BidConfig:
        if self.keep is not None and self.keep > self.samples:
            raise ValueError(f"keep {self.keep}: expected at most samples, {self.samples}")
        return self

    @property
    def kept(self) -> int:
        """K."""
        return self.keep or max(self.samples // 3, 1)


class Bid(ExecutionMethod):
    """Bidirectional decoding of a chunk policy that samples (diffusion, flow).

    The first plan of a stream has nothing to go on from: all samples stay in. ``plan.info["network_calls"]`` counts
    every sample: N times those of one walk, with a weak policy both; they are made as one batch of B N rows.
    ``backward_loss`` is that of the plan taken, ``prefix_error`` and ``out_of_range`` are as in ``policies.realtime.rtc``.

    Args:
        config: See :class:`BidConfig`.
        policy: The chunk policy.

    Raises:
        InputError: when the weak checkpoint cannot be read or does not plan for the same spec and windows.
    """

    Config = BidConfig
    config: BidConfig

    def __init__(self, config: BidConfig, policy: ChunkPolicy) -> None:
        super().__init__(config, policy)
        self.weak = None if config.weak is None else _weak_policy(config.weak, policy, self._device())

    @torch.no_grad()
    def act(self, obs: Batch, state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See ``policies.base.Policy.act``."""
        self.spec.observation.validate(obs, (len(noise.keys), self.n_obs_steps))
        overlap, last = Overlap.of(self, state, execution), self.continued(obs, state, execution)
        chunks, calls = self._draw(self.policy, obs, noise, 0)
        losses = backward_losses(chunks, last, overlap, self.config.rho)
        kept = self._kept(losses, state["planned"])
        score = nearest_half(distances(chunks, chunks, overlap), kept, skip_self=True)
        if self.weak is not None:
            weak, weak_calls = self._draw(self.weak, obs, noise, 1)
            near = self._kept(backward_losses(weak, last, overlap, self.config.rho), state["planned"])
            score = score - nearest_half(distances(chunks, weak, overlap), near)
            calls += weak_calls
        best = torch.where(kept, score, torch.inf).argmin(1)
        rows = torch.arange(len(best), device=best.device)
        chunk = chunks[rows, best]
        info = {
            "network_calls": chunk.new_full((len(chunk),), calls * self.config.samples),
            "backward_loss": losses[rows, best],
            "prefix_error": overlap.error(chunk, last),
            "out_of_range": overlap.out_of_range.to(chunk.dtype),
        }
        plan, new = self.finish(chunk, obs, info)
        return plan, overlap.remember(new, self.policy.decode(last, obs))

    def _draw(self, policy: ChunkPolicy, obs: Batch, noise: Noise, stream: int) -> tuple[torch.Tensor, int]:
        """Return N chunks a row (B, N, Tp, De), in the normalised units of the strong policy, and the network calls of one."""
        n = self.config.samples
        condition = policy.condition(obs, noise).repeat_interleave(n, 0)
        chunk, calls = policy.generate(condition, _sample_noise(noise, n, stream))
        if policy is not self.policy:
            repeated = {name: value.repeat_interleave(n, 0) for name, value in obs.items()}
            chunk = self.policy.encode(policy.decode(chunk, repeated), repeated)
        return chunk.unflatten(0, (-1, n)), calls

    def _kept(self, losses: torch.Tensor, planned: torch.Tensor) -> torch.Tensor:
        """Return (B, N) bool: the K samples of least loss (B, N); all where there is no plan to go on from."""
        best = losses.topk(self.config.kept, dim=1, largest=False).indices
        return torch.zeros_like(losses, dtype=torch.bool).scatter(1, best, True) | ~planned[:, None]


def backward_losses(chunks: torch.Tensor, last: torch.Tensor, overlap: Overlap, rho: float) -> torch.Tensor:
    """Return (B, N): sum_i rho^i |a_i - Y_i| of chunks (B, N, Tp, De) to ``last`` (B, Tp, De) over present and coming steps that both have."""
    steps = overlap.steps()
    shared = (overlap.known() & (steps >= 0))[:, None]
    apart = torch.linalg.vector_norm(chunks - last[:, None], dim=-1)
    return torch.where(shared, rho ** steps.clamp_min(0) * apart, 0.0).sum(-1)


def distances(a: torch.Tensor, b: torch.Tensor, overlap: Overlap) -> torch.Tensor:
    """Return (B, N, M): the mean distance of present and coming steps between chunks (B, N, Tp, De) and (B, M, Tp, De)."""
    a, b = a[:, :, overlap.now :], b[:, :, overlap.now :]
    return torch.linalg.vector_norm(a[:, :, None] - b[:, None], dim=-1).mean(-1)


def nearest_half(apart: torch.Tensor, members: torch.Tensor, skip_self: bool = False) -> torch.Tensor:
    """Return (B, N): the mean of the smaller half of distances (B, N, M) to ``members`` (B, M) bool; 0 when there are none.

    With ``skip_self`` (N = M), a sample's distance to itself does not count.
    """
    counted = members[:, None].expand_as(apart)
    if skip_self:
        counted = counted & ~torch.eye(apart.shape[1], dtype=torch.bool, device=apart.device)
    ordered = torch.where(counted, apart, torch.inf).sort(-1).values
    half = (counted.sum(-1, keepdim=True) + 1) // 2
    near = torch.arange(apart.shape[2], device=apart.device) < half
    return torch.where(near, ordered, 0.0).sum(-1) / half.squeeze(-1).clamp_min(1)


def _sample_noise(noise: Noise, n: int, stream: int) -> Noise:
    """Return noise of B n rows: sample j of a row depends on the row's key, its draw index and j alone."""
    keys = np.repeat(noise.keys.cpu().numpy(), n)
    return Noise(row_keys(_KEYS, keys, noise.draw, stream, np.tile(np.arange(n), len(noise.keys))), noise.keys.device)


def _weak_policy(folder: str, policy: ChunkPolicy, device: torch.device) -> ChunkPolicy:
    """Load the weak policy. Raises InputError if it is not of the kind of ``policy``."""
    from policies import checkpoint

    weak = checkpoint.load(folder, device)
    if not isinstance(weak, ChunkPolicy):
        raise InputError(f"method bid: weak {folder}: expected a chunk policy, found {type(weak).__name__}")
    expected, found = ((p.spec.fingerprint(), p.n_obs_steps, p.horizon) for p in (policy, weak))
    if expected != found:
        raise InputError(f"method bid: weak {folder}: expected spec, n_obs_steps and horizon {expected}, found {found}")
    return weak
