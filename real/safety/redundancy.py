"""Several sensors of one quantity: the drive reads their median, and trusts it only while most of them agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pydantic

from policies.config import Config
from policies.spec import InputError, ObservationSpec
from real.robot import Observation
from real.safety.voting import vote


class Sensors(Config):
    """The sensors of one observation field.

    Attributes:
        sensors: Fields of a reading that measure the same, of its shape; three or more outvote one that lies.
        tolerance: Distance from the median beyond which a sensor disagrees, in the field's unit.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    sensors: tuple[str, ...] = pydantic.Field(min_length=2)
    tolerance: pydantic.PositiveFloat


class Redundancy:
    """Votes on the redundant fields of every reading.

    Args:
        declared: Observation field -> what :class:`Sensors` takes.
        spec: The robot's fields.

    Attributes:
        disagreed: Sensor -> readings in which it disagreed with the median.

    Raises:
        InputError: for a field that the robot does not observe, or sensors that are not well formed.
    """

    def __init__(self, declared: Mapping[str, Any], spec: ObservationSpec) -> None:
        self.disagreed: Counter[str] = Counter()
        self._spec, self._fields = spec.subset(list(declared)), dict[str, Sensors]()
        for name, value in declared.items():
            try:
                self._fields[name] = Sensors.model_validate(dict(value))
            except pydantic.ValidationError as error:
                first = error.errors()[0]
                raise InputError(f"redundant sensors of {name!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    def apply(self, reading: Observation) -> str:
        """Put the median of its sensors into every redundant field (*shape), with the middle stamp; returns why it cannot be believed, empty: it can."""
        doubt = ""
        for name, wanted in self._fields.items():
            shape = self._spec.fields[name].shape
            missing = [s for s in wanted.sensors if s not in reading.fields or np.shape(reading.fields[s]) != shape]
            if missing:
                return f"sensors of {name}: {missing[0]} gives nothing of shape {shape}"
            found = vote(np.stack([np.ravel(reading.fields[s]) for s in wanted.sensors]), wanted.tolerance)
            liars = [s for s, bad in zip(wanted.sensors, np.any(found.disagrees, axis=1).tolist(), strict=True) if bad]
            self.disagreed.update(liars)
            reading.fields[name] = found.value.reshape(shape).astype(self._spec.fields[name].dtype)
            stamps = sorted(reading.capture_ns.get(s, 0) for s in wanted.sensors)
            reading.capture_ns[name] = stamps[(len(stamps) - 1) // 2]
            if not found.trusted.all():
                doubt = doubt or f"sensors of {name} disagree: {', '.join(liars)}"
        return doubt
