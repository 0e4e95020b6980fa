"""Goals by hindsight: what a trajectory reached later is what its actions were for (Andrychowicz et al. 2017; Ding et al. 2019).

A recipe's section ``data.goals`` fills one observation field with another one's value at a frame that is drawn for every window:
usually a later one of the same episode. A draw is a function of the window's row key alone, so that resumed runs see the same
goals. Defaults are those of OGBench's goal-conditioned behaviour cloning (Park et al. 2025): uniform over the rest of the
episode. That draws the two ends half as often as the others, since it rounds a real number; here all are equally likely.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pydantic

from policies.config import Config
from policies.noise import NumpyNoise
from policies.spec import InputError, ObservationSpec, Spec

if TYPE_CHECKING:
    from robopolicy.data.dataset import Dataset

Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class GoalsConfig(Config):
    """How the windows of a data set get their goals; later frames of the episode have what ``current`` and ``random`` leave."""

    field: str = "observation.goal"  # where the policy sees the goal
    source: str = "observation.state"  # what the goal is a value of
    distribution: Literal["uniform", "geometric"] = "uniform"  # of how much later: uniform to the end, or geometric, at most to the end
    discount: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.99  # geometric: k steps later with probability (1 - discount) discount^(k - 1)
    current: Share = 0.0  # share of windows whose goal is the present frame
    random: Share = 0.0  # share of windows whose goal is any frame of the episodes in use

    @pydantic.model_validator(mode="after")
    def _shares_fit(self) -> GoalsConfig:
        if self.current + self.random > 1:
            raise ValueError(f"current {self.current:g} and random {self.random:g}: expected at most 1 together")
        if self.field == self.source:
            raise ValueError(f"field and source are both {self.field!r}: a goal needs a field of its own")
        return self


def goal_frames(
    config: GoalsConfig, keys: np.ndarray, start: np.ndarray, length: np.ndarray, time: np.ndarray, episodes: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the frame (B,) int64 of the data set that each window's goal is taken from.

    Args:
        config: How.
        keys: (B,) int64, what the draws are a function of.
        start: (B,) first frame of the window's episode.
        length: (B,) its frames.
        time: (B,) the window's present frame in it, 0 to length - 1; the last one's later goals are itself.
        episodes: First frames and lengths (K,) of all episodes in use, for random goals.
    """
    kind, later, anywhere = ((NumpyNoise(keys).bits(3) >> np.uint64(11)).astype(np.float64) * 2.0**-53).T
    last = length - 1
    if config.distribution == "geometric":
        ahead = 1 + np.floor(np.log1p(-later) / np.log(config.discount)).astype(np.int64)
    else:
        ahead = 1 + np.floor(later * (last - time)).astype(np.int64)
    out = start + np.minimum(time + ahead, last)
    if config.current:
        out = np.where(kind < config.current, start + time, out)
    if config.random:
        first, ends = episodes[0], np.cumsum(episodes[1])
        drawn = np.floor(anywhere * ends[-1]).astype(np.int64)
        episode = np.searchsorted(ends, drawn, side="right")
        frame = first[episode] + drawn - (ends - episodes[1])[episode]
        out = np.where(kind >= 1 - config.random, frame, out)
    return out


def with_goals(dataset: Dataset, config: GoalsConfig) -> Dataset:
    """Return ``dataset`` as if it held ``config.field``, with arrays and statistics of ``config.source``.

    Raises:
        InputError: if there is no such source, or the data set has the field with another shape.
    """
    fields = dict(dataset.spec.observation.fields)
    if config.source not in fields:
        dataset.field(config.source)  # says what is near
        raise InputError(f"data.goals.source {config.source!r}: expected an observation field of data set {dataset.path}")
    source = fields[config.source]
    goal = fields.get(config.field) or replace(source, kind=source.kind if source.is_image else "goal", names=())
    if goal.shape != source.shape or goal.dtype != source.dtype:
        raise InputError(
            f"data.goals: {config.field} of data set {dataset.path} is {goal.dtype}{list(goal.shape)}, "
            f"its source {config.source} is {source.dtype}{list(source.shape)}; choose a source of the goal's form"
        )
    fields[config.field] = goal
    out = copy.copy(dataset)
    out.spec = Spec(ObservationSpec(fields, dataset.spec.observation.rate_hz), dataset.spec.action, dataset.spec.meta)
    out.arrays = {**dataset.arrays, config.field: dataset.field(config.source)}
    out.stats = {**dataset.stats, config.field: dataset.stats[config.source]}
    return out
