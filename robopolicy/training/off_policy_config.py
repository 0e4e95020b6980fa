"""What the off-policy loop can be told."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from policies.config import Config

Share = Annotated[float, Field(ge=0, le=1)]


class ReplayConfig(Config):
    """What is kept of the past, and how it is drawn from."""

    capacity: pydantic.PositiveInt = 1_000_000  # transitions
    place: Literal["memory", "disk"] = "memory"  # disk: memory-mapped files in the run's folder, for more than memory holds
    sampling: Literal["uniform", "prioritized"] = "uniform"
    alpha: Share = 0.6  # prioritised: exponent of the error (Schaul et al. 2016)
    beta: Share = 0.4  # prioritised: exponent of the correction at first; 1 at the end
    n_step: pydantic.PositiveInt = 1  # rewards summed before the critic's estimate
    chunk: pydantic.PositiveInt = 1  # actions in one (Q-chunking)

    @pydantic.model_validator(mode="after")
    def _used(self) -> ReplayConfig:
        if self.sampling == "uniform":
            self.refuse(["alpha", "beta"], "sampling=uniform")
        return self


class DemonstrationsConfig(Config):
    """Demonstrations that part of every batch is drawn from."""

    path: str | None = None  # data set; {task} is the task's name with / as -; None: none
    episodes: pydantic.PositiveInt | None = None  # use the first N; None: all
    collect: pydantic.PositiveInt | None = None  # collect this many with the scripted expert when the path does not exist
    share: Share = 0.5  # of every batch (RLPD)


class RewardConfig(Config):
    """Who says that the task is done; see ``robopolicy.training.trial_worlds``."""

    sparse: bool = False  # 1 where the world reports success, which ends the episode, else 0; false: the world's own reward
    classifier: str | None = None  # folder of `robopolicy reward`: its decision from images instead of the world's
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5  # probability from which the classifier says success
    record: str | None = None  # simulation: data set to which all episodes go with what is true of them, for the next classifier; {task}, {seed} as in output

    @pydantic.model_validator(mode="after")
    def _used(self) -> RewardConfig:
        if self.classifier is None:
            self.refuse(["threshold"], "classifier=null")
        return self

    @property
    def judged(self) -> bool:
        """Whether success alone is rewarded."""
        return self.sparse or self.classifier is not None


class TakeoverConfig(Config):
    """Who may take over from the policy while it learns; see ``robopolicy.training.takeover``."""

    source: Literal["none", "expert", "operator", "device"] = "none"  # expert: the task's script; operator: who has the run's token; device: a person
    share: Share = 0.5  # expert: of the episodes that it looks after
    after: pydantic.NonNegativeInt = 50  # expert: control steps without success until it steps in
    hold: pydantic.PositiveInt = 20  # expert: control steps that it then acts, before it looks on again for `after` steps
    address: str = "tcp://127.0.0.1:0"  # operator: loopback address where commands arrive; it is left with the token in the run's operator.json
    device: dict[str, Any] = Field(default_factory=dict)  # device: its type (keyboard, gamepad, spacemouse, page, leader) and its options
    jog: dict[str, Any] = Field(default_factory=dict)  # device: how it moves the robot, see real/teleop/jog.py

    @pydantic.model_validator(mode="after")
    def _used(self) -> TakeoverConfig:
        own = {"expert": ("share", "after", "hold"), "operator": ("address",), "device": ("device", "jog")}
        self.refuse([name for source, names in own.items() if source != self.source for name in names], f"source={self.source}")
        return self


class ResetsConfig(Config):
    """How episodes begin anew; see ``robopolicy.training.forward_backward``."""

    type: Literal["world", "backward"] = "world"  # world: it is put back; backward: a second policy learns to bring it back
    episode_steps: pydantic.PositiveInt | None = None  # backward: control steps after which the other policy acts; None: the task's own
    near: pydantic.PositiveFloat = 0.1  # backward: distance to where worlds begin that counts as brought back, in the units of `fields`
    fields: list[str] | None = None  # backward: observation fields that have to be back; None: observation.state

    @pydantic.model_validator(mode="after")
    def _used(self) -> ResetsConfig:
        if self.type == "world":
            self.refuse(["episode_steps", "near", "fields"], "type=world")
        return self


class OffPolicyTraining(Config):
    """Act, remember, learn from what is remembered."""

    steps: pydantic.PositiveInt = 100_000  # environment steps of all worlds together
    worlds: pydantic.PositiveInt = 1  # N
    random_steps: pydantic.NonNegativeInt = 1000  # environment steps with uniform actions before learning begins
    batch_size: pydantic.PositiveInt = 256
    update_ratio: pydantic.PositiveFloat = 1.0  # updates of the critics per environment step
    gamma: Share = 0.99  # discount
    normalize_observations: bool = False  # by the statistics of the random steps, then fixed
    replay: ReplayConfig = ReplayConfig()
    demonstrations: DemonstrationsConfig = DemonstrationsConfig()
    reward: RewardConfig = RewardConfig()
    takeover: TakeoverConfig = TakeoverConfig()
    resets: ResetsConfig = ResetsConfig()
    robot: dict[str, Any] | None = None  # learn on this robot, through its safety filter: {type: twin, address: ...} or {drive: ADDRESS}; None: simulation
    threads: pydantic.PositiveInt | None = None  # torch threads; None: measured once, and kept in the resolved recipe
    log_every: pydantic.PositiveInt = 1000  # environment steps
    checkpoint_every: pydantic.PositiveInt = 10_000  # environment steps
    keep_checkpoints: pydantic.PositiveInt = 5
    evaluate_every: pydantic.NonNegativeInt = 0  # environment steps; 0: never during training
