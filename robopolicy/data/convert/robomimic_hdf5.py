"""robomimic's HDF5 files: ``data/demo_i`` with ``obs/KEY``, ``actions``, ``rewards``, ``dones``; environment in ``env_args``.

(robomimic.github.io, dataset structure.) Robot readings (``robotN_...``) become ``observation.state``, the other numbers
``observation.environment_state``, in the file's order; every element keeps its origin in its name. Quaternions stay
(x, y, z, w) as robosuite writes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec, suggest
from robopolicy.data.convert import source

_ROBOT = re.compile(r"robot\d+_")
_EXTRAS = {"rewards": ("next.reward", np.float32), "dones": ("next.done", np.bool_)}


class RobomimicSource:
    """An opened robomimic file; the attributes are :class:`robopolicy.data.convert.source.Source`'s."""

    def __init__(self, path: Path, options: source.SourceOptions) -> None:
        """Open ``path``. Raises InputError if it is not a robomimic file with observations."""
        import h5py

        self.path, self.robot_type = path, "unknown"
        self.notes: list[str] = []
        try:
            self._file: Any = h5py.File(path, "r")
        except OSError as error:
            raise InputError(f"{path}: cannot be read as HDF5 ({_reason(error)}); is it truncated?") from error
        try:
            self._open(options)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def episodes(self) -> Iterator[source.SourceEpisode]:
        """Yield every demonstration in the order of its number. Raises InputError naming the one that is damaged."""
        for name in self._demos:
            where = f"{self.path}: {name}"
            demo = self._file[f"data/{name}"]
            keys = [key for one in self._observed for key in one.keys]
            arrays = {key: self._read(demo, f"obs/{key}", where) for key in keys}
            action = self._read(demo, "actions", where).astype(np.float32)
            extras = {ours: self._read(demo, key, where).astype(dtype) for key, (ours, dtype) in _EXTRAS.items() if key in demo}
            source.require_lengths(where, {k: len(a) for k, a in (arrays | extras).items()}, len(action))
            try:
                observation = {one.name: one.gather(arrays) for one in self._observed}
            except (InputError, ValueError) as error:
                raise InputError(f"{where}: {error}") from error
            success = bool((extras["next.reward"] >= 1).any()) if "next.reward" in extras else None
            yield source.SourceEpisode(name, observation, action, extras, success=success)

    def _open(self, options: source.SourceOptions) -> None:
        data = self._file.get("data")
        self._demos = self._choose_demos(data, options.subset)
        env = _env_args(self.path, data)
        kwargs = env.get("env_kwargs") or {}
        self.fps = source.require_rate(self.path, options.fps, kwargs.get("control_freq"), "e.g. --fps 20 for robosuite")
        self.task = options.task or str(env.get("env_name") or self.path.stem)
        robots = kwargs.get("robots") or []
        robots = [robots] if isinstance(robots, str) else [str(r) for r in robots]
        self.robot_type = "+".join(robots) or "unknown"
        first = data[self._demos[0]]
        if "obs" not in first or "actions" not in first:
            missing = "obs" if "obs" not in first else "actions"
            raise InputError(f"{self.path}: {self._demos[0]} has no {missing!r}; extract observations with robomimic's dataset_states_to_obs.py first")
        self._observed = self._fields(first["obs"], options)
        action = _action_spec(kwargs, int(first["actions"].shape[1]), max(1, len(robots)), self.fps)
        self.spec = Spec(ObservationSpec({one.name: one.field for one in self._observed}, self.fps), action)
        self.num_episodes = len(self._demos)

    def _choose_demos(self, data: Any, subset: str | None) -> list[str]:
        names = [n for n in (data or {}) if n.startswith("demo")]
        if not names:
            raise InputError(f"{self.path}: not a robomimic file: expected groups data/demo_0, data/demo_1, ...; found {sorted(self._file)}")
        if subset is not None:
            masks = self._file.get("mask") or {}
            if subset not in masks:
                raise InputError(f"{self.path}: no subset {subset!r} in 'mask'{suggest(subset, masks)}")
            wanted = {n.decode() if isinstance(n, bytes) else str(n) for n in masks[subset][()]}
            names = [n for n in names if n in wanted]
            if not names:
                raise InputError(f"{self.path}: subset {subset!r} names no demonstration of the file")
        return sorted(names, key=lambda n: (int(n.rpartition("_")[2]) if n.rpartition("_")[2].isdigit() else -1, n))

    def _fields(self, obs: Any, options: source.SourceOptions) -> list[source.Observed]:
        robot: dict[str, tuple[int, ...]] = {}
        world: dict[str, tuple[int, ...]] = {}
        cameras = []
        for key in source.choose_keys(list(obs), options.keys, f"{self.path}: obs"):
            shape = tuple(obs[key].shape[1:])
            if source.is_image_shape(shape):
                cameras.append(source.Observed(source.camera_name(key), (key,), source.image_field(shape)))
            elif len(shape) <= 1 and obs[key].dtype.kind in "fiub":
                (robot if _ROBOT.match(key) else world)[key] = shape
            else:
                self.notes.append(f"observation {key!r} with shape {list(shape)} was left out: neither a vector nor a colour image")
        vectors = {"observation.state": robot, "observation.environment_state": world}
        out = [source.Observed(name, tuple(part), source.vector_field(part)) for name, part in vectors.items() if part]
        if not out and not cameras:
            raise InputError(f"{self.path}: no observation can be stored; found {sorted(obs)}")
        return out + cameras

    def _read(self, demo: Any, key: str, where: str) -> np.ndarray:
        if key not in demo:
            raise InputError(f"{where}: {key!r} is missing; earlier demonstrations have it")
        try:
            return np.asarray(demo[key][()])
        except (OSError, RuntimeError) as error:
            raise InputError(f"{where}: {key!r} cannot be read: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())


def _env_args(path: Path, data: Any) -> dict[str, Any]:
    text = data.attrs.get("env_args", "{}")
    try:
        value = json.loads(text)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: attribute env_args is not valid JSON") from error
    return value if isinstance(value, dict) else {}


def _controller(kwargs: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the arm controller's type and whether its commands are increments (robosuite up to 1.4, and 1.5 on)."""
    config = kwargs.get("controller_configs") or {}
    config = config[0] if isinstance(config, list) and config else config
    if not isinstance(config, dict):
        return "", True
    parts = config.get("body_parts")
    if isinstance(parts, dict):
        config = next((p for p in (parts.get("arms") or parts).values() if isinstance(p, dict)), {})
    absolute = config.get("control_delta") is False or config.get("input_type") == "absolute"
    return str(config.get("type", "")), not absolute


def _action_spec(kwargs: Mapping[str, Any], dim: int, arms: int, fps: float) -> ActionSpec:
    """Return the action's fields as the controller defines them; one field ``action`` if it is unknown or does not fit."""
    controller, increments = _controller(kwargs)
    motion = "delta" if increments else "position"
    unit = "1" if increments else "m"  # increments are shares of the controller's largest step
    limits: dict[str, Any] = {"low": (-1.0,), "high": (1.0,)} if increments else {}
    fields: dict[str, Field] = {}
    for arm in range(arms):
        prefix = f"arm{arm}." if arms > 1 else ""
        if controller in ("OSC_POSE", "OSC_POSITION"):
            fields[f"{prefix}position"] = Field((3,), unit=unit, kind=motion, **limits)
        if controller == "OSC_POSE":
            kind = "delta" if increments else "rotation_axis_angle"
            fields[f"{prefix}rotation"] = Field((3,), unit="1" if increments else "rad", kind=kind, **limits)
        if controller in ("JOINT_VELOCITY", "JOINT_POSITION") and dim // arms > 1 and dim % arms == 0:
            kind = "velocity" if controller == "JOINT_VELOCITY" else motion
            fields[f"{prefix}joints"] = Field((dim // arms - 1,), kind=kind, **limits)
        if fields:
            fields[f"{prefix}gripper"] = Field((1,), kind="gripper", low=(-1.0,), high=(1.0,))
    spec = ActionSpec(fields, fps)
    return spec if fields and spec.dim == dim else ActionSpec({"action": Field((dim,), kind="position")}, fps)
