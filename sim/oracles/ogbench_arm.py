"""An expert for OGBench's robot arm: what to do next is planned here, how it is done is the suite's closed-loop oracles.

The suite's oracles move one object to one place, press one button, or slide the drawer or the window; they were written to make
data, where a target is drawn at random. Which of these an evaluation goal needs, and in which order, is planned from the state.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

_PLACED = 0.03  # m, a cube this near to its goal is left alone (0.04 counts)
_LEVEL = 0.04  # m, height of a cube
_CLEAR = 0.07  # m, cubes nearer than this to a place, on its level, are in the way
_DRAWER_CUBE = np.array([0.33, -0.24, 0.066])  # m, where a cube is put into the open drawer: closing it, it slides to its front
_DRAWER_FLOOR = 0.08  # m, a cube lower than this lies in the drawer, above it hangs on its edge
_DRAWER_OPEN, _DRAWER_LOCK, _WINDOW_LOCK = -0.16, 0, 1
_SLID = 0.02  # m, drawer and window this near to their goals are left alone (0.04 counts)
_TABLE = np.stack(np.meshgrid(np.linspace(0.32, 0.53, 4), np.linspace(-0.27, 0.27, 7), indexing="ij"), -1).reshape(-1, 2)  # m, places to put a cube down


class Draws(Protocol):
    """Numbers of numpy's global generator that belong to an episode."""

    def used(self) -> Any:
        """Return a context in which they are drawn."""
        ...


@dataclass(frozen=True)
class Subtask:
    """One thing to do.

    Attributes:
        kind: ``cube``, ``button``, ``drawer`` or ``window``.
        number: Of the cube or the button.
        target: Where to put the cube (3,) m, the wanted state of the button, or where to slide the joint, m.
    """

    kind: str
    number: int = 0
    target: Any = 0.0


class ArmExpert:
    """Carries the present subtask of one world from step to step; the same call at the same step gives the same action."""

    def __init__(self) -> None:
        self._oracles: dict[str, Any] = {}
        self.forget()

    def forget(self) -> None:
        """Begin a new episode."""
        self._subtask: Subtask | None = None
        self._step, self._action = -1, np.zeros(5)

    def action(self, env: Any, step: int, draws: Draws) -> np.ndarray:
        """Return the action (5,) at control step ``step`` of the suite's ``env``; its oracles draw where to rest afterwards from ``draws``."""
        if step == self._step:
            return self._action
        self._step = step
        info = env.compute_ob_info()
        if self._subtask is None or self._oracle(env, self._subtask.kind).done or _finished(env, info, self._subtask):
            self._subtask = next_subtask(env)
            if self._subtask is not None:
                with draws.used():
                    self._oracle(env, self._subtask.kind).reset(None, info)
        if self._subtask is None:
            self._action = np.zeros(5)
        else:
            told = {**info, **_targets(env, info, self._subtask)}
            self._action = np.asarray(self._oracle(env, self._subtask.kind).select_action(None, told), float)
        return self._action

    def _oracle(self, env: Any, kind: str) -> Any:
        if kind not in self._oracles:
            made: Any = getattr(importlib.import_module(f"ogbench.manipspace.oracles.markov.{kind}_markov"), f"{kind.capitalize()}MarkovOracle")
            puzzle = {"gripper_always_closed": True} if kind == "button" and not hasattr(env, "_num_cubes") else {}
            self._oracles[kind] = made(env=env, **puzzle)
        return self._oracles[kind]


def _targets(env: Any, info: dict[str, Any], subtask: Subtask) -> dict[str, Any]:
    """Return what the suite's oracles are told of their target, in the suite's names."""
    if subtask.kind == "cube":
        return {
            "privileged/target_block": subtask.number,
            "privileged/target_block_pos": subtask.target,
            "privileged/target_block_yaw": np.zeros(1),
        }
    if subtask.kind == "button":
        top = env._data.site_xpos[env._button_site_ids[subtask.number]].copy()
        return {"privileged/target_button": subtask.number, "privileged/target_button_state": subtask.target, "privileged/target_button_top_pos": top}
    handle, slid = info[f"privileged/{subtask.kind}_handle_pos"], subtask.target - info[f"privileged/{subtask.kind}_pos"][0]
    way = np.array([0.0, -slid, 0.0]) if subtask.kind == "drawer" else np.array([slid, 0.0, 0.0])  # the drawer stands turned round
    return {f"privileged/target_{subtask.kind}_handle_pos": handle + way}


def _finished(env: Any, info: dict[str, Any], subtask: Subtask) -> bool:
    """Whether the target is reached and the hand is out of the way."""
    height = info["proprio/effector_pos"][2]
    if subtask.kind == "cube":
        near = np.linalg.norm(info[f"privileged/block_{subtask.number}_pos"] - subtask.target) <= _PLACED
        return bool(near and info["proprio/gripper_contact"][0] < 0.1 and height > 0.16)
    if subtask.kind == "button":
        return bool(info[f"privileged/button_{subtask.number}_state"] == subtask.target and height > 0.16)
    return bool(abs(info[f"privileged/{subtask.kind}_pos"][0] - subtask.target) <= 0.01 and height > (0.18 if subtask.kind == "drawer" else 0.28))


def next_subtask(env: Any) -> Subtask | None:
    """Return what to do next for the goal of the suite's ``env`` (task mode), None where nothing is left to do."""
    if hasattr(env, "_target_drawer_pos"):
        return _next_in_scene(env)
    if hasattr(env, "_num_cubes"):
        return next_cube(_cubes(env), _cube_goals(env))
    presses = lights_out(env._num_rows, env._num_cols, env._cur_button_states != env._target_button_states)
    if not presses.any():
        return None
    hand = env._data.site_xpos[env._pinch_site_id][:2]
    wanted = np.flatnonzero(presses)
    nearest = wanted[np.argmin(np.linalg.norm(env._data.site_xpos[env._button_site_ids][wanted, :2] - hand, axis=1))]
    return Subtask("button", int(nearest), 1 - int(env._cur_button_states[nearest]))


def _cubes(env: Any) -> np.ndarray:
    return np.array([env._data.joint(f"object_joint_{i}").qpos[:3] for i in range(env._num_cubes)])


def _cube_goals(env: Any) -> np.ndarray:
    return env._data.mocap_pos[env._cube_target_mocap_ids].copy()


def next_cube(cubes: np.ndarray, goals: np.ndarray) -> Subtask | None:
    """Return the next cube to move and where, for ``cubes`` (K, 3) m to come to ``goals`` (K, 3) m, lower goals first.

    A cube that stands on the one that is to be moved, or where it is to go, is moved before: to its own goal if that is ready,
    else to a free place on the table.
    """
    for i in np.argsort(goals[:, 2], kind="stable").tolist():
        if np.linalg.norm(cubes[i] - goals[i]) <= _PLACED:
            continue
        above = np.flatnonzero((np.linalg.norm(cubes[:, :2] - cubes[i, :2], axis=1) < _CLEAR / 2) & (cubes[:, 2] > cubes[i, 2] + _LEVEL / 2))
        if above.size:
            first = int(above[np.argmax(cubes[above, 2])])
            return Subtask("cube", first, goals[first] if _ready(cubes, goals, first) else _free_place(cubes, goals))
        if _ready(cubes, goals, i):
            return Subtask("cube", i, goals[i])
        blocking = [k for k in _blocking(cubes, goals, i) if k != i]
        if blocking:
            first = max(blocking, key=lambda k: cubes[k, 2])
            return Subtask("cube", first, goals[first] if _ready(cubes, goals, first) else _free_place(cubes, goals))
    return None


def _blocking(cubes: np.ndarray, goals: np.ndarray, i: int) -> list[int]:
    """Return the other cubes that stand where cube ``i`` is to go, or above that."""
    near = np.linalg.norm(cubes[:, :2] - goals[i, :2], axis=1) < _CLEAR
    return [int(k) for k in np.flatnonzero(near & (cubes[:, 2] > goals[i, 2] - _LEVEL / 2)) if k != i]


def _ready(cubes: np.ndarray, goals: np.ndarray, i: int) -> bool:
    """Whether the goal of cube ``i`` is free and, above the table, has a cube in place below it."""
    if _blocking(cubes, goals, i):
        return False
    below = goals[i] - [0, 0, _LEVEL]
    return bool(goals[i, 2] < _LEVEL or (np.linalg.norm(cubes - below, axis=1)[np.arange(len(cubes)) != i] <= _PLACED).any())


def _free_place(cubes: np.ndarray, goals: np.ndarray) -> np.ndarray:
    taken = np.concatenate([cubes[:, :2], goals[:, :2]])
    room = np.linalg.norm(_TABLE[:, None] - taken, axis=2).min(axis=1)
    return np.array([*_TABLE[np.argmax(room)], _LEVEL / 2])


def _next_in_scene(env: Any) -> Subtask | None:
    """Cube first, then drawer, then window, at last the buttons; what is locked is unlocked when it has to move."""
    cube, goal = _cubes(env)[0], _cube_goals(env)[0]
    drawer, window = float(env._data.joint("drawer_slide").qpos[0]), float(env._data.joint("window_slide").qpos[0])
    into_drawer = goal[1] < -0.3
    inside = bool(env._is_in_drawer(cube)) and 0.05 < cube[2] < _DRAWER_FLOOR
    if into_drawer and inside and abs(drawer) < _SLID and np.linalg.norm(cube - goal) > 0.04:
        return _slide(env, "drawer", _DRAWER_LOCK, _DRAWER_OPEN)  # once more: it slides when the drawer moves
    if into_drawer and not inside:
        if drawer > _DRAWER_OPEN + 0.03:
            return _slide(env, "drawer", _DRAWER_LOCK, _DRAWER_OPEN)
        return Subtask("cube", 0, _DRAWER_CUBE)
    if not into_drawer and np.linalg.norm(cube - goal) > _PLACED:
        return Subtask("cube", 0, goal)
    if abs(drawer - env._target_drawer_pos) > _SLID:
        return _slide(env, "drawer", _DRAWER_LOCK, float(env._target_drawer_pos))
    if abs(window - env._target_window_pos) > _SLID:
        return _slide(env, "window", _WINDOW_LOCK, float(env._target_window_pos))
    wrong = np.flatnonzero(env._cur_button_states != env._target_button_states)
    return None if not wrong.size else Subtask("button", int(wrong[0]), int(env._target_button_states[wrong[0]]))


def _slide(env: Any, joint: str, lock: int, target: float) -> Subtask:
    return Subtask(joint, 0, target) if env._cur_button_states[lock] == 1 else Subtask("button", lock, 1)


def lights_out(rows: int, columns: int, wrong: np.ndarray) -> np.ndarray:
    """Return the fewest buttons to press (R C,) bool so that exactly those of ``wrong`` (R C,) bool change; none where it cannot be done.

    Each press changes the button and its up to four neighbours: a linear system over GF(2) (Anderson and Feil 1998, "Turning
    lights out with linear algebra"), solved by elimination; of its solutions the one with fewest presses is taken.
    """
    count = rows * columns
    place = np.stack(np.unravel_index(np.arange(count), (rows, columns)), axis=1)
    effect = np.abs(place[:, None] - place[None]).sum(-1) <= 1
    system = np.concatenate([effect, np.asarray(wrong, bool)[:, None]], axis=1)
    pivots: list[int] = []
    for column in range(count):
        rest = np.flatnonzero(system[len(pivots) :, column])
        if not rest.size:
            continue
        top, found = len(pivots), len(pivots) + int(rest[0])
        system[[top, found]] = system[[found, top]]
        others = system[:, column].copy()
        others[top] = False
        system[others] ^= system[top]
        pivots.append(column)
    if system[len(pivots) :, -1].any():
        return np.zeros(count, bool)
    free = [c for c in range(count) if c not in pivots]
    best: np.ndarray | None = None
    for choice in range(1 << len(free)):
        out = np.zeros(count, bool)
        out[free] = [bool(choice >> k & 1) for k in range(len(free))]
        out[pivots] = system[: len(pivots), -1] ^ ((system[: len(pivots)][:, free] & out[free]).sum(axis=1) % 2 == 1)
        if best is None or out.sum() < best.sum():
            best = out
    assert best is not None
    return best
