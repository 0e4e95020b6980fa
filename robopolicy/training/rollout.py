"""Rollouts: T steps of N worlds in storage that is allocated once, the worlds that fill it, and the minibatches it is cut into.

Array code over worlds: Python runs once a control step, whatever N. What depends on chance is a function of (seed, step, world).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from policies.base import State
from policies.distributions import Gaussian
from policies.noise import Noise, row_keys
from robopolicy.algos.rule import OnPolicyRule
from robopolicy.training.schedule import step_seed
from robopolicy.training.sight import Sight
from robopolicy.training.trial_processes import Processes
from sim.env import BatchEnv, Observation
from sim.episodes import hashed

_ACTIONS, _BEGINS, _CUTS, _RESTARTS = range(1, 5)  # what numbers are drawn for
LABELS, CROPS = 1, 2  # draws of a sample's noise, beside that of its action
_NEVER = np.iinfo(np.int64).max
Arrays = dict[str, torch.Tensor]
Episode = tuple[float, int, bool]


@dataclass
class Minibatch:
    """Part of a rollout: B samples, or T steps of W whole worlds for a policy that remembers. Leading dims (B,) or (T, W).

    Attributes:
        vectors: ``policy``, ``critic`` -> (..., S), normalised states that either reads.
        images: field -> (..., H, W, 3) uint8.
        action: (..., Da) as drawn, normalised units (before any squashing).
        old: Distribution that they were drawn from.
        old_log_prob: (...,).
        advantage: (...,) normalised over the whole rollout.
        value: (...,) of the critic before this update.
        returns: (...,) advantage + value, what the critic learns.
        keys: (...,) int64 noise keys, of crops of images.
        labels: name -> (..., *shape), see ``OnPolicyRule.labels``.
        state: Of a policy that remembers, before the first step, W rows.
        begun: (T, W) bool for a policy that remembers: where its state begins anew before the step.
        share: What this part counts for: its samples over those of the minibatch in all processes.
    """

    vectors: Arrays
    images: Arrays
    action: torch.Tensor
    old: Gaussian
    old_log_prob: torch.Tensor
    advantage: torch.Tensor
    value: torch.Tensor
    returns: torch.Tensor
    keys: torch.Tensor
    labels: Arrays
    state: State
    begun: torch.Tensor
    share: float


@dataclass
class Rollout:
    """T steps of N worlds, all (T, N, ...); what is learnt about them (``value``, ``advantage``, ...) is filled in by the loop.

    Attributes:
        tensors: By name, what minibatches hold: ``policy``, ``critic`` (unless it sees the same), ``image:FIELD``, ``action``, ``mean``, ``log_std`` (where it
            depends on the state), ``begun``, ``keys``, ``label:NAME``, and what the loop adds.
        reward: (T, N) float32.
        terminated: (T, N) bool.
        truncated: (T, N) bool.
        log_std: (Da,) deviation of all samples, where it depends on no state.
        state: Of a policy that remembers, before the first step.
        ended: (t, worlds (K,), observation of the true successors) of every step but the last at which something ended.
        last: Observation of the true successors of the last step, all N.
    """

    tensors: Arrays
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    log_std: torch.Tensor | None = None
    state: State = field(default_factory=dict)
    ended: list[tuple[int, np.ndarray, Arrays]] = field(default_factory=list)
    last: Arrays = field(default_factory=dict)

    def minibatches(self, count: int, seed: int, worlds: range, total: int, sequences: bool) -> Iterator[Minibatch]:
        """Yield ``count`` minibatches of one pass in random order: the same whatever processes share the ``total`` worlds.

        Args:
            count: Parts.
            seed: Of the order.
            worlds: Those that are here.
            total: Worlds in all processes.
            sequences: Whether worlds stay whole.
        """
        steps, here = self.reward.shape
        size = total if sequences else steps * total
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        edges = [size * k // count for k in range(count + 1)]
        if here < total:
            mine = ((order % total) >= worlds.start) & ((order % total) < worlds.stop)
            counts = torch.cat([torch.zeros(1, dtype=torch.int64), mine.cumsum(0)])[edges].tolist()
            order = order[mine]
            order = order - worlds.start if sequences else order // total * here + order % total - worlds.start
        else:
            counts = edges
        order = order.to(self.reward.device)
        # one gather for the whole pass, then slices
        if sequences:
            shuffled = {name: x.index_select(1, order) for name, x in self.tensors.items()}
            state = {name: x[order] for name, x in self.state.items()}
        else:
            shuffled = {name: x.flatten(0, 1).index_select(0, order) for name, x in self.tensors.items()}
            state = {}
        for k in range(count):
            rows = slice(counts[k], counts[k + 1])
            part = {name: x[:, rows] if sequences else x[rows] for name, x in shuffled.items()}
            share = (counts[k + 1] - counts[k]) / max(edges[k + 1] - edges[k], 1)
            yield self._minibatch(part, {name: x[rows] for name, x in state.items()}, share)

    def _minibatch(self, part: Arrays, state: State, share: float) -> Minibatch:
        named = {kind: {name.partition(":")[2]: x for name, x in part.items() if name.startswith(f"{kind}:")} for kind in ("image", "label")}
        return Minibatch(
            vectors={"policy": part["policy"], "critic": part.get("critic", part["policy"])},
            images=named["image"],
            action=part["action"],
            old=Gaussian(part["mean"], part["log_std"] if self.log_std is None else self.log_std),
            old_log_prob=part["log_prob"],
            advantage=part["advantage"],
            value=part["value"],
            returns=part["returns"],
            keys=part["keys"],
            labels=named["label"],
            state=state,
            begun=part["begun"],
            share=share,
        )


class Collector:
    """The worlds of this process and the policy that acts in them.

    Args:
        env: With auto-reset; it is reset by :meth:`begin`.
        policy: Gaussian, on ``device``.
        sights: ``policy``, ``critic`` -> what that network sees; the same one where both read the same.
        rule: May label states.
        steps: T.
        seed: Of the recipe.
        worlds: Indices of these worlds among all.
        random_start: Whether the first episode of every world ends at a random step.
        processes: Where this one stands, and computes.

    Attributes:
        seconds: Spent since it was last set: ``worlds`` stepping, ``policy`` acting (all else of collecting).
    """

    def __init__(
        self,
        env: BatchEnv,
        policy: Any,
        sights: Mapping[str, Sight],
        rule: OnPolicyRule,
        steps: int,
        seed: int,
        worlds: range,
        random_start: bool,
        processes: Processes,
    ) -> None:
        self.env, self.policy, self.sights, self.rule = env, policy, sights, rule
        self._steps, self._seed, self._worlds, self._random_start = steps, seed, worlds, random_start
        self._device, self._index = processes.device, np.arange(worlds.start, worlds.stop, dtype=np.int64)
        self._recurrent = bool(getattr(policy, "recurrent", False))
        self._labelled = type(rule).labels is not OnPolicyRule.labels
        encoders = [sight.encoder for sight in sights.values()]
        self._images = sorted({name for encoder in encoders for name in encoder.images})
        self._fields = sorted({name for encoder in encoders for name in (*encoder.states, *encoder.images)})
        self._fields = sorted(env.spec.observation.fields) if self._labelled else self._fields
        count = len(worlds)
        self._return, self._length, self._success = np.zeros(count), np.zeros(count, np.int64), np.zeros(count, bool)
        self._cut_at, self._mark = np.full(count, _NEVER), 0
        self._obs: Observation = {}
        self._begun, self._state = np.ones(count, bool), policy.initial_state(count)
        self._storage = self._allocate()
        self.seconds = {"worlds": 0.0, "policy": 0.0}
        self._episodes: list[Episode] = []
        self._since = 0  # control steps since the last mark

    def begin(self, mark: int) -> None:
        """Let all worlds begin anew with the seeds of ``mark``; nothing of before stays."""
        if hasattr(self.env, "first_world"):
            self.env.first_world = self._worlds.start  # type: ignore[attr-defined]
        self._obs, self._mark = self.env.reset(hashed(self._seed, _BEGINS, mark, self._index)), mark
        self._return[:], self._length[:], self._success[:], self._begun[:] = 0.0, 0, False, True
        self._since = 0
        if self._random_start:
            self._cut_at = 1 + hashed(self._seed, _CUTS, mark, self._index) % self.env.max_episode_steps

    def take_episodes(self, all_of_them: bool) -> list[Episode]:
        """Return (return, length, success) of the episodes that have ended by themselves since they were last taken.

        Where worlds have begun anew at a mark, short episodes end first: they are held back until long ones can have ended too,
        or ``all_of_them`` are asked for.
        """
        if self._mark and self._since < self.env.max_episode_steps and not all_of_them:
            return []
        taken, self._episodes = self._episodes, []
        return taken

    @torch.no_grad()
    def collect(self, iteration: int) -> Rollout:
        """Return T steps from where the worlds are; the tensors are those of the rollout before, written anew."""
        began, stepping = time.perf_counter(), 0.0
        out, policy = self._storage, self.policy
        out.ended, out.state = [], {name: x.clone() for name, x in self._state.items()}
        count, dims = len(self._index), out.tensors["action"].shape[-1]
        keys = row_keys(self._seed, _ACTIONS, iteration, np.repeat(np.arange(self._steps), count), np.tile(self._index, self._steps))
        out.tensors["keys"].copy_(torch.from_numpy(keys).view(self._steps, count))
        standard = Noise(keys, self._device).normal(dims).view(self._steps, count, dims)
        reward, terminated, truncated = (x.numpy() for x in self._flags)
        for t in range(self._steps):
            obs = self._tensors(self._obs)
            law = self._look(t, obs)
            action = law.draw(standard[t])
            self._keep(t, law, action)
            squashed = torch.tanh(action) if policy.config.squash else action
            command = policy.normalizer.unnormalize("action", squashed).cpu().numpy()
            at = time.perf_counter()
            result = self.env.step(command)
            stepping += time.perf_counter() - at
            reward[t], terminated[t] = result.reward, result.terminated
            truncated[t] = self._account(result.reward, result.terminated | result.truncated, result.info["success"]) & ~result.terminated
            self._begun = terminated[t] | truncated[t]
            if t == self._steps - 1:
                out.last = self._successors(result.next_obs, slice(None))
            elif self._begun.any():
                rows = np.flatnonzero(self._begun)
                out.ended.append((t, rows, self._successors(result.next_obs, rows)))
            early = self._begun & ~(result.terminated | result.truncated)
            self._obs = self.env.reset(hashed(self._seed, _RESTARTS, self._mark, self._index), early) if early.any() else result.obs
        for x, flag in zip((out.reward, out.terminated, out.truncated), self._flags, strict=True):
            x.copy_(flag)
        if not self._device_is_cpu:
            torch.cuda.synchronize(self._device)
        self._since += self._steps
        self.seconds["worlds"] += stepping
        self.seconds["policy"] += time.perf_counter() - began - stepping
        return out

    def _look(self, t: int, obs: Arrays) -> Gaussian:
        """Keep what is seen at step ``t``, and return what the policy does there."""
        tensors = self._storage.tensors
        for name, sight in self.sights.items():
            if name == "policy" or sight is not self.sights["policy"]:
                tensors[name][t] = sight.vector(obs)
        for name in self._images:
            tensors[f"image:{name}"][t] = obs[name]
        begun = torch.from_numpy(self._begun).to(self._device)
        tensors["begun"][t] = begun
        if self._labelled:
            for name, label in self.rule.labels(obs, begun, Noise(tensors["keys"][t], self._device, draw=LABELS)).items():
                held = tensors.get(f"label:{name}")
                if held is None:
                    held = tensors[f"label:{name}"] = torch.zeros(self._steps, *label.shape, dtype=label.dtype, device=self._device)
                held[t] = label
        features = self.sights["policy"].features(tensors["policy"][t], obs, Noise(tensors["keys"][t], self._device, draw=CROPS))
        if not self._recurrent:
            return self.policy.distribution(features)
        if self._begun.any():
            self._state = self.policy.reset(self._state, begun)
        law, self._state = self.policy.remember(features, self._state)
        return law

    def _keep(self, t: int, law: Gaussian, action: torch.Tensor) -> None:
        tensors = self._storage.tensors
        tensors["action"][t], tensors["mean"][t] = action, law.mean
        if law.log_std.ndim > 1:
            tensors["log_std"][t] = law.log_std
        else:
            self._storage.log_std = law.log_std.detach().clone() if t == 0 else self._storage.log_std

    def _account(self, reward: np.ndarray, ended: np.ndarray, success: np.ndarray) -> np.ndarray:
        """Count the step, and return where the episode is over (N,) bool: by itself, or because it was the first of its world and is cut."""
        self._return += reward
        self._length += 1
        self._success |= success
        over = ended | (self._length >= self._cut_at)
        if over.any():
            for n in np.flatnonzero(ended):
                self._episodes.append((float(self._return[n]), int(self._length[n]), bool(self._success[n])))
            self._return[over], self._length[over], self._success[over], self._cut_at[over] = 0.0, 0, False, _NEVER
        return over

    def _successors(self, obs: Observation, rows: np.ndarray | slice) -> Arrays:
        """Return what a critic sees in ``rows`` of ``obs``: its vector as ``critic``, its images by name."""
        if "critic" not in self.sights:
            return {}
        chosen = self._tensors({name: obs[name][rows] for name in self._fields})
        return {**{name: chosen[name].clone() for name in self._images}, "critic": self.sights["critic"].vector(chosen).clone()}

    def _tensors(self, obs: Observation) -> Arrays:
        return {name: torch.from_numpy(np.ascontiguousarray(obs[name])).to(self._device) for name in self._fields}

    def _allocate(self) -> Rollout:
        steps, count, device = self._steps, len(self._index), self._device
        self._device_is_cpu = device.type == "cpu"
        fields, dims = self.env.spec.observation.fields, self.env.spec.action.low.size
        tensors = {name: torch.zeros(steps, count, sight.width, device=device) for name, sight in self.sights.items()}
        if self.sights.get("critic") is self.sights["policy"]:
            del tensors["critic"]  # both read the same
        tensors |= {f"image:{name}": torch.zeros(steps, count, *fields[name].shape, dtype=torch.uint8, device=device) for name in self._images}
        tensors |= {name: torch.zeros(steps, count, dims, device=device) for name in ("action", "mean")}
        if self.policy.config.deviation == "observed":
            tensors["log_std"] = torch.zeros(steps, count, dims, device=device)
        tensors["begun"] = torch.zeros(steps, count, dtype=torch.bool, device=device)
        tensors["keys"] = torch.zeros(steps, count, dtype=torch.int64, device=device)
        kinds = (torch.float32, torch.bool, torch.bool)
        self._flags = [torch.zeros(steps, count, dtype=kind) for kind in kinds]  # where numpy writes
        reward, terminated, truncated = (torch.zeros(steps, count, dtype=kind, device=device) for kind in kinds)
        return Rollout(tensors, reward, terminated, truncated)


def order_seed(seed: int, iteration: int, epoch: int) -> int:
    """Return the seed of the order of samples in one pass."""
    return step_seed(seed, iteration * 1000 + epoch, 1 << 20)
