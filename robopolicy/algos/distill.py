"""Distillation: a student acts, a frozen teacher that sees more says what it would have done there (Ross et al. 2011, DAgger).

minimise  E_{s ~ student} |mean pi(o) - mean teacher(s)|^2        (``mse``)
or        E_{s ~ student} KL(teacher(.|s) || pi(.|o))             (``kl``)

The teacher reads fields that the student lacks (privileged states of a simulation); a student with a memory can infer them from
what it has seen. Since the student's own states are labelled, it also learns to come back from where its mistakes lead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from policies import checkpoint
from policies.base import State
from policies.config import Config
from policies.distributions import Gaussian
from policies.gaussian import GaussianPolicy
from policies.learnt import LearntPolicy
from policies.noise import Noise
from policies.normalize import Normalizer
from policies.spec import InputError, Spec
from robopolicy.algos.rule import OnPolicyRule, PolicyStep, Tensors
from robopolicy.training.run_folder import find_checkpoint


class DistillConfig(Config):
    """What distillation can be told."""

    teacher: str | None = None  # checkpoint or run of a policy for the same robot, which may read any field of the worlds
    loss: Literal["mse", "kl"] = "mse"  # mse leaves the student's deviation as it begins: policy.initial_std


class Distill(OnPolicyRule):
    """Imitates a teacher in the states that the student visits; rewards and values play no part."""

    Config = DistillConfig
    config: DistillConfig
    learns_values = False

    @classmethod
    def settled(cls, config: DistillConfig, spec: Spec) -> DistillConfig:
        """See base class: with the teacher as the path of one checkpoint. Raises InputError as :func:`load_teacher`."""
        return config.model_copy(update={"teacher": str(load_teacher(config.teacher, spec)[0])})

    def begin(self, spec: Spec, policy: LearntPolicy) -> None:
        """See base class: opens the teacher.

        Raises:
            InputError: one line, if the teacher is missing, reads what the worlds do not offer, commands another robot, plans
                more than one step, or has not the distribution that the loss needs.
        """
        assert isinstance(policy, GaussianPolicy)  # the rule's policy type
        self._student, self._state = policy, {}
        self._teacher = load_teacher(self.config.teacher, spec)[1].to(next(policy.parameters()).device).requires_grad_(False)
        if self.config.loss == "kl":
            for who, one in (("the teacher", self._teacher), ("the student", policy)):
                if not isinstance(one, GaussianPolicy) or one.config.squash:
                    raise InputError(f"algo.loss 'kl' compares unsquashed Gaussians, which {who} has not; use mse")

    _teacher: LearntPolicy
    _student: GaussianPolicy
    _state: State

    @torch.no_grad()
    def labels(self, obs: Tensors, begun: torch.Tensor, noise: Noise) -> dict[str, torch.Tensor]:
        """See base class: what the teacher would do, in the student's normalised units: ``mean`` (N, Da), with ``kl`` ``log_std`` too."""
        teacher = self._teacher
        if not self._state:
            self._state = teacher.initial_state(len(begun))
        state = teacher.reset(self._state, begun) if self._state else {}
        seen = {name: obs[name] for name in teacher.spec.observation.fields}
        if not isinstance(teacher, GaussianPolicy):
            plan, self._state = teacher.act({name: value.unsqueeze(1) for name, value in seen.items()}, state, noise)
            return {"mean": self._student.normalizer.normalize("action", plan.actions[:, 0]).clamp(-1.0, 1.0)}
        law, self._state = teacher.remember(teacher.encoder(seen, teacher.normalizer, noise), state)
        if self.config.loss == "kl":
            mapped = rescaled(law, teacher.normalizer, self._student.normalizer)
            return {"mean": mapped.mean, "log_std": mapped.log_std}
        mean = torch.tanh(law.mean) if teacher.config.squash else law.mean
        mean = self._student.normalizer.normalize("action", teacher.normalizer.unnormalize("action", mean))
        return {"mean": mean.clamp(-1.0, 1.0)}  # the robot is not sent more than its limits

    def policy_loss(self, step: PolicyStep) -> torch.Tensor:
        """Return the squared error of the student's mean, mean over the elements of an action, or the divergence, nat; (B,)."""
        if self.config.loss == "kl":
            return Gaussian(step.labels["mean"], step.labels["log_std"]).kl(step.new)
        mean = torch.tanh(step.new.mean) if self._student.config.squash else step.new.mean
        error = (mean - step.labels["mean"]).square().mean(-1)
        return error + 0.0 * step.new.log_std.sum(-1)  # so that deviations have a gradient, which is zero


def load_teacher(named: str | None, spec: Spec) -> tuple[Path, LearntPolicy]:
    """Return the checkpoint that ``named`` is, or the last one of that run, and its policy in eval mode.

    Raises:
        InputError: one line, if there is none, it cannot label states of worlds that offer ``spec``, or plans more than one step.
    """
    if named is None:
        raise InputError("algo 'distill' learns from another policy: set algo.teacher to a checkpoint or run")
    try:
        path = find_checkpoint(named)
    except InputError as error:
        raise InputError(f"algo.teacher={named}: {error}") from None
    teacher = checkpoint.load(path)
    teacher.spec.require(spec, f"algo.teacher {named}", "the student's task")
    window: tuple[Any, ...] = (teacher.n_obs_steps, teacher.n_action_steps)
    if window != (1, 1):
        raise InputError(f"algo.teacher {named}: plans {window[1]} actions from {window[0]} observations, expected one of each, step by step")
    return path, teacher


def rescaled(law: Gaussian, source: Normalizer, target: Normalizer) -> Gaussian:
    """Return ``law`` (..., Da) over actions in the units of ``source``, over the same actions in those of ``target``."""
    zero, one = (target.normalize("action", source.unnormalize("action", torch.full_like(law.mean, value))) for value in (0.0, 1.0))
    width = one - zero  # both maps are affine
    return Gaussian(zero + width * law.mean, (law.log_std + width.log()).expand_as(law.mean))
