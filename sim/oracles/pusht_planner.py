"""A planning expert for PushT: greedy search over macro pushes on a private copy of the physics.

A macro is: go round the block to a contact, push along a line for some steps, back off. Every plan tries some sixty
contacts on the block's outline with three push directions each, simulates them, and takes the one after which the
block's corners are nearest to where they belong. The physics has no momentum (damping 0 stops the block each step), so
the present pose is the whole state and a plan is a pure function of it; only the macro in progress is remembered.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: The block's outline in its own frame, px: a T of 120 x 120 with bars 30 wide.
OUTLINE = np.array([[-60, 0], [60, 0], [60, 30], [15, 30], [15, 120], [-15, 120], [-15, 30], [-60, 30]], np.float64)
GOAL_POSITION, GOAL_ANGLE = np.array([256.0, 256.0]), math.pi / 4  # px, rad
AGENT_RADIUS = 15.0  # px
CONTROL_HZ, PHYSICS_DT = 10, 0.01  # Hz, s
_STIFFNESS, _DAMPING = 100.0, 20.0  # 1/s^2 and 1/s: how the agent follows its target

_STANDOFF = AGENT_RADIUS + 3.0  # px from the outline to the agent's centre before a push
_CLEARANCE = AGENT_RADIUS + 1.5  # px kept from the outline while going round it
_REACH = (22.0, 490.0)  # px, where the agent's centre may start a push, clear of the walls
_PUSH_ANGLES = (0.0, -0.5, 0.5)  # rad from the outline's inward normal
_TRAVEL_STEP = 60.0  # px, farthest target ahead of the agent while it goes round
_RETREAT = 22.0  # px
_TRAVEL_PRICE = 0.01  # px of corner distance that one px of detour is worth: prefer near contacts among equals


@dataclass(frozen=True)
class Push:
    """A push along a line: agent targets ``start + direction * stride * k`` for k = 1 .. ``steps``, px."""

    start: np.ndarray
    direction: np.ndarray
    stride: float
    steps: int


@dataclass
class Macro:
    """What an expert is in the middle of: targets still to visit, then the push.

    Attributes:
        waypoints: Agent targets (2,) px on the way round the block, the contact last.
        push: The push that follows.
        pushed: Push steps commanded so far.
        patience: Steps left for the present waypoint before it is given up.
        retreated: Whether the step back after the push was commanded.
    """

    waypoints: list[np.ndarray]
    push: Push
    pushed: int = 0
    patience: int = 40
    retreated: bool = False


def rotation(angle: float) -> np.ndarray:
    """Return the matrix (2, 2) that rotates by ``angle`` rad."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def corners(position: np.ndarray, angle: float) -> np.ndarray:
    """Return the outline (8, 2) px of a block at ``position`` (2,) px, turned by ``angle`` rad."""
    return OUTLINE @ rotation(angle).T + position


_GOAL_CORNERS = corners(GOAL_POSITION, GOAL_ANGLE)


def corner_distance(position: np.ndarray, angle: float) -> float:
    """Return the root mean square distance of the corners from their goal, px."""
    return float(np.sqrt(((corners(position, angle) - _GOAL_CORNERS) ** 2).sum(1).mean()))


@functools.cache
def _outline_contacts() -> tuple[np.ndarray, np.ndarray]:
    """Return points on the outline (M, 2) px and their outward normals (M, 2), in the block's frame."""
    points, normals = [], []
    for a, b in zip(OUTLINE, np.roll(OUTLINE, -1, axis=0), strict=True):
        length = float(np.linalg.norm(b - a))
        along = (b - a) / length
        for s in np.arange(5.0, length - 4.0, 12.0 if length > 40 else 10.0):
            points.append(a + along * s)
            normals.append((along[1], -along[0]))
    return np.array(points), np.array(normals)


@functools.cache
def _agent_speeds(stride: float, steps: int) -> list[float]:
    """Return the agent's speed along the push, px/s, at each physics step: its motion does not feel the block."""
    place = speed = 0.0
    out = []
    for k in range(1, steps + 1):
        for _ in range(round(1 / (CONTROL_HZ * PHYSICS_DT))):
            speed += (_STIFFNESS * (stride * k - place) - _DAMPING * speed) * PHYSICS_DT
            place += speed * PHYSICS_DT
            out.append(speed)
    return out


class Replica:
    """The task's physics without drawing or scores, set to any pose.

    A new one is made for each plan: the solver keeps contact impulses from step to step, so a used one remembers.
    """

    def __init__(self) -> None:
        import pymunk
        from gym_pusht.envs.pusht import PushTEnv

        self._space = pymunk.Space()
        self._space.damping = 0.0
        for a, b in (((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506))):
            self._space.add(pymunk.Segment(self._space.static_body, a, b, 2))
        self._agent: Any = PushTEnv.add_circle(self._space, (256, 400), AGENT_RADIUS)
        self._block: Any = PushTEnv.add_tee(self._space, (256, 300), 0)[0]

    def push(self, position: np.ndarray, angle: float, push: Push) -> list[tuple[np.ndarray, float]]:
        """Return the block's (position (2,) px, angle rad) after each step of ``push`` on a block at rest."""
        space, agent, block = self._space, self._agent, self._block
        block.angle = float(angle)  # before the position: turning is about the centre of mass, not the origin
        block.position = tuple(map(float, position))
        block.velocity, block.angular_velocity = (0, 0), 0
        agent.position = tuple(map(float, push.start))
        space.reindex_shapes_for_body(block)
        space.reindex_shapes_for_body(agent)
        dx, dy = map(float, push.direction)
        speeds, each = _agent_speeds(push.stride, push.steps), round(1 / (CONTROL_HZ * PHYSICS_DT))
        poses = []
        for i, speed in enumerate(speeds, start=1):
            agent.velocity = (speed * dx, speed * dy)
            space.step(PHYSICS_DT)
            if i % each == 0:
                poses.append((np.array(block.position), float(block.angle)))
        return poses


def candidate_pushes(position: np.ndarray, angle: float) -> list[Push]:
    """Return the pushes worth trying: every free contact on the outline, along and beside its normal.

    The push is long while the block is far from its goal and fine when it is near.
    """
    import shapely

    distance = corner_distance(position, angle)
    stride, steps = (12.0, 12) if distance > 40 else (6.0, 10) if distance > 12 else (3.0, 10)
    points, normals = _outline_contacts()
    turn = rotation(angle)
    inward = -(normals @ turn.T)
    starts = points @ turn.T + position - inward * _STANDOFF
    body = shapely.Polygon(corners(position, angle)).buffer(AGENT_RADIUS + 0.5)
    free = (starts > _REACH[0]).all(1) & (starts < _REACH[1]).all(1) & ~shapely.contains_xy(body, starts[:, 0], starts[:, 1])
    return [Push(starts[i], rotation(bend) @ inward[i], stride, steps) for i in np.flatnonzero(free) for bend in _PUSH_ANGLES]


def best_push(agent: np.ndarray, position: np.ndarray, angle: float) -> Push:
    """Return the push, cut at its best step, that leaves the corners nearest to their goal for little travel.

    Args:
        agent: (2,) px.
        position: Block position (2,) px.
        angle: Block angle, rad.
    """
    replica = Replica()
    best, chosen = math.inf, Push(agent, np.zeros(2), 0.0, 1)  # nothing can be reached: stay for a step
    for push in candidate_pushes(position, angle):
        price = _TRAVEL_PRICE * float(np.linalg.norm(push.start - agent))
        for k, (moved, turned) in enumerate(replica.push(position, angle, push), start=1):
            score = corner_distance(moved, turned) + price
            if score < best:
                best, chosen = score, Push(push.start, push.direction, push.stride, k)
    return chosen


def way_round(agent: np.ndarray, target: np.ndarray, position: np.ndarray, angle: float) -> list[np.ndarray]:
    """Return the shortest agent way (2,) px points, ``target`` last, that keeps clear of the block.

    The corners of the enlarged outline, the agent and the target form a visibility graph; Dijkstra's method on it.
    """
    import shapely

    outline = shapely.Polygon(corners(position, angle))
    body = outline.buffer(_CLEARANCE)
    bends = np.array(outline.buffer(_CLEARANCE + 2.0, join_style="mitre").exterior.coords)[:-1]
    bends = bends[((bends > 8) & (bends < 504)).all(1)]
    nodes = np.vstack([agent[None], target[None], bends])
    if shapely.contains_xy(body, *agent):  # first straight out of the margin
        edge = body.exterior
        nodes[0] = np.array(edge.interpolate(edge.project(shapely.Point(agent))).coords[0])
        nodes[0] += (nodes[0] - agent) / max(float(np.linalg.norm(nodes[0] - agent)), 1e-9)
    pairs = np.stack(np.broadcast_arrays(nodes[:, None], nodes[None]), axis=2)  # (V, V, 2, 2)
    blocked = shapely.intersects(shapely.linestrings(pairs), body)
    length = np.where(blocked, np.inf, np.linalg.norm(nodes[:, None] - nodes[None], axis=-1))
    path = _shortest(length, 0, 1)
    way = [nodes[i] for i in path[1:]] if path else [target]
    return way if np.array_equal(nodes[0], agent) else [nodes[0], *way]


def _shortest(length: np.ndarray, start: int, end: int) -> list[int]:
    """Return the nodes of the shortest path in a dense graph (V, V), or an empty list when there is none."""
    cost, previous, open_ = np.full(len(length), np.inf), np.full(len(length), -1), np.ones(len(length), bool)
    cost[start] = 0.0
    while open_.any():
        node = int(np.argmin(np.where(open_, cost, np.inf)))
        if not open_[node] or not np.isfinite(cost[node]):
            return []
        if node == end:
            path = [end]
            while path[-1] != start:
                path.append(int(previous[path[-1]]))
            return path[::-1]
        open_[node] = False
        better = cost[node] + length[node] < cost
        cost[better], previous[better] = (cost[node] + length[node])[better], node
    return []


@dataclass
class Planner:
    """The expert of N worlds: one macro in progress each.

    Asking twice at the same step gives the same action; a world that went on without asking is planned for anew.
    """

    macros: dict[int, Macro] = field(default_factory=dict)
    asked: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict)

    def forget(self, world: int) -> None:
        """Drop what ``world`` was in the middle of, because its episode begins."""
        self.macros.pop(world, None)
        self.asked.pop(world, None)

    def action(self, world: int, step: int, agent: np.ndarray, position: np.ndarray, angle: float) -> np.ndarray:
        """Return the agent's target (2,) px for the present state.

        Args:
            world: Which world's macro to go on with.
            step: Control steps since its episode began.
            agent: Agent position (2,) px.
            position: Block position (2,) px.
            angle: Block angle, rad.
        """
        last_step, last_action = self.asked.get(world, (step - 1, agent))
        if last_step == step:
            return last_action
        if last_step != step - 1:
            self.forget(world)
        macro = self.macros.get(world)
        target = next_target(macro, agent) if macro else None
        if target is None:
            push = best_push(agent, position, angle)
            macro = Macro(way_round(agent, push.start, position, angle), push)
            self.macros[world] = macro
            target = next_target(macro, agent)
        action = np.clip(agent if target is None else target, 0.0, 512.0)
        self.asked[world] = (step, action)
        return action


def next_target(macro: Macro, agent: np.ndarray) -> np.ndarray | None:
    """Advance ``macro`` by one step and return the agent's target (2,) px, or None when it is done."""
    while macro.waypoints:
        away = macro.waypoints[0] - agent
        distance = float(np.linalg.norm(away))
        if distance < (2.0 if len(macro.waypoints) == 1 else 8.0) or macro.patience == 0:
            macro.waypoints.pop(0)
            macro.patience = 40
            continue
        macro.patience -= 1
        return agent + away * min(1.0, _TRAVEL_STEP / distance)
    if macro.pushed < macro.push.steps:
        macro.pushed += 1
        return macro.push.start + macro.push.direction * macro.push.stride * macro.pushed
    if not macro.retreated:
        macro.retreated = True
        return agent - macro.push.direction * _RETREAT
    return None
