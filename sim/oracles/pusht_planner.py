"""A planning expert for PushT: greedy search over macro pushes on a private copy of the physics.

A macro is: go round the block to a contact, push along a line for some steps, back off. Every plan tries some forty
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
_ROOM = (8.0, 504.0)  # px, where it may go round
_TRAVEL_STEP = 60.0  # px, farthest target ahead of the agent while it goes round
_RETREAT = 22.0  # px
_TRAVEL_PRICE = 3e-4  # share of the present corner distance that one px of way costs: prefer near contacts among equals
_LEAST_GAIN = 0.1  # share of the present corner distance below which a push hardly counts


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
    """Return the root mean square distance, px, of the corners of a block at ``position`` (2,) px from their goal."""
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


def free_contacts(position: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where the agent can stand against the block: places (M, 2) px and the inward normals there (M, 2)."""
    import shapely

    points, normals = _outline_contacts()
    turn = rotation(angle)
    inward = -(normals @ turn.T)
    places = points @ turn.T + position - inward * _STANDOFF
    body = shapely.Polygon(corners(position, angle)).buffer(AGENT_RADIUS + 0.5)
    inside = (places > _REACH[0]).all(1) & (places < _REACH[1]).all(1)
    free = inside & ~shapely.contains_xy(body, places[:, 0], places[:, 1])
    return places[free], inward[free]


class WaysRound:
    """Shortest agent ways to many places that keep clear of the block.

    The agent and the corners of the enlarged outline form a visibility graph (Lozano-Perez and Wesley 1979), searched
    with Dijkstra's method.

    Attributes:
        length: (M,) px to each place, inf where there is no way.
    """

    def __init__(self, agent: np.ndarray, places: np.ndarray, position: np.ndarray, angle: float) -> None:
        import shapely

        outline = shapely.Polygon(corners(position, angle))
        body = outline.buffer(_CLEARANCE)
        bends = np.array(outline.buffer(_CLEARANCE + 2.0, join_style="mitre").exterior.coords)[:-1]
        bends = bends[((bends > _ROOM[0]) & (bends < _ROOM[1])).all(1)]
        first = agent
        if shapely.contains_xy(body, *agent):  # straight out of the margin before anything else
            edge = np.array(body.exterior.interpolate(body.exterior.project(shapely.Point(agent))).coords[0])
            first = edge + (edge - agent) / max(float(np.linalg.norm(edge - agent)), 1e-9)
        self._places, self._nodes, self._leave_first = places, np.vstack([first, bends]), first is not agent
        cost, self._previous = _shortest(_visible_length(self._nodes, self._nodes, body))
        total = cost[:, None] + _visible_length(self._nodes, places, body)
        self._last = total.argmin(axis=0)
        self.length = total.min(axis=0)

    def way(self, place: int) -> list[np.ndarray]:
        """Return the agent's targets (2,) px on the way to ``place``, that place last; straight if there is no way."""
        nodes = [int(self._last[place])] if np.isfinite(self.length[place]) else []
        while nodes and nodes[-1] > 0:
            nodes.append(int(self._previous[nodes[-1]]))
        if not self._leave_first:
            nodes = nodes[:-1]
        return [*(self._nodes[node] for node in reversed(nodes)), self._places[place]]


def _visible_length(a: np.ndarray, b: np.ndarray, body: Any) -> np.ndarray:
    """Return the distances (A, B) px between points, inf where ``body`` is in between."""
    import shapely

    pairs = np.stack(np.broadcast_arrays(a[:, None], b[None]), axis=2)  # (A, B, 2, 2)
    return np.where(shapely.intersects(shapely.linestrings(pairs), body), np.inf, np.linalg.norm(a[:, None] - b[None], axis=-1))


def _shortest(length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance (V,) from node 0 of a dense graph (V, V), and the node before each on its shortest path (V,)."""
    cost, previous, open_ = np.full(len(length), np.inf), np.zeros(len(length), np.int64), np.ones(len(length), bool)
    cost[0] = 0.0
    for _ in range(len(length)):
        node = int(np.argmin(np.where(open_, cost, np.inf)))
        open_[node] = False
        better = cost[node] + length[node] < cost
        cost[better], previous[better] = (cost[node] + length[node])[better], node
    return cost, previous


def plan(agent: np.ndarray, position: np.ndarray, angle: float) -> Macro:
    """Return the macro that leaves the corners nearest to their goal for little travel, cut at its best step.

    Pushes are long while the block is far from its goal and fine when it is near. Contacts that cannot be reached without
    moving the block are left out, unless there is no other.

    Args:
        agent: (2,) px.
        position: Block position (2,) px.
        angle: Block angle, rad.
    """
    distance = corner_distance(position, angle)
    stride, steps = (12.0, 12) if distance > 40 else (6.0, 10) if distance > 12 else (3.0, 10)
    places, inward = free_contacts(position, angle)
    if not len(places):
        return Macro([], Push(agent, np.zeros(2), 0.0, 1))
    ways = WaysRound(agent, places, position, angle)
    reachable = np.isfinite(ways.length)
    replica = Replica()
    best, chosen = math.inf, (0, Push(places[0], inward[0], stride, steps))
    for i in np.flatnonzero(reachable) if reachable.any() else range(len(places)):
        price = _TRAVEL_PRICE * distance * min(float(ways.length[i]), 1e3)
        for bend in _PUSH_ANGLES:
            push = Push(places[i], rotation(bend) @ inward[i], stride, steps)
            for k, (moved, turned) in enumerate(replica.push(position, angle, push), start=1):
                after = corner_distance(moved, turned)
                score = after + price + (distance if after > (1 - _LEAST_GAIN) * distance else 0.0)
                if score < best:
                    best, chosen = score, (int(i), Push(push.start, push.direction, stride, k))
    return Macro(ways.way(chosen[0]), chosen[1])


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
            macro = self.macros[world] = plan(agent, position, angle)
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
