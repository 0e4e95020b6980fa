"""Signals between a policy and N worlds that are noisy, late and lost: array code, random numbers by counter.

Every number is a function of (episode's seed, kind, field, step) alone, so an episode is the same whatever the block, the worker
and the rows beside it.
"""

from __future__ import annotations

import fnmatch
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policies.spec import Field, InputError, Spec, suggest
from robopolicy.evaluation.perturb import Perturbation
from sim.env import Observation
from sim.episodes import hashed
from sim.randomize_signals import Ring, step_normals, step_uniform

_LANE = 0x7065_7274  # of the hash, for nothing else


def key(seeds: np.ndarray, *what: str) -> np.ndarray:
    """Return the keys (K,) int64 of one stream of random numbers of episodes ``seeds`` (K,)."""
    return hashed(seeds, _LANE, zlib.crc32(":".join(what).encode()))


@dataclass
class _Wire:
    """One observed field on its way.

    Attributes:
        name: Of the field.
        field: Its description.
        noise: (D,) standard deviation, or None.
        ring: What is still on its way, or None where nothing is late.
        steps: How late, control steps.
        chance: That a frame of it is lost.
    """

    name: str
    field: Field
    noise: np.ndarray | None = None
    ring: Ring | None = None
    steps: float = 0.0
    chance: float = 0.0


class SensorPath:
    """Observations of N worlds: late, then noisy, then lost.

    Measured numbers that are late by a fraction of a step lie between two readings in proportion; pictures are never mixed: the
    newest whole frame that is old enough is delivered. Before the first frame has arrived, it is there already. The first frame of
    an episode is never lost. A lost frame repeats what was delivered last, in all fields that can be lost; where their chances
    differ, one draw decides for all of them, so that the likelier one is lost whenever the other is.

    Args:
        spec: Of the worlds.
        num_worlds: N.
        perturbations: Those of the sensors.

    Attributes:
        dropped: (N,) int64, frames lost in the present episodes.
    """

    def __init__(self, spec: Spec, num_worlds: int, perturbations: Sequence[Perturbation]) -> None:
        self._wires = {name: _Wire(name, field) for name, field in spec.observation.fields.items()}
        self.dropped, self._time, self._seeds = (np.zeros(num_worlds, np.int64) for _ in range(3))
        self.expert = any(p.expert for p in perturbations)
        self._expert_steps, self._expert_chance = 0, 0.0
        met: set[tuple[str, str]] = set()
        for p in perturbations:
            for wire in self._meant(p):
                if (p.kind, wire.name) in met:
                    raise InputError(f"perturbation {p}: {p.kind} of {wire.name!r} is given twice, by patterns that meet")
                met.add((p.kind, wire.name))
            self._add(p, spec, num_worlds)
        self.out: Observation = {n: np.zeros((num_worlds, *w.field.shape), w.field.dtype) for n, w in self._wires.items()}
        self._expert = np.zeros((num_worlds, spec.action.dim), np.float32)
        self._expert_ring = Ring(num_worlds, spec.action.dim, self._expert_steps, "float32")
        self._expert_time = np.full(num_worlds, -1)
        self._lost = np.zeros(num_worlds, bool)

    def _add(self, p: Perturbation, spec: Spec, num_worlds: int) -> None:
        wires = self._meant(p)
        if p.kind == "noise":
            for wire in wires:
                wire.noise = _deviation(p, wire)
        elif p.kind == "pixel_noise":
            for wire in wires:
                wire.noise = np.full(wire.field.size, 255.0 * p.size)
        elif p.kind == "drops":
            for wire in wires:
                wire.chance = p.size
            self._expert_chance = max(self._expert_chance, p.size * p.expert)
        else:
            steps = 1e-3 * p.size * spec.observation.rate_hz
            for wire in wires:
                wire.steps = steps if np.issubdtype(np.dtype(wire.field.dtype), np.floating) else float(np.ceil(steps - 1e-9))
                wire.ring = Ring(num_worlds, wire.field.size, wire.steps, wire.field.dtype)
            self._expert_steps = max(self._expert_steps, int(np.ceil(steps - 1e-9)) * p.expert)

    def _meant(self, p: Perturbation) -> list[_Wire]:
        """Return the fields that a perturbation is about. Raises InputError if there are none."""
        floating = [w for w in self._wires.values() if np.issubdtype(np.dtype(w.field.dtype), np.floating)]
        able = {"noise": floating, "pixel_noise": [w for w in self._wires.values() if w.field.is_image]}.get(p.kind, list(self._wires.values()))
        if p.kind == "noise" and isinstance(p.scale, dict):
            able = [w for w in able if w.name in p.scale]  # what no checkpoint was trained on, none reads
        found = [w for w in able if not p.element or fnmatch.fnmatchcase(w.name, p.element)]
        if not able:
            raise InputError(f"perturbation {p}: these worlds observe no {'pictures' if p.kind == 'pixel_noise' else 'numbers that it could act on'}")
        if not found:
            raise InputError(f"perturbation {p}: no observed field {p.element!r}{suggest(p.element, [w.name for w in able])}")
        return found

    def begin(self, rows: np.ndarray, seeds: np.ndarray, true: Observation) -> None:
        """Begin episodes ``seeds`` (K,) in worlds ``rows`` (K,) whose first true observation is ``true``, field -> (N, *shape)."""
        self._seeds[rows], self._time[rows], self.dropped[rows], self._expert_time[rows] = seeds, 0, 0, -1
        for wire in self._wires.values():
            if wire.ring is not None:
                wire.ring.begin(rows, np.full(len(rows), wire.steps))
                wire.ring.fill(rows, true[wire.name][rows].reshape(len(rows), wire.field.size))
        self._expert_ring.begin(rows, np.full(len(rows), float(self._expert_steps)))
        self.deliver(rows, true)

    def deliver(self, rows: np.ndarray, true: Observation) -> None:
        """Write into :attr:`out` what worlds ``rows`` (K,) deliver after one more frame ``true``, field -> (N, *shape); others keep theirs."""
        time, seeds = self._time[rows], self._seeds[rows]
        chances = [wire.chance for wire in self._wires.values()]
        drawn = np.where(time > 0, step_uniform(key(seeds, "drops"), time), np.inf) if any(chances) else np.full(len(rows), np.inf)
        self._lost[rows] = drawn < self._expert_chance
        self.dropped[rows] += drawn < max(chances)
        for wire in self._wires.values():
            values = true[wire.name][rows].reshape(len(rows), wire.field.size)
            if wire.ring is not None:
                values = wire.ring.pass_through(rows, time, values)
            if wire.noise is not None:
                values = _noisy(wire, values, wire.noise * step_normals(key(seeds, "noise", wire.name), time, values.shape[1]))
            out = self.out[wire.name].reshape(len(self._time), wire.field.size)  # a view
            out[rows] = np.where((drawn < wire.chance)[:, None], out[rows], values) if wire.chance else values
        self._time[rows] += 1

    def expert_action(self, rows: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Return what the expert does (N, Da) who acts on the delivered frames, if it does ``action`` (N, Da) at the present true states.

        To be called once for every frame of the running worlds ``rows`` (K,); a repeated call changes nothing.
        """
        rows = rows[self._expert_time[rows] != self._time[rows]]
        time = self._time[rows] - 1  # of the present frame
        first = rows[time == 0]
        self._expert_ring.fill(first, action[first])
        late = self._expert_ring.pass_through(rows, time, action[rows].astype(np.float32))
        self._expert[rows] = np.where(self._lost[rows][:, None], self._expert[rows], late)
        self._expert_time[rows] = self._time[rows]
        return self._expert.copy()


def _deviation(p: Perturbation, wire: _Wire) -> np.ndarray:
    """Return the standard deviations (D,) of noise on a field."""
    if p.scale == "field":
        return np.full(wire.field.size, p.size)
    if p.scale == "data":
        raise InputError(f"perturbation {p}: shares of the data's deviation need a checkpoint; write {p},scale=field for the fields' own units")
    assert isinstance(p.scale, Mapping)
    scale = np.asarray(p.scale[wire.name], np.float64)
    if scale.shape != (wire.field.size,):
        raise InputError(f"perturbation {p}: scale of {wire.name!r}: expected {wire.field.size} numbers, found {scale.size}")
    return p.size * scale


def _noisy(wire: _Wire, values: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return ``values`` (K, D) with ``noise`` (K, D), inside the limits of the field."""
    if wire.field.is_image:
        return np.clip(np.rint(values + noise), 0, 255).astype(values.dtype)
    low = -np.inf if wire.field.low is None else np.asarray(wire.field.low)
    high = np.inf if wire.field.high is None else np.asarray(wire.field.high)
    return np.clip(values + noise, low, high).astype(values.dtype)


class ActionPath:
    """Actions of N worlds: lost, then late, then noisy.

    Before the first one arrives the robot holds still: rates, increments and efforts are 0, position targets are where the first
    observation says that the robot is (elements of the same name), anything else is the first action itself. A lost action repeats
    the one before, the first one what is held. An action that is late by a fraction of a step acts with its mean over the step.

    Args:
        spec: Of the worlds.
        num_worlds: N.
        perturbations: Those of the actions.

    Attributes:
        lost: (N,) int64, actions lost in the present episodes.
    """

    def __init__(self, spec: Spec, num_worlds: int, perturbations: Sequence[Perturbation]) -> None:
        sizes = {p.kind: p.size for p in perturbations}
        self._spec, self._steps = spec, 1e-3 * sizes.get("delay", 0.0) * spec.action.rate_hz
        self._chance, share = sizes.get("lost_commands", 0.0), sizes.get("action_noise", 0.0)
        half = (np.asarray(spec.action.high, np.float64) - np.asarray(spec.action.low, np.float64)) / 2
        if share and not np.isfinite(half).all():
            unlimited = spec.action.names[int(np.argmin(np.isfinite(half)))]
            raise InputError(f"perturbation action_noise:{share:g}: action {unlimited!r} has no limits that the size could be a share of")
        self._deviation = share * half if share else None
        self._ring = Ring(num_worlds, spec.action.dim, self._steps, "float32") if self._steps else None
        self._last, self._held = np.zeros((num_worlds, spec.action.dim), np.float32), _held_elements(spec)
        self.lost, self._time, self._seeds = (np.zeros(num_worlds, np.int64) for _ in range(3))

    def begin(self, rows: np.ndarray, seeds: np.ndarray, true: Observation) -> None:
        """Begin episodes ``seeds`` (K,) in worlds ``rows`` (K,) with first true observation ``true``, field -> (N, *shape)."""
        self._seeds[rows], self._time[rows], self.lost[rows] = seeds, 0, 0
        self._last[rows] = np.nan  # the first action itself
        self._last[np.ix_(rows, np.flatnonzero(self._spec.action.zero_when_held))] = 0.0
        for element, (name, place) in self._held.items():
            self._last[rows, element] = true[name].reshape(len(self._time), -1)[rows, place]
        self._last[rows] = np.clip(self._last[rows], self._spec.action.low, self._spec.action.high)
        if self._ring is not None:
            self._ring.begin(rows, np.full(len(rows), self._steps))

    def send(self, rows: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Return what arrives (N, Da) float32 when ``action`` (N, Da) is sent in the running worlds ``rows`` (K,); other rows are as given."""
        out, time = np.array(action, np.float32), self._time[rows]
        sent = self._spec.action.clip(out[rows])
        first = np.flatnonzero(time == 0)
        begun = rows[first]
        self._last[begun] = np.where(np.isnan(self._last[begun]), sent[first], self._last[begun])
        if self._ring is not None and first.size:
            self._ring.fill(begun, self._last[begun])
        if self._chance:
            lost = step_uniform(key(self._seeds[rows], "lost_commands"), time) < self._chance
            sent = np.where(lost[:, None], self._last[rows], sent)
            self.lost[rows] += lost
        self._last[rows] = sent
        if self._ring is not None:
            sent = self._ring.pass_through(rows, time, sent)
        if self._deviation is not None:
            noise = self._deviation * step_normals(key(self._seeds[rows], "action_noise"), time, sent.shape[1])
            sent = self._spec.action.clip(sent + noise)
        self._time[rows] += 1
        out[rows] = sent
        return out


def _held_elements(spec: Spec) -> dict[int, tuple[str, int]]:
    """Return index of a position target -> (observed field, index in it) of the measured value of the same name."""
    measured = {element: (name, i) for name, f in reversed(list(spec.observation.fields.items())) if not f.is_image for i, element in enumerate(f.names)}
    kinds = [f.kind for f in spec.action.fields.values() for _ in range(f.size)]
    names = [f.names[i] if f.names else "" for f in spec.action.fields.values() for i in range(f.size)]
    return {i: measured[name] for i, (name, kind) in enumerate(zip(names, kinds, strict=True)) if kind == "position" and name in measured}
