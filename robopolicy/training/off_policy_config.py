"""What the off-policy loop can be told."""

from __future__ import annotations

from typing import Annotated, Literal

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


class DemonstrationsConfig(Config):
    """Demonstrations that part of every batch is drawn from."""

    path: str | None = None  # data set; {task} is the task's name with / as -; None: none
    episodes: pydantic.PositiveInt | None = None  # use the first N; None: all
    collect: pydantic.PositiveInt | None = None  # collect this many with the scripted expert when the path does not exist
    share: Share = 0.5  # of every batch (RLPD)


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
    threads: pydantic.PositiveInt | None = None  # torch threads; None: measured once, and kept in the resolved recipe
    log_every: pydantic.PositiveInt = 1000  # environment steps
    checkpoint_every: pydantic.PositiveInt = 10_000  # environment steps
    keep_checkpoints: pydantic.PositiveInt = 5
    evaluate_every: pydantic.NonNegativeInt = 0  # environment steps; 0: never during training
