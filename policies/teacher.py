"""Students: chunk policies that learn from a frozen teacher, a policy that walks from noise to actions in many steps.

The teacher is read from its checkpoint when training begins and is no part of the student: not of its weights, its
checkpoint or its acting. Both see the world through one normaliser, the teacher's.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch

from policies import checkpoint
from policies.chunk import ChunkConfig, ChunkPolicy
from policies.generative.policy import GenerativePolicy
from policies.learnt import Batch, row_errors
from policies.noise import Noise
from policies.normalize import Normalizer
from policies.spec import InputError, Spec

#: What makes a normalised chunk mean the same to both.
_SHARED = ("n_obs_steps", "horizon", "actions", "action_reference", "action_rotation", "two_valued_scale")


class StudentConfig(ChunkConfig):
    """What all students can be told."""

    teacher: str | None = None  # checkpoint or run of a diffusion, flow or other generative policy


class Lesson(NamedTuple):
    """A teacher and what it sees of the batch: ``condition`` (B, To, C'), by its own encoder."""

    teacher: GenerativePolicy
    condition: torch.Tensor


class Student(ChunkPolicy):
    """A chunk policy that learns from a teacher, or may.

    Attributes:
        needs_teacher: Whether it cannot be trained without one.
    """

    config: StudentConfig
    needs_teacher: ClassVar[bool] = False
    _teacher: tuple[GenerativePolicy, ...] = ()  # in a tuple, so that torch does not count its weights as ours

    @classmethod
    def fit_normalizer(cls, config: Any, spec: Spec, stats: Mapping[str, Mapping[str, Any]], windows: Iterable[Batch]) -> Normalizer:
        """See base class; the teacher's where there is one."""
        if config.teacher is None:
            return super().fit_normalizer(config, spec, stats, windows)
        teacher = cls.load_teacher(config.teacher)
        teacher.spec.require(cls.observed(config, spec), f"policy.teacher {config.teacher}", "the student's data set")
        return teacher.normalizer

    @staticmethod
    def load_teacher(path: str) -> GenerativePolicy:
        """Return the generative policy of a checkpoint. Raises InputError if it is missing, or of another kind."""
        teacher = checkpoint.load(path)
        if not isinstance(teacher, GenerativePolicy):
            found = checkpoint.policy_type(teacher)
            raise InputError(f"policy.teacher {path}: holds policy {found!r}; a teacher walks from noise to actions: diffusion or flow")
        return teacher

    def begin_training(self) -> None:
        """See base class: takes the teacher that the config names. Raises InputError if it does not fit or is missing."""
        if self.config.teacher is not None:
            self.follow(self.load_teacher(self.config.teacher), f"policy.teacher {self.config.teacher}")

    def follow(self, teacher: GenerativePolicy, source: str = "teacher") -> None:
        """Learn from ``teacher`` from now on, which is frozen.

        Args:
            teacher: Of the same spec and normaliser, with the same windows and form of actions.
            source: Where it is from, for messages.

        Raises:
            InputError: one line, naming what differs.
        """
        self.spec.require(teacher.spec, "the student", source)
        teacher.spec.require(self.spec, source, "the student")
        for key in _SHARED:
            ours, theirs = getattr(self.config, key), getattr(teacher.config, key)
            if ours != theirs:
                raise InputError(f"{source}: its {key} is {theirs!r}, the student's {ours!r}; set policy.{key} to the teacher's")
        ours, theirs = self.normalizer.tensors(), teacher.normalizer.tensors()
        for name in sorted({*ours, *theirs}):
            if name not in ours or name not in theirs or not torch.equal(ours[name], theirs[name]):
                raise InputError(f"{source}: its normaliser differs from the student's in {name!r}; a student is begun with its teacher's")
        device = next(self.parameters()).device
        self._teacher = (teacher.to(device).eval().requires_grad_(False),)

    @abc.abstractmethod
    def taught_errors(self, chunk: torch.Tensor, condition: torch.Tensor, lesson: Lesson, noise: Noise) -> torch.Tensor:
        """Return squared errors (B, Tp, De) against what the teacher says; see :meth:`errors`."""

    def loss(self, batch: Batch, noise: Noise) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See base class: a scalar and metrics; learns from the teacher where there is one. Raises InputError if there must be one."""
        if not self._teacher:
            if self.needs_teacher:
                name = checkpoint.policy_type(self)
                raise InputError(f"policy {name!r} learns from another policy: set policy.teacher to a checkpoint or run of diffusion or flow")
            return super().loss(batch, noise)
        condition, (teacher,) = self.condition(batch, noise), self._teacher
        with torch.no_grad():
            lesson = Lesson(teacher, teacher.condition(batch, noise))  # takes no noise: a frozen encoder crops the centre
        errors = self.taught_errors(self.encode(batch["action"], batch), condition, lesson, noise)
        return self.average(errors, batch), row_errors(errors, batch)
