"""What a network sees of the worlds: the states that it reads as one normalised vector, with statistics that go on between updates.

The statistics stand still while a rollout is made and learnt from: the probabilities of actions then and now are of the same
inputs, and their ratio tells of the policy alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from policies.networks.observation import ObservationEncoder
from policies.noise import Noise
from policies.normalize import Normalizer
from policies.spec import Spec
from robopolicy.training.trial_processes import Moments, Processes

_LEAST = 1e-2  # added to every deviation: a state that hardly moves is not blown up (rsl_rl)


class RunningMoments:
    """Mean and variance of all rows so far, merged block by block (Chan, Golub and LeVeque 1983).

    Args:
        shape: Of a row.
        device: Where rows are.

    Attributes:
        tensors: ``count`` (), ``mean`` and ``variance`` (*shape), float64: what a training state keeps.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        exact = {"dtype": torch.float64, "device": device}
        self.tensors = {"count": torch.zeros((), **exact), "mean": torch.zeros(shape, **exact), "variance": torch.ones(shape, **exact)}

    def merge(self, block: Moments) -> None:
        """Take in the moments of more rows."""
        count, mean, variance = self.tensors.values()
        total = count + block.count
        shift, share = block.mean - mean, block.count / total
        variance.copy_(variance * (1.0 - share) + block.variance * share + shift.square() * (share * (1.0 - share)))
        mean.add_(shift * share)
        count.copy_(total)

    @property
    def deviation(self) -> torch.Tensor:
        """(*shape) float64; 1 before the first row."""
        return self.tensors["variance"].sqrt()


class Sight:
    """Maps observations to the input of one network.

    Args:
        encoder: Of the network.
        normalizer: Changed in place by :meth:`learn`.
        spec: What the worlds offer.
        device: Where the network is.
    """

    def __init__(self, encoder: ObservationEncoder, normalizer: Normalizer, spec: Spec, device: torch.device) -> None:
        self.encoder, self.normalizer = encoder, normalizer
        self.shapes = {name: spec.observation.fields[name].shape for name in encoder.states}
        self.width = sum(torch.Size(shape).numel() for shape in self.shapes.values())
        self.moments = RunningMoments((self.width,), device)

    def vector(self, obs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the normalised states (B, S) of ``obs``, field -> (B, *shape), robot units."""
        if not self.encoder.states:
            return torch.zeros(len(next(iter(obs.values()))), 0, device=self.moments.tensors["mean"].device)
        return self.encoder.vector(obs, self.normalizer)

    def features(self, vector: torch.Tensor, images: Mapping[str, torch.Tensor], noise: Noise) -> torch.Tensor:
        """Return the network's input (B, F) for normalised states (B, S) and images, field -> (B, H, W, 3)."""
        return vector if not self.encoder.images else self.encoder.joined(vector if self.width else None, images, noise)

    def learn(self, vectors: torch.Tensor, processes: Processes) -> None:
        """Take normalised states (B, S), of the statistics so far, into them, and normalise by the new ones from now on."""
        if not self.width:
            return
        seen = processes.moments(vectors)
        offset, scale = self._map()
        self.moments.merge(Moments(seen.count, offset + scale * seen.mean, scale.square() * seen.variance))
        mean, deviation = self.moments.tensors["mean"], self.moments.deviation + _LEAST
        at = 0
        for name, shape in self.shapes.items():
            size = torch.Size(shape).numel()
            self.normalizer.refit(name, mean[at : at + size].view(shape), deviation[at : at + size].view(shape))
            at += size

    def _map(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return offset and scale (S,) float64 of the present normaliser."""
        parts, exact = self.normalizer.tensors(), self.moments.tensors["mean"]
        offset, scale = (torch.cat([parts[f"{name}.{part}"].flatten() for name in self.shapes]).to(exact) for part in ("offset", "scale"))
        return offset, scale


class ReturnScale:
    """The running deviation of discounted returns, by which rewards or the critic's steps are measured.

    Engstrom et al. 2020, "Implementation matters in deep policy gradients": rewards are divided by the deviation of
    R_t = r_t + gamma R_{t-1}, which begins anew with every episode.

    Args:
        worlds: N, of this process.
        gamma: Discount.
        device: Where rewards are.
    """

    def __init__(self, worlds: int, gamma: float, device: torch.device) -> None:
        self._gamma, self.moments = gamma, RunningMoments((), device)
        self._return = torch.zeros(worlds, dtype=torch.float64, device=device)

    def begin(self) -> None:
        """Note that all worlds begin anew."""
        self._return.zero_()

    def learn(self, reward: torch.Tensor, ended: torch.Tensor, processes: Processes) -> None:
        """Take in the rewards (T, N) of a rollout, with the flags (T, N) bool of what ended."""
        seen, going = torch.empty(reward.shape, dtype=torch.float64, device=reward.device), (~ended).double()
        for t in range(len(reward)):
            self._return.mul_(self._gamma).add_(reward[t])
            seen[t] = self._return
            self._return.mul_(going[t])
        self.moments.merge(processes.moments(seen.flatten()))

    @property
    def deviation(self) -> float:
        """Of discounted returns so far."""
        return float(torch.sqrt(self.moments.tensors["variance"] + 1e-8))
