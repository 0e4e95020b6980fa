"""Windows of recorded motion, and their prediction in worlds that each have model fields, delay and first state of their own.

A recording is cut into short windows so that small errors cannot grow for long (multiple shooting, Bock and Plitt 1984). What a task
observes of its joints is found by probing: elements of the observation that are an affine function of one joint coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.spec import InputError, suggest
from sim.env import Observation
from sim.randomize_fields import Selection
from sim.randomize_physics import ModelFields, companions, quaternion, quaternion_product
from sim.randomize_signals import late
from sim.task import MujocoTask

_PROBES = 12
_HINGE_OR_SLIDE = 2  # mjtJoint: free 0, ball 1, slide 2, hinge 3


@dataclass(frozen=True)
class Trajectory:
    """One recorded episode of T frames at the task's rate.

    Attributes:
        actions: (T, Da), sent at each frame.
        observation: field -> (T, *shape), read at each frame, before the action.
        name: For messages.
    """

    actions: np.ndarray
    observation: dict[str, np.ndarray]
    name: str


@dataclass(frozen=True)
class Windows:
    """W windows of L steps.

    Attributes:
        actions: (W, before + L, Da): those of each window, and ``before`` that were sent earlier.
        observed: (W, L + 1, D) readings of the elements that are compared.
        before: Actions in front of the window's first.
        where: (W, 2) int64: trajectory and frame at which each begins.
    """

    actions: np.ndarray
    observed: np.ndarray
    before: int
    where: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def steps(self) -> int:
        """L."""
        return self.observed.shape[1] - 1

    def pick(self, rows: np.ndarray) -> Windows:
        """Return the windows ``rows`` (K,) alone."""
        return Windows(self.actions[rows], self.observed[rows], self.before, self.where[rows])


@dataclass(frozen=True)
class Observed:
    """Which elements of the observation are compared, and what they say about the joints.

    Attributes:
        fields: (D,) name of the field of each element.
        elements: (D,) int64, its index in the flattened field.
        names: (D,) for people.
        coordinate: (D,) int64: index into (qpos, qvel) laid end to end of which it is ``slope * coordinate + offset``; -1: of none alone.
        slope: (D,).
        offset: (D,).
    """

    fields: tuple[str, ...]
    elements: np.ndarray
    names: tuple[str, ...]
    coordinate: np.ndarray
    slope: np.ndarray
    offset: np.ndarray

    def of(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the compared elements (T, D) float64 of an observation, field -> (T, *shape)."""
        columns = [observation[f].reshape(len(observation[f]), -1)[:, e] for f, e in zip(self.fields, self.elements, strict=True)]
        return np.stack(columns, axis=1).astype(np.float64)


def whole(trajectories: Sequence[Trajectory], observed: Observed, before: int, held: np.ndarray) -> Windows:
    """Return one window for each trajectory, from its first frame on and as long as the shortest one.

    Before the first command efforts and rates were zero; where ``held`` (Da,) bool is not set, that command itself.

    Raises:
        InputError: if a trajectory has fewer than three frames.
    """
    steps = min(len(t.actions) for t in trajectories) - 1
    if steps < 2:
        raise InputError(f"whole trajectories: expected at least 3 frames, the shortest has {steps + 1}")
    ahead = [np.repeat(np.where(held, 0.0, t.actions[:1]), before, axis=0) for t in trajectories]
    actions = np.stack([np.concatenate([a, t.actions[:steps]]) for a, t in zip(ahead, trajectories, strict=True)]).astype(np.float64)
    where = np.stack([np.arange(len(trajectories)), np.zeros(len(trajectories), np.int64)], axis=1)
    return Windows(actions, np.stack([observed.of(t.observation)[: steps + 1] for t in trajectories]), before, where)


def cut(trajectories: Sequence[Trajectory], observed: Observed, steps: int, before: int, most: int) -> Windows:
    """Cut trajectories into windows of ``steps``, the first beginning ``before`` frames into each; at most ``most``, evenly spread.

    Raises:
        InputError: if no trajectory is long enough.
    """
    where = [(i, s) for i, t in enumerate(trajectories) for s in range(before, len(t.actions) - steps, steps)]
    if not where:
        longest = max((len(t.actions) for t in trajectories), default=0)
        raise InputError(f"no trajectory has a window of {steps} steps after the first {before}: the longest has {longest} frames; take a shorter window")
    if len(where) > most:
        where = [where[i] for i in np.linspace(0, len(where) - 1, most).round().astype(int)]
    values = [observed.of(t.observation) for t in trajectories]
    actions = np.stack([trajectories[i].actions[s - before : s + steps] for i, s in where]).astype(np.float64)
    return Windows(actions, np.stack([values[i][s : s + steps + 1] for i, s in where]), before, np.array(where, np.int64))


class Rollout:
    """Predicts windows in the worlds of a task.

    Args:
        task: Worlds without auto-reset and without randomisation, on an engine that can vary model fields.
        selections: The model fields that differ from world to world.

    Attributes:
        tangent: Numbers of a first state: changes of positions (nv) and velocities (nv).
    """

    def __init__(self, task: MujocoTask, selections: Sequence[Selection]) -> None:
        self.task, self.engine, self.model = task, task.engine, task.model
        self.num_worlds, self.selections = task.num_worlds, selections
        task.reset(np.zeros(task.num_worlds, np.int64))
        self._base = self.engine.save(np.array([0]))
        self._out: Observation = {
            n: np.zeros((self.num_worlds, *f.shape)) for n, f in task.spec.observation.fields.items() if np.dtype(f.dtype).kind == "f" and not f.is_image
        }
        self._fields = ModelFields(self.engine)
        for selection in selections:
            for field in (selection.named.field, *companions(selection)):
                self._fields.open(field)
        self.tangent = 2 * int(self.model.nv)
        self.dt = 1.0 / task.spec.action.rate_hz

    def restore(self) -> None:
        """Give all worlds the model's own fields again."""
        rows = np.arange(self.num_worlds)
        self._fields.restore(rows)
        self.engine.refresh(rows)

    # What is observed --------------------------------------------------------------------------------------------

    def probe(self, wanted: Sequence[str] = ()) -> Observed:
        """Find which elements of the observation are joint coordinates; ``wanted`` fields are compared whole besides.

        Raises:
            InputError: if there is no such field of numbers, or nothing that is observed follows the joints.
        """
        for name in wanted:
            if name not in self._out:
                raise InputError(f"--compare {name!r}: task {self.task.task!r} observes no field {name!r} of numbers{suggest(name, self._out)}")
        generator, nq = np.random.default_rng(5), int(self.model.nq)
        states, seen = [], []
        for _ in range(_PROBES):
            tangent = generator.uniform(-0.3, 0.3, (1, self.tangent))
            self._place(np.array([0]), self._moved(self._first(1), tangent))
            self._observe(np.array([0]))
            states.append(np.concatenate([self.task.qpos[0], self.task.qvel[0]]))
            seen.append({name: values[0].reshape(-1).copy() for name, values in self._out.items()})
        coordinates = np.stack(states)  # (probes, nq + nv)
        rows: list[tuple[str, int, str, int, float, float]] = []
        for name in self._out:
            field = self.task.spec.observation.fields[name]
            values = np.stack([one[name] for one in seen])
            for e in range(values.shape[1]):
                which, slope, offset = _affine(coordinates, values[:, e])
                if which >= 0 or name in wanted:
                    label = field.names[e] if field.names else f"{name.removeprefix('observation.')}[{e}]"
                    rows.append((name, e, label, which, slope, offset))
        if not rows:
            raise InputError(f"task {self.task.task!r}: no element of what it observes is a joint's position or velocity; name fields to compare")
        fields, elements, names, which, slope, offset = zip(*rows, strict=True)
        self._missing = sorted(set(range(nq)) - set(which))
        return Observed(tuple(fields), np.array(elements), tuple(names), np.array(which), np.array(slope), np.array(offset))

    def start(self, windows: Windows, observed: Observed) -> np.ndarray:
        """Return the first states (W, nq + nv) that the readings of each window say; velocities that are not read from differences."""
        nq, nv = int(self.model.nq), int(self.model.nv)
        state = np.repeat(self._first(1), len(windows), axis=0)
        for d, which in enumerate(observed.coordinate):
            if which >= 0:
                state[:, which] = (windows.observed[:, 0, d] - observed.offset[d]) / observed.slope[d]
        seen = {int(w): d for d, w in enumerate(observed.coordinate)}
        ahead = min(3, windows.steps)
        for joint in range(int(self.model.njnt)):
            position, speed = int(self.model.jnt_qposadr[joint]), nq + int(self.model.jnt_dofadr[joint])
            if int(self.model.jnt_type[joint]) >= _HINGE_OR_SLIDE and position in seen and speed not in seen:
                d = seen[position]
                state[:, speed] = (windows.observed[:, ahead, d] - windows.observed[:, 0, d]) / (observed.slope[d] * ahead * self.dt)
        for joint in np.flatnonzero(np.asarray(self.model.jnt_type) < _HINGE_OR_SLIDE):
            at = int(self.model.jnt_qposadr[joint]) + (3 if int(self.model.jnt_type[joint]) == 0 else 0)
            state[:, at : at + 4] /= np.maximum(np.linalg.norm(state[:, at : at + 4], axis=1, keepdims=True), 1e-9)
        assert state.shape[1] == nq + nv
        return state

    # Prediction --------------------------------------------------------------------------------------------------

    def predict(
        self, windows: Windows, observed: Observed, first: np.ndarray, tangent: np.ndarray, values: Sequence[np.ndarray], delay: np.ndarray, latency: np.ndarray
    ) -> np.ndarray:
        """Return what the worlds would observe, (K, L + 1, D), for K windows that may be the same with other parameters.

        Args:
            windows: K windows.
            observed: What is compared.
            first: (K, nq + nv) states, changed by ``tangent``.
            tangent: (K, 2 nv).
            values: For each selection its new values (K, R, C).
            delay: (K,) s, of actions.
            latency: (K,) s, of readings.
        """
        out = np.empty((len(windows), windows.steps + 1, len(observed.names)))
        for begin in range(0, len(windows), self.num_worlds):
            part = np.arange(begin, min(begin + self.num_worlds, len(windows)))
            out[part] = self._chunk(windows.pick(part), observed, self._moved(first[part], tangent[part]), [v[part] for v in values], delay[part])
        return _late_readings(out, latency / self.dt)

    def _chunk(self, windows: Windows, observed: Observed, state: np.ndarray, values: Sequence[np.ndarray], delay: np.ndarray) -> np.ndarray:
        rows = np.arange(len(windows))
        self._fields.restore(rows)
        for selection, new in zip(self.selections, values, strict=True):
            self._fields.write(selection, "set", rows, new)
        self.engine.refresh(rows)
        self._place(rows, state)
        actions = _delayed(windows, delay / self.dt)
        sent = np.zeros((self.num_worlds, actions.shape[2]), np.float32)
        out = np.empty((len(windows), windows.steps + 1, len(observed.names)))
        out[:, 0] = self._seen(rows, observed)
        for step in range(windows.steps):
            sent[rows] = actions[:, step]
            self.task.play(None if len(rows) == self.num_worlds else rows, sent)
            out[:, step + 1] = self._seen(rows, observed)
        return out

    def _seen(self, rows: np.ndarray, observed: Observed) -> np.ndarray:
        self.task.observe(self._out)
        flat = {name: values.reshape(self.num_worlds, -1) for name, values in self._out.items()}
        return np.stack([flat[f][rows, e] for f, e in zip(observed.fields, observed.elements, strict=True)], axis=1)

    def _observe(self, rows: np.ndarray) -> None:
        self.engine.forward(rows)
        self.task.observe(self._out)

    def _first(self, count: int) -> np.ndarray:
        """Return ``count`` times the state (nq + nv) that the task's episode of seed 0 begins with."""
        self.engine.load(self._base, np.array([0]))
        return np.repeat(np.concatenate([self.task.qpos[:1], self.task.qvel[:1]], axis=1), count, axis=0)

    def _place(self, rows: np.ndarray, state: np.ndarray) -> None:
        """Put worlds ``rows`` (K,) into ``state`` (K, nq + nv), everything else as at the beginning of an episode."""
        nq = int(self.model.nq)
        self.engine.load(np.repeat(self._base, len(rows), axis=0), rows)
        self.task.qpos[rows], self.task.qvel[rows] = state[:, :nq], state[:, nq:]
        self.task.resume(rows)
        self.engine.forward(rows)

    def _moved(self, state: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        """Return ``state`` (K, nq + nv) changed by ``tangent`` (K, 2 nv); orientations by small turns in their body's frame."""
        nq, nv = int(self.model.nq), int(self.model.nv)
        out = state.copy()
        out[:, nq:] += tangent[:, nv:]
        for joint in range(int(self.model.njnt)):
            kind, q, v = int(self.model.jnt_type[joint]), int(self.model.jnt_qposadr[joint]), int(self.model.jnt_dofadr[joint])
            if kind >= _HINGE_OR_SLIDE:
                out[:, q] += tangent[:, v]
                continue
            if kind == 0:
                out[:, q : q + 3] += tangent[:, v : v + 3]
                q, v = q + 3, v + 3
            out[:, q : q + 4] = quaternion_product(out[:, q : q + 4], quaternion(tangent[:, v : v + 3]))
        return out


def _affine(coordinates: np.ndarray, values: np.ndarray) -> tuple[int, float, float]:
    """Return (k, slope, offset) such that ``values`` (P,) is slope * coordinates[:, k] (P, K) + offset, or (-1, 0, 0)."""
    centred, target = coordinates - coordinates.mean(axis=0), values - values.mean()
    if np.abs(target).max() < 1e-9:
        return -1, 0.0, 0.0
    slopes = centred.T @ target / np.maximum((centred**2).sum(axis=0), 1e-12)
    left = np.abs(target[:, None] - centred * slopes).max(axis=0)
    k = int(np.argmin(left))
    if left[k] > 1e-5 * np.abs(target).max():
        return -1, 0.0, 0.0
    return k, float(slopes[k]), float(values.mean() - slopes[k] * coordinates[:, k].mean())


def _delayed(windows: Windows, steps: np.ndarray) -> np.ndarray:
    """Return the actions (K, L, Da) that act in each step when each command takes ``steps`` (K,) control steps: its mean over the step."""
    whole, part = late(steps)
    index = windows.before + np.arange(windows.steps)[None, :] - whole[:, None]
    most = windows.actions.shape[1] - 1
    rows = np.arange(len(windows))[:, None]
    newer, older = (windows.actions[rows, np.clip(index - back, 0, most)] for back in (0, 1))
    return newer + part[:, None, None] * (older - newer)


def _late_readings(predicted: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return (K, L + 1, D) as it is read ``steps`` (K,) later, linearly between two; what lies before the first repeats it."""
    if not steps.any():
        return predicted
    whole, part = late(steps)
    index, rows = np.arange(predicted.shape[1])[None, :] - whole[:, None], np.arange(len(predicted))[:, None]
    newer, older = (predicted[rows, np.clip(index - back, 0, predicted.shape[1] - 1)] for back in (0, 1))
    return newer + part[:, None, None] * (older - newer)
