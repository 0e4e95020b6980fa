"""What is drawn anew for every episode, as a recipe says it: distributions, and what they are for.

``randomize: {model: {"mass:pole": {scale: [0.7, 1.3]}}, actions: {delay: 0.02}, sensors: {"observation.state": {noise: 0.01}}}``.
A number stands for itself, two numbers ``[low, high]`` for a uniform distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic import Field

from policies.spec import InputError, suggest
from sim.draws import Draws

Number = Annotated[float, Field(strict=True)]  # an int is taken, true and "1" are not
Pair = tuple[Number, Number]
_KINDS = ("constant", "uniform", "log_uniform", "normal", "choice", "direction")


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Distribution(_Section):
    """One of the six; ``clip`` cuts what it gives to a range (the mass beyond lies on the ends).

    At curriculum level l in [0, 1] the range is smaller: a uniform one reaches from the point of the range that is nearest to
    neutral (1 for a scale, 0 for what is added, the model's own value for what is set) the share l towards its ends, a log-uniform
    one the same in logarithms, a normal one has l times its deviation, a direction l times its length, and of n choices the first
    ``ceil(l n)`` are open. So the range of a lower level lies inside that of a higher one.
    """

    constant: Number | str | None = None
    uniform: Pair | None = None  # low, high
    log_uniform: Pair | None = None  # low, high, above 0
    normal: Pair | None = None  # mean, standard deviation
    choice: tuple[Number | str, ...] | None = None  # equally likely
    direction: Number | None = None  # length of a vector (x, y, z) that points anywhere
    clip: Pair | None = None  # low, high

    @pydantic.model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return {"constant": value}
        if isinstance(value, (list, tuple)) and len(value) == 2:
            return {"uniform": value}
        if not isinstance(value, (Mapping, Distribution)):
            raise ValueError(f"expected a number, [low, high] or one of {', '.join(_KINDS)}, found {value!r}")
        return value

    @pydantic.model_validator(mode="after")
    def _sound(self) -> Distribution:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(_KINDS)}, found {', '.join(given) or 'none'}")
        for name in ("uniform", "log_uniform", "clip"):
            pair = getattr(self, name)
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"{name}: the lower end {pair[0]:g} lies above the upper end {pair[1]:g}")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform: expected ends above 0, found {self.log_uniform[0]:g}")
        if self.normal is not None and self.normal[1] < 0:
            raise ValueError(f"normal: expected a standard deviation of at least 0, found {self.normal[1]:g}")
        if self.direction is not None and self.direction < 0:
            raise ValueError(f"direction: expected a length of at least 0, found {self.direction:g}")
        if self.choice is not None and not self.choice:
            raise ValueError("choice: expected at least one value, found none")
        if self.clip is not None and self.words:
            raise ValueError("clip: names cannot be clipped")
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """The names among the values (of materials)."""
        values = (self.constant,) if self.constant is not None else self.choice or ()
        return tuple(value for value in values if isinstance(value, str))

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest value that can be drawn; infinite for a normal distribution without ``clip``."""
        if self.words:
            return 0.0, math.inf
        if self.normal is not None:
            low, high = (-math.inf, math.inf) if self.normal[1] else (self.normal[0], self.normal[0])
        elif self.direction is not None:
            low, high = -self.direction, self.direction
        elif self.constant is not None or self.choice is not None:
            numbers = [float(value) for value in ((self.constant,) if self.choice is None else self.choice) if value is not None]
            low, high = min(numbers), max(numbers)
        else:
            low, high = self.uniform or self.log_uniform or (0.0, 0.0)
        return (low, high) if self.clip is None else (min(max(low, self.clip[0]), self.clip[1]), max(min(high, self.clip[1]), self.clip[0]))

    @property
    def numbers(self) -> int:
        """How many uniform numbers one draw takes."""
        return 0 if self.constant is not None else 2 if self.normal is not None or self.direction is not None else 1

    def named(self, ids: Mapping[str, int]) -> Distribution:
        """Return the same over the numbers that ``ids`` gives the names. Raises KeyError for an unknown one."""
        number = [float(ids[value]) if isinstance(value, str) else value for value in self.choice or ()]
        constant = float(ids[self.constant]) if isinstance(self.constant, str) else self.constant
        return self.model_copy(update={"choice": tuple(number) or None, "constant": constant})

    def draw(self, draws: Draws, shape: tuple[int, ...], level: float = 1.0, neutral: float | np.ndarray = 0.0) -> np.ndarray:
        """Return (K, *shape) float64 for the K episodes of ``draws``, at curriculum ``level`` around ``neutral`` (broadcast to ``shape``)."""
        if self.normal is not None:
            out = draws.normal(self.normal[0], self.normal[1] * level, shape)
        elif self.direction is not None:
            out = draws.normal(0.0, 1.0, shape)
            out *= self.direction * level / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12)
        elif self.choice is not None:
            open_ = max(1, math.ceil(level * len(self.choice) - 1e-9))
            out = np.asarray(self.choice, np.float64)[draws.integers(0, open_, shape)]
        elif self.constant is not None:
            out = np.full((len(draws), *shape), float(self.constant))
        else:
            out = self._between(draws, shape, level, np.asarray(neutral, np.float64))
        return out if self.clip is None else np.clip(out, *self.clip)

    def _between(self, draws: Draws, shape: tuple[int, ...], level: float, neutral: np.ndarray) -> np.ndarray:
        low, high = self.uniform or self.log_uniform or (0.0, 0.0)
        start = np.clip(neutral, low, high)
        if self.uniform is not None:
            low, high = (end * level + start * (1.0 - level) for end in (low, high))
            return np.clip(draws.uniform(low, high, shape), low, high)
        low, high = (end**level * start ** (1.0 - level) for end in (low, high))
        return np.clip(np.exp(draws.uniform(np.log(low), np.log(high), shape)), low, high)


class FieldDraw(_Section):
    """How one model field is drawn: multiplied by, added to or replaced by what a distribution gives.

    ``per``: one number for each ``element`` (body, geom, ...), each ``component`` of each element (x, y, z), or one for the whole
    ``group`` of matched elements; by default an element for a scale, a component otherwise.
    """

    scale: Distribution | None = None
    add: Distribution | None = None
    set: Distribution | None = None
    per: Literal["element", "component", "group"] | None = None
    inertia: bool = True  # of a mass alone: whether the body's inertia changes in proportion

    @pydantic.model_validator(mode="after")
    def _one(self) -> FieldDraw:
        given = [name for name in ("scale", "add", "set") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of scale, add, set, found {' and '.join(given) or 'none'}")
        return self

    @property
    def operation(self) -> Literal["scale", "add", "set"]:
        """Which of the three it is."""
        return "scale" if self.scale is not None else "add" if self.add is not None else "set"

    @property
    def distribution(self) -> Distribution:
        """What is drawn from."""
        found = self.scale or self.add or self.set
        assert found is not None  # exactly one is given
        return found

    @property
    def grain(self) -> Literal["element", "component", "group"]:
        """``per`` with its default."""
        return self.per or ("element" if self.scale is not None else "component")


def _within(low: float, high: float, what: str) -> Any:
    def check(value: Distribution | None) -> Distribution | None:
        if value is not None and (value.words or value.bounds[0] < low or value.bounds[1] > high):
            found = repr(value.words[0]) if value.words else f"{value.bounds[0]:g} to {value.bounds[1]:g}"
            raise ValueError(f"{what}, found {found}" + ("; cut a normal distribution with clip" if value.normal else ""))
        return value

    return pydantic.AfterValidator(check)


Seconds = Annotated[Distribution | None, _within(0.0, 10.0, "expected seconds from 0 to 10")]
Share = Annotated[Distribution | None, _within(0.0, 1.0, "expected a probability from 0 to 1")]
Offset = Annotated[Distribution | None, _within(-math.inf, math.inf, "expected numbers")]
Deviation = Annotated[Distribution | None, _within(0.0, math.inf, "expected a standard deviation of at least 0")]


class ActionDraw(_Section):
    """What happens to commands on their way: each number is drawn once an episode.

    ``dropout``: probability that a command is lost, in which case the last one counts again. ``delay``, s: the actuators get the
    command that was sent so long ago, its mean over the control step where that is no whole number of steps. ``noise``: standard
    deviation, in the action's units, of what is added to every command.
    """

    delay: Seconds = None
    noise: Deviation = None
    dropout: Share = None


class SensorDraw(_Section):
    """What happens to readings; each number is drawn once an episode.

    ``latency`` in s, between two readings linearly interpolated; ``bias``, constant in an episode, one number an element; ``noise``,
    standard deviation of white noise, both in the field's units, cut off at its limits; ``dropout``, probability that a reading is
    lost, in which case the last one repeats. They act in this order.
    """

    latency: Seconds = None
    bias: Offset = None
    noise: Deviation = None
    dropout: Share = None


class CurriculumConfig(_Section):
    """Ranges that widen with success.

    After ``window`` episodes the level rises by ``step`` if the share of successes is at least ``raise_above``, and falls by as much
    if it is at most ``lower_below``.
    """

    level: Annotated[Number, Field(ge=0, le=1)] = 0.0  # at the beginning
    step: Annotated[Number, Field(gt=0, le=1)] = 0.05
    window: Annotated[int, Field(ge=1, strict=True)] = 100
    raise_above: Annotated[Number, Field(ge=0, le=1)] = 0.8
    lower_below: Annotated[Number, Field(ge=0, le=1)] = 0.4

    @pydantic.model_validator(mode="after")
    def _apart(self) -> CurriculumConfig:
        if self.lower_below >= self.raise_above:
            raise ValueError(f"lower_below {self.lower_below:g} must lie below raise_above {self.raise_above:g}")
        return self


class RandomizeConfig(_Section):
    """The section ``randomize`` of a recipe."""

    model: dict[str, FieldDraw] = {}  # "mass:pole", "friction:foot*", "gravity.z"; see sim.randomize_fields
    actions: ActionDraw | None = None
    sensors: dict[str, SensorDraw] = {}  # "observation.state", "observation.state:pole.*" (by the names of its elements)
    curriculum: CurriculumConfig | None = None


def read_config(values: Mapping[str, Any] | RandomizeConfig, source: str = "randomize") -> RandomizeConfig:
    """Build the config from what YAML gives.

    Raises:
        InputError: one line for the first mistake: the key, what was expected and found, the nearest valid name.
    """
    if isinstance(values, RandomizeConfig):
        return values
    try:
        return RandomizeConfig.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError(f"{source}: {_first_mistake(error)}") from None


_SECTIONS: dict[str, type[_Section]] = {"model": FieldDraw, "sensors": SensorDraw, "actions": ActionDraw, "curriculum": CurriculumConfig}
_DISTRIBUTED = {name for section in (FieldDraw, ActionDraw, SensorDraw) for name in section.model_fields} - {"per", "inertia"}


def _valid_names(place: Sequence[Any]) -> list[str]:
    """Return the keys that a section at ``place`` can have."""
    if not place:
        return list(RandomizeConfig.model_fields)
    if place[-1] in _DISTRIBUTED and len(place) > 1:
        return list(Distribution.model_fields)
    return list(_SECTIONS[str(place[0])].model_fields)


def _first_mistake(error: pydantic.ValidationError) -> str:
    mistakes = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = mistakes[0]
    place, more = first["loc"], f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    key = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{suggest(str(place[-1]), _valid_names(place[:-1]))}{more}"
    at = f"key {key!r}: " if key else ""
    if first["type"] == "value_error":
        return f"{at}{first.get('ctx', {}).get('error')}{more}"
    return f"{at}{first['msg'][:1].lower() + first['msg'][1:]}, found {first['input']!r}{more}"
