"""What every policy with weights has in common: the policy protocol as a torch module, with a loss and optimiser groups."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch

from policies.base import Execution, Plan, State, select_rows
from policies.config import Config
from policies.noise import Noise
from policies.normalize import Normalizer
from policies.spec import Spec

#: Field -> tensor with leading dims (B, T).
Batch = Mapping[str, torch.Tensor]


def row_errors(errors: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    """Return the metric ``row_errors`` (B,), the mean of ``errors`` (B, ...) in each row, of a batch that says which task a row is of (``task_index``)."""
    return {"row_errors": errors.detach().flatten(1).mean(1)} if "task_index" in batch else {}


class LearntPolicy(torch.nn.Module, abc.ABC):
    """A policy with weights (see ``policies.base.Policy``); a concrete one is the class in ``policies/NAME.py`` that sets ``Config``.

    Args:
        config: An instance of ``Config``.
        spec: What the world or robot offers; the policy's own ``spec`` keeps only the observation fields that it reads.
        normalizer: Fitted to the data, see :meth:`fit_normalizer`.

    Attributes:
        Config: The config model of this policy; a class attribute.
    """

    Config: ClassVar[type[Config]]

    def __init__(self, config: Config, spec: Spec, normalizer: Normalizer) -> None:
        super().__init__()
        self.config = config
        self.spec = self.observed(config, spec)
        self.n_obs_steps, self.horizon, self.n_action_steps = self.window(config)
        self.normalizer = normalizer

    @classmethod
    @abc.abstractmethod
    def window(cls, config: Any) -> tuple[int, int, int]:
        """Return (To, Tp, Ta) in control steps: observed, predicted and executed."""

    @classmethod
    @abc.abstractmethod
    def observed(cls, config: Any, spec: Spec) -> Spec:
        """Return ``spec`` with only the observation fields that a policy of this config reads. Raises InputError."""

    @classmethod
    @abc.abstractmethod
    def fit_normalizer(cls, config: Any, spec: Spec, stats: Mapping[str, Mapping[str, Any]], windows: Iterable[Batch]) -> Normalizer:
        """Fit the normaliser that a policy of this config needs.

        Args:
            config: The policy's config.
            spec: What the data set offers.
            stats: Field -> statistics of the data (``policies.statistics``): observation fields in their units, ``action`` in robot units.
            windows: Training batches that together hold every window, as :meth:`loss` takes them (the observations that
                the action refers to are enough); read only if the policy predicts something else than the action itself.
        """

    @abc.abstractmethod
    def act(self, obs: Batch, state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        """Plan for B streams from observations (B, To, *shape), robot units; see ``policies.base.Policy.act``."""

    @abc.abstractmethod
    def loss(self, batch: Batch, noise: Noise) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the training loss and metrics, all scalars; besides, of a batch of several tasks, :func:`row_errors`.

        Args:
            batch: observation field -> (B, To, *shape), images uint8; ``action`` (B, Tp, Da) float32, robot units;
                ``action_is_pad`` (B, Tp) bool, true where the episode's edge was repeated.
            noise: One row key per sample.
        """

    def begin_training(self) -> None:
        """Prepare for training: called once, in place and on its device, before the first update of a fresh or resumed run."""
        return

    def begin_update(self, progress: float) -> None:
        """Note how much of training is done, 0 to 1, a function of the step: called before each update, for curricula."""
        return

    def initial_state(self, batch: int) -> State:
        """Return the state of ``batch`` new streams: nothing, unless a policy carries something from call to call."""
        return {}

    def reset(self, state: State, mask: Any) -> State:
        """Return ``state`` with the rows of ``mask`` (B,) bool begun anew."""
        return select_rows(state, mask, self.initial_state(len(mask)))

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return optimiser groups: matrices and kernels decay; biases, norms' scales and position embeddings do not."""
        embeddings = {id(p) for module in self.modules() for p in getattr(module, "undecayed", ())}
        groups: list[list[torch.nn.Parameter]] = [[], []]
        for p in self.parameters():
            if p.requires_grad:
                groups[p.ndim < 2 or id(p) in embeddings].append(p)
        return [{"params": groups[0], "weight_decay": weight_decay}, {"params": groups[1], "weight_decay": 0.0}]
