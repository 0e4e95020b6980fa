"""What the on-policy loop can be told."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from policies.config import Config
from policies.networks.perceptron import Activation

Share = Annotated[float, Field(ge=0, le=1)]


class CriticConfig(Config):
    """The value network; it may see what the policy cannot (an asymmetric critic)."""

    observations: list[str] | None = None  # observation fields to read; None: all of them
    hidden: list[pydantic.PositiveInt] = Field(default=[64, 64], min_length=1)
    activation: Activation = "tanh"


class SymmetryConfig(Config):
    """What a task's mirror symmetry is used for, see ``robopolicy.algos.symmetry``."""

    augment: bool = True  # learn from the mirror image of every sample too
    weight: pydantic.NonNegativeFloat = 0.0  # of the mirror loss |pi(mirror(s)) - mirror(pi(s))|^2, beside the rule's

    @pydantic.model_validator(mode="after")
    def _used(self) -> SymmetryConfig:
        if not self.augment and self.weight == 0:
            raise ValueError("expected augment, or a weight above 0")
        return self


class OnPolicyTraining(Config):
    """Roll out, estimate advantages, go over them a few times. Defaults: many worlds, few steps, few large minibatches."""

    steps: pydantic.PositiveInt = 1_000_000  # environment steps of all worlds together
    worlds: pydantic.PositiveInt = 64  # N, over all processes
    rollout: pydantic.PositiveInt = 32  # T, control steps of every world between updates
    epochs: pydantic.PositiveInt = 5  # passes over a rollout
    minibatches: pydantic.PositiveInt = 4  # parts of one pass
    lr: pydantic.PositiveFloat = 3e-4  # of Adam, at first
    schedule: Literal["adaptive", "linear", "constant"] = "adaptive"  # by KL after every minibatch; down to zero at the end; as it is
    target_kl: pydantic.PositiveFloat = 0.01  # nat, of the adaptive schedule
    lr_range: tuple[pydantic.PositiveFloat, pydantic.PositiveFloat] = (1e-5, 1e-2)  # of the adaptive schedule
    gamma: Share = 0.99  # discount
    gae_lambda: Share = 0.95
    value_weight: pydantic.NonNegativeFloat = 1.0
    value_clip: pydantic.PositiveFloat | None = 0.2  # change of a value within one update, in units of normalised returns; None: free
    entropy_weight: pydantic.NonNegativeFloat = 0.0
    gradient_clip: pydantic.PositiveFloat | None = 1.0  # norm, of policy and critic each
    normalize_observations: bool = True  # by running statistics, frozen while a rollout is made and learnt from
    normalize_rewards: bool = False  # by the running deviation of discounted returns
    random_start: bool = True  # the first episode of every world ends at a random step, so that worlds do not end together
    reference_worlds: pydantic.PositiveInt | None = None  # worlds that the settings above were chosen for: with others they are scaled together
    threads: pydantic.PositiveInt | None = None  # torch threads; None: measured once, and kept in the resolved recipe
    log_every: pydantic.PositiveInt = 10  # iterations
    checkpoint_every: pydantic.PositiveInt = 100  # iterations; all worlds begin anew there, so that a run can go on from it exactly
    keep_checkpoints: pydantic.PositiveInt = 5
    evaluate_every: pydantic.NonNegativeInt = 0  # iterations; 0: never during training
    critic: CriticConfig = CriticConfig()
    symmetry: SymmetryConfig | None = None  # use of the task's mirror symmetry; None: none
