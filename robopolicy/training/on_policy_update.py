"""What is learnt from one rollout: values and advantages, then a few passes of minibatches over policy and critic.

The rate of the adaptive schedule follows the divergence that a minibatch finds between the policy that acted and the present one
(Schulman et al. 2017, section 4, a minibatch at a time as in rsl_rl): above twice the target it is divided by 1.5, below half of
it multiplied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from policies.distributions import Gaussian
from policies.networks.perceptron import weights_of
from policies.noise import Noise
from robopolicy.algos.advantages import gae
from robopolicy.algos.rule import OnPolicyRule, PolicyStep
from robopolicy.algos.value import Critic
from robopolicy.training.flat_weights import FlatWeights
from robopolicy.training.on_policy_config import OnPolicyTraining
from robopolicy.training.rollout import CROPS, Arrays, Minibatch, Rollout, order_seed
from robopolicy.training.sight import ReturnScale, Sight
from robopolicy.training.trial_processes import Processes

_RATE_STEP, _FAR, _NEAR = 1.5, 2.0, 0.5  # of the adaptive schedule
_ADAM_EPSILON = 1e-5  # as PPO has had it from its first implementation on
_FEW = 1024  # images at once through a critic
_SUMS = ("loss", "value_loss", "entropy", "kl", "clip_share", "ratio_deviation", "grad_norm", "value_grad_norm")

#: A loss beside the rule's: minibatch and the policy's distribution in its samples -> (B,).
ExtraLoss = Callable[[Minibatch, Gaussian], torch.Tensor]


def adapted(rate: float, kl: float, target: float, limits: tuple[float, float]) -> float:
    """Return the learning rate after a minibatch with divergence ``kl``, nat; one that is 0 or not a number changes nothing."""
    if kl > _FAR * target:
        return max(limits[0], rate / _RATE_STEP)
    if 0.0 < kl < _NEAR * target:
        return min(limits[1], rate * _RATE_STEP)
    return rate


def value_loss(value: torch.Tensor, before: torch.Tensor, returns: torch.Tensor, clip: float | None) -> torch.Tensor:
    """Return squared errors (B,) of values; with ``clip``, the larger of that and of the value kept within ``clip`` of what it was."""
    free = (value - returns).square()
    return free if clip is None else torch.maximum(free, (before + (value - before).clamp(-clip, clip) - returns).square())


@dataclass
class Updater:
    """Policy, critic and what changes them.

    Attributes:
        config: The recipe's section ``training``.
        seed: Of the recipe.
        rule: Says what makes an action more or less likely.
        policy: Gaussian.
        critic: None for a rule that learns no values.
        sights: ``policy``, ``critic`` -> what that network sees.
        scale: Of discounted returns.
        processes: Those that share the worlds.
        augment: Makes more samples of a minibatch (mirrored ones behind its own), or None.
        extra: Losses beside the rule's.
        worlds: Indices of the worlds of this process.
        sums: Means over the last pass, on the device: see :meth:`metrics`.
        optimizer: Over the weights of both.
    """

    config: OnPolicyTraining
    seed: int
    rule: OnPolicyRule
    policy: Any
    critic: Critic | None
    sights: dict[str, Sight]
    scale: ReturnScale
    processes: Processes
    worlds: range
    augment: Callable[[Minibatch], Minibatch] | None = None
    extra: list[ExtraLoss] = field(default_factory=list)
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(len(_SUMS)))
    largest: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def __post_init__(self) -> None:
        self._weights = [FlatWeights(weights_of([module])) for module in (self.policy, self.critic) if module is not None]
        self.optimizer = torch.optim.Adam([own.flat for own in self._weights], lr=self.config.lr, eps=_ADAM_EPSILON, fused=True)
        self._sequences = bool(getattr(self.policy, "recurrent", False))

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    @rate.setter
    def rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    @torch.no_grad()
    def estimate(self, rollout: Rollout) -> None:
        """Add to ``rollout`` the log probability of its actions, values, advantages (normalised over all processes) and returns."""
        held, ended = rollout.tensors, rollout.terminated | rollout.truncated
        law = Gaussian(held["mean"], held["log_std"] if rollout.log_std is None else rollout.log_std)
        held["log_prob"] = law.log_prob(held["action"])
        self.scale.learn(rollout.reward, ended, self.processes)
        if self.critic is None:
            held |= {name: torch.zeros_like(rollout.reward) for name in ("value", "advantage", "returns")}
            return
        reward = rollout.reward / self.scale.deviation if self.config.normalize_rewards else rollout.reward
        held["value"] = self._values(held, held["keys"])
        successor = torch.cat([held["value"][1:], torch.zeros_like(held["value"][:1])])
        successor[-1] = self._values({"critic": rollout.last["critic"], **_images(rollout.last)}, held["keys"][-1])
        self._put_ended(successor, rollout)
        raw = gae(reward, held["value"], successor, rollout.terminated, rollout.truncated, self.config.gamma, self.config.gae_lambda)
        moments = self.processes.moments(raw.flatten())
        held["returns"] = raw + held["value"]
        held["advantage"] = (raw - moments.mean.to(raw)) / (moments.variance.sqrt().to(raw) + 1e-8)

    def improve(self, rollout: Rollout, iteration: int, progress: float) -> None:
        """Make ``config.epochs`` passes over ``rollout``."""
        config = self.config
        clip = None if config.value_clip is None else config.value_clip * (1.0 if config.normalize_rewards else self.scale.deviation)
        self.sums, self.largest = torch.zeros(len(_SUMS), device=self.processes.device), torch.zeros((), device=self.processes.device)
        for epoch in range(config.epochs):
            order, last = order_seed(self.seed, iteration, epoch), epoch == config.epochs - 1
            parts = rollout.minibatches(config.minibatches, order, self.worlds, config.worlds, self._sequences)
            for number, batch in enumerate(parts):
                first = epoch == number == 0  # where the policy is still the one that acted: its divergence is rounding
                self._step(batch, clip, progress, last, config.schedule == "adaptive" and not first)

    def metrics(self) -> dict[str, float]:
        """Return means over the last pass of the last update: losses, entropy, KL, ratios, norms of gradients."""
        largest = torch.zeros(self.processes.count, device=self.processes.device)
        largest[self.processes.rank] = self.largest
        self.processes.sum_(largest)
        means = (self.sums / self.config.minibatches).tolist()
        return {**dict(zip(_SUMS, means, strict=True)), "ratio_deviation_max": float(largest.max())}

    def _step(self, batch: Minibatch, clip: float | None, progress: float, counted: bool, adaptive: bool) -> None:
        """Learn from one minibatch; ``counted``: add to the metrics."""
        for own in self._weights:
            own.zero()
        seen = torch.zeros(len(_SUMS) - 2, device=self.processes.device)
        if batch.share > 0.0:
            loss, seen = self._loss(batch, clip, progress, counted, adaptive)
            (loss * batch.share).backward()
            seen = seen * batch.share
        self.processes.sum_gradients([own.flat for own in self._weights], also=[seen])
        if adaptive:
            self.rate = adapted(self.rate, float(seen[3]), self.config.target_kl, self.config.lr_range)
        norms = [own.clip(self.config.gradient_clip) for own in self._weights]
        self.optimizer.step()
        if counted:
            self.sums += torch.cat([seen, torch.stack(norms), seen.new_zeros(2 - len(norms))])

    def _loss(self, batch: Minibatch, clip: float | None, progress: float, counted: bool, adaptive: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean loss over ``batch`` and what is to be known of it: see ``_SUMS``."""
        config, own = self.config, batch.old_log_prob.numel()
        if self.augment is not None:
            batch = self.augment(batch)
        law = self._law(batch)
        if self._sequences:
            law, batch = Gaussian(law.mean.flatten(0, 1), _rows(law.log_std)), _flat(batch)
        log_ratio = law.log_prob(batch.action) - batch.old_log_prob
        ratio = log_ratio.exp()
        step = PolicyStep(law, batch.old, batch.action, ratio, batch.advantage, progress, batch.labels)
        rows = self.rule.policy_loss(step)
        for extra in self.extra:
            rows = rows + extra(batch, law)
        policy_loss = loss = rows.mean()
        if config.entropy_weight:
            loss = loss - config.entropy_weight * law.entropy().mean()
        values = loss.new_zeros(())
        if self.critic is not None:
            value = self.critic(self.sights["critic"].features(batch.vectors["critic"], batch.images, self._noise(batch)))
            values = value_loss(value, batch.value, batch.returns, clip).mean()
            loss = loss + config.value_weight * values
        with torch.no_grad():
            seen = loss.new_zeros(len(_SUMS) - 2)
            if adaptive or counted:
                # of the samples themselves, not of those made of them
                seen[3] = (
                    Gaussian(*(_head(x, own) for x in (batch.old.mean, batch.old.log_std)))
                    .kl(Gaussian(*(_head(x, own) for x in (law.mean, law.log_std))))
                    .mean()
                )
            if counted:
                away = (ratio[:own] - 1.0).abs()
                self.largest = torch.maximum(self.largest, away.max())
                seen[0], seen[1], seen[2] = policy_loss, values, law.entropy().mean()
                seen[4], seen[5] = (away > getattr(self.rule.config, "clip", 0.2)).float().mean(), away.mean()
        return loss, seen

    def _law(self, batch: Minibatch) -> Gaussian:
        """Return what the policy would do now in ``batch``, leading dims as there."""
        vector, sight = batch.vectors["policy"], self.sights["policy"]
        if not self._sequences:
            return self.policy.distribution(sight.features(vector, batch.images, self._noise(batch)))
        lead = vector.shape[:2]
        flat = sight.features(vector.flatten(0, 1), {name: x.flatten(0, 1) for name, x in batch.images.items()}, self._noise(batch))
        return self.policy.over(flat.unflatten(0, lead), batch.state, batch.begun)

    def _noise(self, batch: Minibatch) -> Noise:
        return Noise(batch.keys.flatten(), self.processes.device, draw=CROPS)

    def _values(self, seen: Arrays, keys: torch.Tensor) -> torch.Tensor:
        """Return values (...,) of what is ``seen``: ``critic`` (..., S) or else ``policy``, ``image:FIELD`` (..., H, W, 3)."""
        assert self.critic is not None
        vector, sight = seen.get("critic", seen.get("policy")), self.sights["critic"]
        assert vector is not None
        if not sight.encoder.images:
            return self.critic(vector)
        lead = vector.shape[:-1]
        rows, names, flat = vector.flatten(0, -2), sight.encoder.images, keys.flatten()
        images = {name: seen[f"image:{name}"].flatten(0, len(lead) - 1) for name in names}
        pieces = [slice(at, at + _FEW) for at in range(0, len(rows), _FEW)]
        noises = [Noise(flat[piece], self.processes.device, draw=CROPS) for piece in pieces]
        parts = [sight.features(rows[piece], {n: images[n][piece] for n in names}, noise) for piece, noise in zip(pieces, noises, strict=True)]
        return torch.cat([self.critic(part) for part in parts]).view(lead)

    def _put_ended(self, successor: torch.Tensor, rollout: Rollout) -> None:
        """Write into ``successor`` (T, N) the values of what the worlds saw at the end of their episodes, before they began anew."""
        if not rollout.ended:
            return
        device, count = successor.device, successor.shape[1]
        index = torch.cat([torch.from_numpy(t * count + rows) for t, rows, _ in rollout.ended]).to(device)
        seen = {name: torch.cat([one[name] for _, _, one in rollout.ended]) for name in rollout.ended[0][2]}
        values = self._values({"critic": seen["critic"], **_images(seen)}, rollout.tensors["keys"].flatten()[index])
        successor.view(-1)[index] = values


def _images(seen: Arrays) -> Arrays:
    return {f"image:{name}": x for name, x in seen.items() if name != "critic"}


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(0, 1) if x.ndim > 1 else x


def _head(x: torch.Tensor, count: int) -> torch.Tensor:
    return x[:count] if x.ndim > 1 else x


def _flat(batch: Minibatch) -> Minibatch:
    """Return a minibatch of whole worlds as rows: leading dims (T * W,) instead of (T, W)."""
    return Minibatch(
        vectors={name: _rows(x) for name, x in batch.vectors.items()},
        images={name: _rows(x) for name, x in batch.images.items()},
        action=_rows(batch.action),
        old=Gaussian(_rows(batch.old.mean), _rows(batch.old.log_std)),
        old_log_prob=_rows(batch.old_log_prob),
        advantage=_rows(batch.advantage),
        value=_rows(batch.value),
        returns=_rows(batch.returns),
        keys=_rows(batch.keys),
        labels={name: _rows(x) for name, x in batch.labels.items()},
        state=batch.state,
        begun=batch.begun,
        share=batch.share,
    )
