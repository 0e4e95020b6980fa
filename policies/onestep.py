"""One-step policy: maps noise straight to the chunk that a frozen diffusion or flow policy makes of the same noise.

The distillation of Flow Q-Learning (Park et al. 2025, eq. 7 without its value term): the network mu(s, z) is regressed
on the end of the teacher's deterministic walk from z, so one call does what took many. Where the teacher sends
neighbouring z to different modes, a regression blurs the border: docs/policies.md has the figures.
"""

from __future__ import annotations

from typing import ClassVar

import pydantic
import torch

from policies import checkpoint
from policies.generative.samplers import Ddim, sample
from policies.noise import Noise
from policies.spec import InputError
from policies.teacher import Lesson, Student, StudentConfig


class OneStepConfig(StudentConfig):
    """What a one-step policy can be told."""

    teacher_steps: pydantic.PositiveInt | None = None  # of the teacher's walk; None: as it acts itself


class OneStepPolicy(Student):
    """One network call from noise to an action chunk."""

    Config = OneStepConfig
    config: OneStepConfig
    needs_teacher: ClassVar[bool] = True

    def generate(self, condition: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, int]:
        """See base class: a chunk (B, Tp, De) from one call."""
        return self.student(self._start(noise).to(condition.dtype), condition), 1

    def student(self, z: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return mu: a chunk (B, Tp, De) from standard normal ``z`` (B, Tp, De) and ``condition`` (B, To, C), normalised."""
        return self.network(z, z.new_zeros(z.shape[0]), condition)

    def errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Raise InputError: demonstrations (B, Tp, De) do not say which chunk belongs to which noise."""
        raise InputError(f"policy {checkpoint.policy_type(self)!r} learns from a teacher alone")

    def taught_errors(self, chunk: torch.Tensor, condition: torch.Tensor, lesson: Lesson, noise: Noise) -> torch.Tensor:
        """Return squared errors (B, Tp, De) of one call against the teacher's whole walk from the same noise; chunks are not used."""
        z = self._start(noise)
        with torch.no_grad():
            answer = teacher_answer(lesson, z, self.config.teacher_steps)
        return (self.student(z, condition) - answer) ** 2

    def _start(self, noise: Noise) -> torch.Tensor:
        return noise.normal(self.config.horizon, self.transform.dim)


class _Drawn(Noise):
    """Noise that was drawn before: the start ``z`` (B, Tp, De) of a walk that draws nothing else."""

    def __init__(self, z: torch.Tensor) -> None:
        super().__init__(torch.zeros(len(z), dtype=torch.int64), z.device)
        self._z = z

    def normal(self, *shape: int) -> torch.Tensor:
        """Return ``z`` (B, *shape)."""
        return self._z


def teacher_answer(lesson: Lesson, z: torch.Tensor, steps: int | None) -> torch.Tensor:
    """Return the chunk (B, Tp, De) at the end of the teacher's walk from standard normal ``z`` (B, Tp, De).

    A teacher whose solver draws noise in every step walks with DDIM instead: of the same z it must make the same chunk.
    One that jumps from level to level by a rule of its own (MeanFlow) jumps here too: its few steps are none of a solver.
    """
    teacher, path = lesson.teacher, lesson.teacher.path
    if teacher.jumps:
        return teacher.walk(lesson.condition, _Drawn(z), steps=steps)[0]
    solver = Ddim() if teacher.solver.stochastic else teacher.solver
    return sample(teacher.model(lesson.condition), path.prior(z), path, path.step_list(steps or teacher.steps), solver)
