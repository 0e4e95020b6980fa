"""Domain randomisation: what differs from episode to episode in the worlds of a task, drawn from the episode's seed and recorded.

A :class:`Randomizer` stands between a task and its engine: it writes model fields of the worlds that begin, and lets commands and
readings be late, lost and noisy. The draws have streams of their own, one an entry: neither the task's own draws nor those of other
entries change when one is added. What was drawn can be recorded (:meth:`Randomizer.record`) and imposed again
(:meth:`Randomizer.impose`): the same seed and actions then give the same episode, bit for bit.
"""

from __future__ import annotations

import fnmatch
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import Field, InputError, Spec, suggest
from sim.draws import Draws
from sim.engine import Engine
from sim.env import Observation
from sim.episodes import hashed
from sim.randomize_config import ActionDraw, Distribution, FieldDraw, RandomizeConfig, SensorDraw, read_config
from sim.randomize_curriculum import Curriculum
from sim.randomize_fields import Selection, material_ids, select, split_key
from sim.randomize_physics import ModelFields, check, companions, drawn_shape, neutral, require_body, require_possible, spread
from sim.randomize_signals import Channel

_MODEL = "randomize.model"
_STREAM = 0x52D0_0000_0000  # randomisation's streams begin here; tasks count theirs from 0
_NOISE_KEY = "noise_key"
_LEVEL = "level"


@dataclass(frozen=True)
class _Entry:
    """One model field that is drawn."""

    selection: Selection
    draw: FieldDraw
    distribution: Distribution
    neutral: float | np.ndarray


@dataclass(frozen=True)
class _Quantity:
    """One thing that is drawn: how, in which shape, and where its numbers lie among those of an episode."""

    name: str
    distribution: Distribution
    shape: tuple[int, ...]
    neutral: float | np.ndarray
    stream: int
    numbers: slice


@dataclass(frozen=True)
class _Wire:
    """One channel: what can be drawn for it, its elements in the field (D,), and the field's name (empty: the action)."""

    key: str
    config: ActionDraw | SensorDraw
    channel: Channel
    field: str
    elements: np.ndarray
    rate_hz: float

    @property
    def lateness(self) -> str:
        """What the config calls the delay of this channel."""
        return "latency" if self.field else "delay"

    def parts(self) -> Iterator[tuple[str, Distribution, int]]:
        """Yield (name, distribution, how many numbers an episode) of everything that is drawn."""
        for part in (self.lateness, "bias", "noise", "dropout"):
            distribution = getattr(self.config, part, None)
            if distribution is not None:
                yield f"{self.key}.{part}", distribution, len(self.elements) if part == "bias" else 1


class Randomizer:
    """Draws for the worlds of one task.

    Args:
        config: The section ``randomize`` of a recipe, see ``sim.randomize_config``.
        engine: The worlds.
        spec: Of the task.
        num_worlds: N.

    Attributes:
        config: As typed.
        curriculum: Whose level the ranges follow, or None.

    Raises:
        InputError: one line, for an unknown key, field or element, or a range that physics does not allow.
    """

    def __init__(self, config: Mapping[str, Any] | RandomizeConfig, engine: Engine, spec: Spec, num_worlds: int) -> None:
        self.config = read_config(config)
        self.curriculum = Curriculum(self.config.curriculum) if self.config.curriculum else None
        self._engine, self._num_worlds = engine, num_worlds
        self._fields = ModelFields(engine)
        self._entries = {f"model.{key}": self._entry(key, draw) for key, draw in self.config.model.items()}
        self._turning = [entry for entry in self._entries.values() if entry.selection.named.also == "inertia"]
        self._before = spec.action.zero_when_held
        self._wires = [_action_wire(self.config.actions, spec, num_worlds)] if self.config.actions else []
        self._wires += [wire for key, draw in self.config.sensors.items() if (wire := _sensor_wire(key, draw, spec, num_worlds))]
        self._acting = [wire for wire in self._wires if not wire.field]
        self._sensing = [wire for wire in self._wires if wire.field]
        self._quantities, self._streams, self._lanes = self._plan()
        self._drawn = self._blank()
        self._pending: dict[str, np.ndarray] = {}
        self._is_pending = np.zeros(num_worlds, bool)
        self._won = np.zeros(num_worlds, bool)
        self._all = np.arange(num_worlds)

    @property
    def channels(self) -> tuple[str, ...]:
        """What is late, lost or noisy at the task's rate: ``actions``, ``sensors.FIELD``."""
        return tuple(wire.key for wire in self._wires)

    # The hooks of a task -----------------------------------------------------------------------------------------

    def begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        """Draw for the episodes ``seeds`` (K,) that begin in worlds ``rows`` (K,), and write their model fields.

        To be called before the engine's reset: where mocap bodies stand then follows from the fields.

        Raises:
            InputError: if a draw is not possible in physics; names the key, the element, the value and the seed.
        """
        drawn = self._draws(seeds)
        imposed = np.flatnonzero(self._is_pending[rows])
        if imposed.size:
            for name, values in drawn.items():
                values[imposed] = self._pending[name][rows[imposed]]
            self._is_pending[rows] = False
        for name, values in drawn.items():
            self._drawn[name][rows] = values
        self._fields.restore(rows)
        for name, entry in self._entries.items():
            values = spread(entry.selection, drawn[name])
            new = self._fields.write(entry.selection, entry.draw.operation, rows, values, entry.draw.inertia)
            check(entry.selection, new, seeds, _MODEL)
        for entry in self._turning:  # once all moments are written
            require_body(entry.selection, self._fields.open("body_inertia")[rows][:, entry.selection.rows], _MODEL)
        if self._entries:
            self._engine.refresh(rows)
        for wire in self._wires:
            none = np.zeros((len(rows), 1))
            late, noise, dropout, bias = (drawn.get(f"{wire.key}.{part}", none) for part in (wire.lateness, "noise", "dropout", "bias"))
            key = hashed(drawn[_NOISE_KEY], zlib.crc32(wire.key.encode()))
            wire.channel.begin(rows, key, late[:, 0] * wire.rate_hz, noise[:, 0], dropout[:, 0], bias)
        self._won[rows] = False

    def act(self, action: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Return what arrives at the actuators (N, Da) float32 when ``action`` (N, Da) is sent in worlds ``rows`` (K,) (None: all).

        To be called once a control step; nothing is sent in the other worlds.
        """
        for wire in self._acting:
            if rows is None:
                action = wire.channel.send(self._all, action, self._before)
            else:
                sent = wire.channel.send(rows, action[rows], self._before)
                action = action.copy()
                action[rows] = sent
        return action

    def sense(self, observation: Observation, rows: np.ndarray) -> None:
        """Turn the true ``observation``, field -> (N, *shape), of worlds ``rows`` (K,) into what is read, in place; once an observation."""
        for wire in self._sensing:
            values = observation[wire.field]
            flat = values.reshape(len(values), -1)  # a view
            at = (rows[:, None], wire.elements[None, :])
            flat[at] = wire.channel.read(rows, flat[at])

    def judged(self, rows: np.ndarray, success: np.ndarray) -> None:
        """Note the ``success`` (K,) bool of a control step of worlds ``rows`` (K,): an episode counts if it ever succeeded."""
        self._won[rows] |= np.asarray(success, bool)

    def ended(self, rows: np.ndarray) -> None:
        """Count the episodes of worlds ``rows`` (K,) for the curriculum; they are over."""
        if self.curriculum is not None and rows.size:
            self.curriculum.count(self._won[rows])

    # Records -----------------------------------------------------------------------------------------------------

    def drawn(self) -> dict[str, np.ndarray]:
        """Return name -> (N, ...) of what the present episodes drew, copies.

        ``model.mass:pole`` (N, elements, components), ``actions.delay`` (N, 1) in s, ``sensors.FIELD.bias`` (N, D), ``noise_key`` (N,),
        ``level`` (N,).
        """
        return {name: values.copy() for name, values in self._drawn.items()}

    def record(self, row: int) -> dict[str, Any]:
        """Return what the episode of one world drew, JSON-ready; :meth:`impose` takes it back without loss."""
        return {name: values[row].tolist() for name, values in self._drawn.items()}

    def impose(self, rows: np.ndarray, drawn: Mapping[str, Any]) -> None:
        """Let the next episodes of worlds ``rows`` (K,) have ``drawn``, name -> (K, ...) as :meth:`drawn` gives it, instead of draws.

        To be called before their reset; together with the seed this repeats a recorded episode.

        Raises:
            InputError: if names or shapes are not those of this randomizer, or a delay is longer than it can draw; names the nearest.
        """
        rows = np.asarray(rows, np.int64)
        known = [*self._drawn]
        for name in drawn:
            if name not in self._drawn:
                raise InputError(f"recorded draw {name!r} is not among those of this task's randomize section{suggest(name, known)}")
        for name, own in self._drawn.items():
            if name not in drawn:
                raise InputError(f"the recorded draws lack {name!r}, which this task's randomize section draws")
            values = np.asarray(drawn[name], own.dtype)
            if values.shape != (len(rows), *own.shape[1:]):
                raise InputError(f"recorded draw {name!r}: expected shape {(len(rows), *own.shape[1:])}, found {values.shape}")
            self._require_room(name, values)
            self._pending.setdefault(name, np.zeros_like(own))[rows] = values
        self._is_pending[rows] = True

    def _require_room(self, name: str, values: np.ndarray) -> None:
        """Refuse recorded delays (K, 1), s, that are longer than what this randomizer remembers."""
        for wire in self._wires:
            most = _longest(getattr(wire.config, wire.lateness), 1.0)
            if name == f"{wire.key}.{wire.lateness}" and values.max(initial=0.0) > most + 1e-9:
                raise InputError(f"recorded draw {name!r}: {values.max():g} s is longer than the {most:g} s that this task's randomize section allows")

    def lost(self) -> dict[str, np.ndarray]:
        """Return name -> (N,) int64: how many commands (``actions``) and readings (``sensors.FIELD``) were lost in the present episodes."""
        return {wire.key: wire.channel.lost.copy() for wire in self._wires}

    def state(self) -> dict[str, Any]:
        """Return the curriculum's state, JSON-ready (empty without one)."""
        return {} if self.curriculum is None else dict(self.curriculum.state())

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`. Raises InputError if it is not one."""
        if self.curriculum is not None:
            self.curriculum.load(state)
        elif state:
            raise InputError("this task's randomize section has no curriculum to load a state into")

    # Inside ------------------------------------------------------------------------------------------------------

    def _entry(self, key: str, draw: FieldDraw) -> _Entry:
        selection = select(key, self._engine.model)
        distribution = draw.distribution
        if distribution.words:
            ids = material_ids(self._engine.model)
            wrong = [word for word in distribution.words if word not in ids]
            if selection.named.also != "material" or wrong:
                what = f"no material {wrong[0]!r}{suggest(wrong[0], ids)}" if selection.named.also == "material" else f"{distribution.words[0]!r} is no number"
                raise InputError(f"{_MODEL}: {key!r}: {what}")
            distribution = distribution.named(ids)
        require_possible(selection, draw, _MODEL)
        for field in (selection.named.field, *companions(selection)):
            self._fields.open(field)
        return _Entry(selection, draw, distribution, neutral(selection, draw))

    def _plan(self) -> tuple[list[_Quantity], np.ndarray, np.ndarray]:
        """Return what is drawn for an episode, with stream and place (S,) of every number that this takes."""
        wanted = [(n, e.distribution, drawn_shape(e.selection, e.draw.grain), e.neutral) for n, e in self._entries.items()]
        wanted += [(name, distribution, (width,), 0.0) for wire in self._wires for name, distribution, width in wire.parts()]
        out, streams, lanes, begin = [], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for name, distribution, shape, neutral_ in wanted:
            count = distribution.numbers * math.prod(shape)
            stream = _STREAM + zlib.crc32(name.encode())
            out.append(_Quantity(name, distribution, shape, neutral_, stream, slice(begin, begin + count)))
            streams.append(np.full(count, stream))
            lanes.append(np.arange(count))
            begin += count
        return out, np.concatenate(streams), np.concatenate(lanes)

    def _blank(self) -> dict[str, np.ndarray]:
        """Return zeros for everything that is drawn."""
        drawn = self._draws(np.zeros(1, np.int64))
        return {name: np.zeros((self._num_worlds, *values.shape[1:]), values.dtype) for name, values in drawn.items()}

    def _draws(self, seeds: np.ndarray) -> dict[str, np.ndarray]:
        """Return name -> (K, ...) for episodes ``seeds`` (K,) at the present level."""
        level = 1.0 if self.curriculum is None else self.curriculum.level
        out: dict[str, np.ndarray] = {}
        seeds = np.asarray(seeds, np.int64)
        numbers = hashed(seeds[:, None], self._streams, self._lanes) * 2.0**-63  # of all quantities at once
        for one in self._quantities:
            draws = Draws(seeds, one.stream, numbers[:, one.numbers])
            out[one.name] = one.distribution.draw(draws, one.shape, level, one.neutral)
        out[_NOISE_KEY] = hashed(seeds, _STREAM)
        out[_LEVEL] = np.full(len(seeds), level)
        return out


def _longest(delay: Distribution | None, rate_hz: float) -> float:
    return 0.0 if delay is None else delay.bounds[1] * rate_hz


def _action_wire(config: ActionDraw, spec: Spec, num_worlds: int) -> _Wire:
    longest = _longest(config.delay, spec.action.rate_hz)
    low, high, noisy, losing = spec.action.low, spec.action.high, config.noise is not None, config.dropout is not None
    channel = Channel(num_worlds, spec.action.dim, low, high, longest, noisy, losing, False, "float32")
    return _Wire("actions", config, channel, "", np.arange(spec.action.dim), spec.action.rate_hz)


def _sensor_wire(key: str, config: SensorDraw, spec: Spec, num_worlds: int) -> _Wire:
    name, pattern = split_key(key)
    fields = spec.observation.fields
    where = f"randomize.sensors: {key!r}"
    if name not in fields:
        raise InputError(f"{where}: the task observes no field {name!r}{suggest(name, fields)}")
    field = fields[name]
    if not np.issubdtype(np.dtype(field.dtype), np.floating):
        raise InputError(f"{where}: expected a field of floating-point numbers, found {field.dtype}; cameras are varied through randomize.model")
    elements = _elements(field, pattern, where)
    low, high = (np.full(field.size, end) if side is None else np.asarray(side) for side, end in ((field.low, -np.inf), (field.high, np.inf)))
    longest, noisy, losing = _longest(config.latency, spec.observation.rate_hz), config.noise is not None, config.dropout is not None
    channel = Channel(num_worlds, len(elements), low[elements], high[elements], longest, noisy, losing, config.bias is not None, field.dtype)
    return _Wire(f"sensors.{key}", config, channel, name, elements, spec.observation.rate_hz)


def _elements(field: Field, pattern: str, where: str) -> np.ndarray:
    """Return (D,) indices of a field's elements whose names match ``pattern``; all without one."""
    if not pattern:
        return np.arange(field.size)
    found = [i for i, name in enumerate(field.names) if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise InputError(f"{where}: no element {pattern!r}{suggest(pattern, field.names)}")
    return np.array(found, np.int64)
