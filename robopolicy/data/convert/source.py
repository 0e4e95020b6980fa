"""What every format offers to the conversion: a spec, a rate, and its episodes one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from policies.spec import Field, InputError, Spec, suggest

_CAMERA_ENDINGS = ("_image", "_rgb", "_img")


@dataclass(frozen=True)
class SourceOptions:
    """What a person says about a source, where its format leaves it open.

    Attributes:
        fps: Frames a second; None: what the source says.
        task: Task in words; None: what the source says, or its file name.
        keys: Observations to take, in this order; None: all that can be stored.
        subset: Name of a list of episodes inside the source (robomimic's ``mask``); None: all episodes.
        mapping: Bags: YAML file that says which topic is which field; None: the one beside them.
    """

    fps: float | None = None
    task: str | None = None
    keys: Sequence[str] | None = None
    subset: str | None = None
    mapping: Path | None = None


@dataclass(frozen=True)
class SourceEpisode:
    """One episode of T frames.

    Attributes:
        name: What the source calls it, for messages.
        observation: field -> (T, *shape), dtypes as in the spec.
        action: (T, Da) float32.
        extras: name -> (T,) numbers or bools.
        capture_ns: stream -> (T,) int64, ns.
        success: How it ended, if known.
        seed: What it was begun with, if known.
        task: Its task, if not the source's.
    """

    name: str
    observation: Mapping[str, np.ndarray]
    action: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    capture_ns: Mapping[str, np.ndarray] = field(default_factory=dict)
    success: bool | None = None
    seed: int | None = None
    task: str | None = None


class Source(Protocol):
    """An opened data set of another format.

    Attributes:
        spec: What its frames mean, as far as the format tells.
        fps: Frames a second.
        task: Task in words.
        robot_type: Name of the robot, or ``unknown``.
        num_episodes: Number of episodes that :meth:`episodes` yields.
        notes: One line each for what a person should know: observations left out, gaps in the source.
    """

    spec: Spec
    fps: float
    task: str
    robot_type: str
    num_episodes: int
    notes: list[str]

    def episodes(self) -> Iterator[SourceEpisode]:
        """Yield every episode in order. Raises InputError naming the episode that is damaged."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


@dataclass(frozen=True)
class Observed:
    """One field made of one or more of the source's arrays.

    Attributes:
        name: Field name.
        keys: The arrays; several are flattened and concatenated.
        field: Its spec.
    """

    name: str
    keys: tuple[str, ...]
    field: Field

    def gather(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return (T, *shape) from key -> (T, ...)."""
        if self.field.is_image:
            return as_images(arrays[self.keys[0]])
        parts = [np.asarray(arrays[key], np.float32).reshape(len(arrays[key]), -1) for key in self.keys]
        return np.concatenate(parts, 1).reshape(-1, *self.field.shape)


def choose_keys(available: Sequence[str], wanted: Sequence[str] | None, where: str) -> list[str]:
    """Return ``wanted``, checked, or all ``available``. Raises InputError for one that is not there."""
    for key in wanted or ():
        if key not in available:
            raise InputError(f"{where}: no observation {key!r}{suggest(key, available)}")
    return list(wanted or available)


def is_image_shape(shape: Sequence[int]) -> bool:
    """Whether arrays (T, *shape) look like colour images (H, W, 3)."""
    return len(shape) == 3 and shape[-1] == 3 and min(shape[:2]) >= 8


def as_images(array: np.ndarray) -> np.ndarray:
    """Return (T, H, W, 3) uint8 from uint8, or from floats in [0, 1] or [0, 255].

    Raises:
        InputError: if numbers lie outside both ranges.
    """
    if array.dtype == np.uint8:
        return array
    low, high = float(np.min(array, initial=0)), float(np.max(array, initial=0))
    if not (low >= 0 and high <= 255):
        raise InputError(f"images hold numbers from {low:g} to {high:g}, expected [0, 255] or [0, 1]")
    scaled = array if high > 1 or np.issubdtype(array.dtype, np.integer) else array * np.float32(255)
    return np.rint(scaled).astype(np.uint8)


def camera_name(key: str) -> str:
    """Return the field name of a camera: ``agentview_image`` -> ``observation.images.agentview``."""
    for ending in _CAMERA_ENDINGS:
        if key.endswith(ending) and key != ending[1:]:
            key = key.removesuffix(ending)
            break
    return f"observation.images.{clean_name(key)}"


def clean_name(key: str) -> str:
    """Return ``key`` without characters that field names cannot have."""
    return key.replace("/", ".").replace(" ", "_")


def image_field(shape: Sequence[int]) -> Field:
    """Return the spec of a camera."""
    return Field(tuple(shape), "uint8", "px", kind="image")


def vector_field(shapes: Mapping[str, Sequence[int]]) -> Field:
    """Return the spec of arrays flattened and concatenated; its names say where each number comes from."""
    names: list[str] = []
    for key, shape in shapes.items():
        size = int(np.prod(shape, dtype=np.int64))
        names += [key] if size == 1 else [f"{key}.{i}" for i in range(size)]
    return Field((len(names),), names=tuple(names))


def require_lengths(where: str, lengths: Mapping[str, int], expected: int) -> None:
    """Raise InputError naming the first array whose length is not ``expected``."""
    for name, length in lengths.items():
        if length != expected:
            raise InputError(f"{where}: {name!r} has {length} frames, actions have {expected}")


def require_rate(path: Path, given: float | None, stated: Any, example: str) -> float:
    """Return the frame rate that was given or stated. Raises InputError if there is neither."""
    rate = given if given is not None else stated
    if rate is None:
        raise InputError(f"{path}: the source does not say its rate; give --fps, {example}")
    if not (isinstance(rate, (int, float)) and rate > 0):
        raise InputError(f"{path}: rate {rate!r}: expected a positive number of frames a second")
    return float(rate)
