"""Minari's data sets (minari.farama.org), by folder or by the name of one that is installed locally.

A Box becomes ``observation.state``, a Dict one field per entry (``observation`` -> ``observation.state``, images ->
cameras, ``desired_goal`` -> a goal). Frame t pairs observation t with action t; the observation after the last action has
no action and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from robopolicy.data.convert import source


class MinariSource:
    """An opened Minari data set; the attributes are :class:`robopolicy.data.convert.source.Source`'s."""

    def __init__(self, path: Path, options: source.SourceOptions) -> None:
        """Open a folder, or the name of an installed data set. Raises InputError if it cannot be read or stored."""
        from minari import MinariDataset

        self.path, self.robot_type = path, "unknown"
        self.notes: list[str] = []
        folder = _find(path)
        try:
            self._dataset = MinariDataset(folder)
        except (OSError, ValueError, KeyError, AssertionError, ImportError) as error:
            raise InputError(f"{path}: cannot be read as a Minari data set ({_reason(error)})") from error
        if options.subset is not None:
            raise InputError(f"{path}: subset {options.subset!r}: Minari data sets have no subsets")
        self.num_episodes = int(self._dataset.total_episodes)
        if not self.num_episodes:
            raise InputError(f"{path}: the data set has no episodes")
        env = self._dataset.spec.env_spec
        self.fps = source.require_rate(path, options.fps, None, "the control rate of its environment")
        self.task = options.task or (env.id if env is not None else str(self._dataset.spec.dataset_id))
        self._observed = self._fields(options)
        self._actions = _leaves(self._dataset.spec.action_space)
        self.spec = Spec(ObservationSpec({one.name: one.field for one in self._observed}, self.fps), ActionSpec(self._action_fields(), self.fps))

    def close(self) -> None:
        """Do nothing: Minari opens its files episode by episode."""

    def episodes(self) -> Iterator[source.SourceEpisode]:
        """Yield every episode in order. Raises InputError naming the one that is damaged."""
        for index in self._dataset.episode_indices:
            where = f"{self.path}: episode {index}"
            try:
                episode = next(iter(self._dataset.iterate_episodes([index])))
                stored = next(iter(self._dataset.storage.get_episode_metadata([index])))
            except (OSError, KeyError, ValueError, RuntimeError, AssertionError) as error:
                raise InputError(f"{where}: cannot be read: {_reason(error)}") from error
            arrays, actions = _flatten(episode.observations), _flatten(episode.actions)
            length = len(episode.rewards)
            parts = [np.asarray(actions[key], np.float32).reshape(len(actions[key]), -1) for key in self._actions]
            action = np.concatenate(parts, 1)
            source.require_lengths(where, {"rewards": length, "observations": len(next(iter(arrays.values()))) - 1}, len(action))
            try:
                observation = {one.name: one.gather(arrays)[:length] for one in self._observed}
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
            ended = np.asarray(episode.terminations, bool)
            extras = {
                "next.reward": np.asarray(episode.rewards, np.float32),
                "next.done": ended | np.asarray(episode.truncations, bool),
                "next.terminated": ended,
            }
            seed = stored.get("seed")
            yield source.SourceEpisode(str(index), observation, action, extras, success=_success(episode.infos), seed=None if seed is None else int(seed))

    def _fields(self, options: source.SourceOptions) -> list[source.Observed]:
        out = []
        spaces = _leaves(self._dataset.spec.observation_space)
        for key in source.choose_keys(list(spaces), options.keys, f"{self.path}: observation space"):
            space = spaces[key]
            shape = tuple(int(n) for n in space.shape or ())
            if source.is_image_shape(shape):
                name = source.camera_name(key.rpartition("/")[2] or "camera")
                out.append(source.Observed(name, (key,), source.image_field(shape)))
            elif type(space).__name__ in ("Box", "Discrete", "MultiBinary", "MultiDiscrete"):
                name = "state" if key in ("", "observation") else source.clean_name(key)
                kind = "goal" if key.rpartition("/")[2] == "desired_goal" else "state"
                out.append(source.Observed(f"observation.{name}", (key,), Field(shape or (1,), kind=kind)))
            else:
                self.notes.append(f"observation {key!r} was left out: {type(space).__name__} cannot be stored as numbers")
        if not out:
            raise InputError(f"{self.path}: no observation can be stored; found {self._dataset.spec.observation_space}")
        return out

    def _action_fields(self) -> dict[str, Field]:
        fields = {}
        for key, space in self._actions.items():
            if type(space).__name__ != "Box":
                raise InputError(f"{self.path}: the action space holds a {type(space).__name__}, expected Box: actions are vectors of numbers here")
            bounds = [np.asarray(side, np.float64).ravel() for side in (space.low, space.high)]
            low, high = (tuple(b) if np.all(np.isfinite(b)) else None for b in bounds)
            fields[source.clean_name(key) or "action"] = Field((int(np.prod(space.shape)),), low=low, high=high, kind="position")
        return fields


def _find(path: Path) -> Path:
    """Return the ``data`` folder of a data set given by folder or by installed name."""
    from minari.storage import get_dataset_path

    places = [path, path / "data"] if path.exists() else [Path(get_dataset_path(str(path))) / "data"]
    for place in places:
        if (place / "main_data.hdf5").is_file() or (place / "metadata.json").is_file():
            return place
    raise InputError(f"{path}: no Minari data set: neither a folder with data/main_data.hdf5 nor an installed name (minari list local)")


def _leaves(space: Any, prefix: str = "") -> dict[str, Any]:
    """Return path -> simple space; a simple space has the path ``""``."""
    children = getattr(space, "spaces", None)
    if children is None:
        return {prefix: space}
    items = children.items() if isinstance(children, Mapping) else ((str(i), s) for i, s in enumerate(children))
    return {path: leaf for key, child in items for path, leaf in _leaves(child, f"{prefix}/{key}" if prefix else str(key)).items()}


def _flatten(value: Any, prefix: str = "") -> dict[str, np.ndarray]:
    if isinstance(value, (Mapping, tuple)):
        items = value.items() if isinstance(value, Mapping) else ((str(i), v) for i, v in enumerate(value))
        return {path: leaf for key, child in items for path, leaf in _flatten(child, f"{prefix}/{key}" if prefix else str(key)).items()}
    return {prefix: np.asarray(value)}


def _success(infos: Any) -> bool | None:
    for name in ("success", "is_success"):
        if isinstance(infos, Mapping) and name in infos:
            return bool(np.asarray(infos[name]).any())
    return None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
