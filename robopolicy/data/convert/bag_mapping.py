"""Which topics of a bag become which fields of a data set: a YAML file, checked, and what an exported bag says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import yaml

from policies.config import Config
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from robopolicy.config import read_yaml, validate
from robopolicy.data.recording_streams import SYNCHRONISATIONS

FILE = "mapping.yaml"  # beside the bags


class MappedField(Config):
    """One field, and the topic it comes from.

    Attributes:
        topic: ROS topic.
        value: JointState: ``position``, ``velocity`` or ``effort``.
        names: Of the elements, and of a JointState the joints to take, in this order. None: as they come.
        select: JointState: the joints to take, where they are called otherwise than the elements.
        shape: None: as the first message has it.
        dtype, unit, low, high, kind: See ``policies.spec.Field``; kind None: what suits the message.
    """

    topic: str
    value: str = pydantic.Field(default="position", pattern="^(position|velocity|effort)$")
    names: list[str] | None = None
    select: list[str] | None = None
    shape: list[pydantic.PositiveInt] | None = None
    dtype: str = "float32"
    unit: str = "1"
    low: list[float] | None = None
    high: list[float] | None = None
    kind: str | None = None


class BagMapping(Config):
    """How bags are read.

    Attributes:
        fps: Rows a second.
        task: In words, where no episode says.
        robot: Name of the robot.
        lead: Topic whose every message makes a row; None: rows come by the clock, ``fps`` a second.
        thin: Of the leading topic only so many messages as ``fps`` says make a row.
        sync: ``before`` or ``nearest``, see ``robopolicy.data.recording_streams``.
        wait_s: How much later than a row's time messages may lie in the bag and still be taken for it.
        stamps: ``header`` (where messages have one) or ``log``, the bag's own time.
        episode: Topic of std_msgs/String with JSON: task, success, seed of the episode; None: there is none.
        observation: Field -> topic.
        action: Field -> topic; laid end to end in this order.
        extras: Column -> topic of std_msgs Bool, Int64 or Float32.
    """

    fps: pydantic.PositiveFloat
    task: str = ""
    robot: str = "unknown"
    lead: str | None = None
    thin: bool = False
    sync: str = pydantic.Field(default="before", pattern=f"^({'|'.join(SYNCHRONISATIONS)})$")
    wait_s: float = pydantic.Field(default=0.1, ge=0, le=60)
    stamps: str = pydantic.Field(default="header", pattern="^(header|log)$")
    episode: str | None = None
    observation: dict[str, MappedField]
    action: dict[str, MappedField]
    extras: dict[str, str] = pydantic.Field(default_factory=dict)

    def fields(self) -> dict[str, MappedField]:
        """Return stream -> field, of the observation by name and of the action as ``action:NAME``."""
        return {**self.observation, **{f"action:{name}": mapped for name, mapped in self.action.items()}}

    def spec(self, first: Mapping[str, np.ndarray]) -> Spec:
        """Return what is recorded, given the first value of every stream; what the mapping says goes first.

        Raises:
            InputError: if a value does not have the shape that the mapping says.
        """

        def field(stream: str, mapped: MappedField, is_action: bool) -> Field:
            value = first[stream]
            shape = tuple(mapped.shape or value.shape)
            if int(np.prod(shape)) != value.size:
                raise InputError(f"{stream}: the mapping says {list(shape)}, topic {mapped.topic} has {list(value.shape)}")
            is_image = value.dtype == np.uint8 and value.ndim == 3
            kind = mapped.kind or ("image" if is_image else "position" if is_action else "state")
            limits = [None if side is None else tuple(side) for side in (mapped.low, mapped.high)]
            return Field(shape, "uint8" if is_image else mapped.dtype, "px" if is_image else mapped.unit, limits[0], limits[1], kind, tuple(mapped.names or ()))

        observation = {name: field(name, mapped, False) for name, mapped in self.observation.items()}
        action = {name: field(f"action:{name}", mapped, True) for name, mapped in self.action.items()}
        return Spec(ObservationSpec(observation, self.fps), ActionSpec(action, self.fps))


def read_mapping(path: Path) -> BagMapping:
    """Read a mapping. Raises InputError naming the key that is wrong."""
    return validate(BagMapping, read_yaml(path), str(path))


def mapped_field(topic: str, field: Field) -> dict[str, Any]:
    """Return what a mapping says of a field that is written to ``topic``."""
    out: dict[str, Any] = {"topic": topic, "shape": list(field.shape), "unit": field.unit, "kind": field.kind}
    out |= {"dtype": field.dtype} if not field.is_image else {}
    out |= {side: list(limit) for side in ("low", "high") if (limit := getattr(field, side)) is not None}
    return out | ({"names": list(field.names)} if field.names else {})


def to_yaml(mapping: Mapping[str, Any]) -> str:
    """Return a mapping as YAML text."""
    return yaml.safe_dump(dict(mapping), sort_keys=False, default_flow_style=None, width=120)
