"""A leader arm: whoever publishes its joint states over ROS 2 is followed joint by joint.

Each of the robot's joints is ``sign * scale * leader + offset`` of a joint of the leader. The robot first comes to where the leader is
slowly (``jog.leader_approach``), then follows at its own limits. A leader has no keys: the terminal's or a pedal's do the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pydantic

from policies.config import Config
from policies.spec import InputError, Spec, suggest
from real.robot import RobotInfo
from real.teleop.source import Input, Status

if TYPE_CHECKING:
    from real.ros.connection import Connection


class LeaderConfig(Config):
    """Which joint states, and how they become the robot's.

    Attributes:
        topic: Joint states of the leader.
        namespace: Of the leader.
        domain: DDS domain; None: ``ROS_DOMAIN_ID``, or 0.
        interface: Network interface; empty: loopback.
        joints: Robot's joint -> leader's joint; what is missing has the same name.
        sign, scale, offset: Robot's joint -> number; what is missing is 1, 1, 0. Offsets are in the robot's units.
        clutch: Topic of a pedal (std_msgs/Bool), held: the robot follows; None: it follows from ``engaged`` on.
        engaged: Whether the robot follows at once; the events takeover and release change it.
        stale_s: Age of joint states from which the clutch is open.
    """

    topic: str = "joint_states"
    namespace: str = "leader"
    domain: Annotated[int, pydantic.Field(ge=0, le=232)] | None = None
    interface: str | None = ""
    joints: dict[str, str] = pydantic.Field(default_factory=dict)
    sign: dict[str, Annotated[int, pydantic.Field(ge=-1, le=1)]] = pydantic.Field(default_factory=dict)
    scale: dict[str, float] = pydantic.Field(default_factory=dict)
    offset: dict[str, float] = pydantic.Field(default_factory=dict)
    clutch: str | None = None
    engaged: bool = False
    stale_s: pydantic.PositiveFloat = 0.2


class LeaderSource:
    """See :class:`real.teleop.source.Source`.

    Args:
        config: See :class:`LeaderConfig`.
        clock: Monotonic seconds.

    Attributes:
        problem: What is wrong with the joint states that arrive; empty: nothing.

    Raises:
        InputError: for a domain, an interface or a name that is none.
    """

    Config = LeaderConfig
    name = "leader"
    help: Mapping[str, str] = {"the arm": "is followed joint by joint, once t (take over) was pressed", "g": "let go"}

    def __init__(self, config: LeaderConfig = LeaderConfig(), clock: Callable[[], float] = time.monotonic) -> None:
        from real.ros.connection import Connection, best_effort

        self.config, self.stale_s, self._clock = config, config.stale_s, clock
        self._engaged, self.problem = config.engaged, ""
        self._names: tuple[str, ...] = ()
        self._sign = self._offset = np.zeros(0)
        self._lock = threading.Lock()  # messages come in another thread
        self._newest: tuple[float, np.ndarray] | None = None
        self._pedal: tuple[float, bool] = (-1e9, False)
        self._connection: Connection | None = Connection("leader_listener", config.namespace, config.domain, config.interface)
        try:
            self._connection.subscribe("sensor_msgs/msg/JointState", config.topic, self._heard, best_effort())
            if config.clutch is not None:
                self._connection.subscribe("std_msgs/msg/Bool", config.clutch, self._pressed, best_effort())
        except BaseException:
            self.close()
            raise

    def attach(self, spec: Spec, info: RobotInfo) -> None:
        """See :class:`real.teleop.source.Source`. Raises InputError for a mapping of joints that the robot does not have."""
        self._names = tuple(spec.action.names)
        for key in ("joints", "sign", "scale", "offset"):
            for name in getattr(self.config, key):
                if name not in self._names:
                    raise InputError(f"device leader: {key}.{name}: robot {info.name!r} has no such joint{suggest(name, self._names)}")
        c = self.config
        self._sign = np.array([c.sign.get(n, 1) * c.scale.get(n, 1.0) for n in self._names])
        self._offset = np.array([c.offset.get(n, 0.0) for n in self._names])
        assert self._connection is not None
        self._connection.listen()

    @property
    def held(self) -> bool:
        """Whether somebody holds the clutch: a pedal. Without one the arm is followed until it is let go."""
        return self.config.clutch is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know at the beginning."""
        place = f"/{self.config.namespace}/{self.config.topic}".replace("//", "/")
        how = (
            f"hold the pedal {self.config.clutch}" if self.config.clutch else "it follows at once" if self.config.engaged else "press t to follow, g to let go"
        )
        return (f"the leader's joint states are heard on {place}; {how}",)

    def poll(self) -> Input:
        """See :class:`real.teleop.source.Source`."""
        with self._lock:
            newest, pedal = self._newest, self._pedal
        if newest is None:
            return Input()
        now = self._clock()
        held = self._engaged if self.config.clutch is None else pedal[1] and now - pedal[0] <= max(self.stale_s, 0.5)
        return Input(positions=newest[1].copy(), clutch=held, age=now - newest[0])

    def told(self, event: str) -> None:
        """Take in what another device of the same person asks for: ``takeover`` and ``release`` engage and let go."""
        if event in ("takeover", "release"):
            self._engaged = event == "takeover"

    def feedback(self, cue: str) -> None:
        """See :class:`real.teleop.source.Source`: an episode that is over lets go."""
        if cue == "released":
            self._engaged = False

    def show(self, status: Status) -> None:
        """See :class:`real.teleop.source.Source`: it has no display."""

    def close(self) -> None:
        """See :class:`real.teleop.source.Source`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _heard(self, message: Any, arrived_ns: int) -> None:
        """Take in joint states; those that lack a joint, or are not finite, are none."""
        places = {str(name): i for i, name in enumerate(message.name)}
        positions = np.asarray(message.position, np.float64)
        wanted = [self.config.joints.get(name, name) for name in self._names]
        lacking = [name for name in wanted if name not in places or places[name] >= len(positions)]
        if lacking:
            self.problem = f"device leader: {self.config.topic} has no joint {lacking[0]!r}{suggest(lacking[0], places)}"
            return
        values = self._sign * positions[[places[name] for name in wanted]] + self._offset
        if not np.isfinite(values).all():
            self.problem = f"device leader: {self.config.topic}: a position is not finite"
            return
        self.problem = ""
        with self._lock:
            self._newest = self._clock(), values

    def _pressed(self, message: Any, arrived_ns: int) -> None:
        with self._lock:
            self._pedal = self._clock(), bool(message.data)
