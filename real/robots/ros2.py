"""Driver of a robot that speaks ROS 2: joint states in, a controller's commands out; see ``configs/runtime/ros2.yaml``.

What it is comes from its URDF, what is wanted of it from a checkpoint's spec; where they differ it is refused before anything
moves. Every trajectory that is sent ends at rest, so that the controller stops the robot whenever the next does not come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from policies.motion import Reference
from policies.spec import InputError, suggest
from real.robot import Observation, RobotGone
from real.ros import api
from real.ros.commander import Commander, open_commander
from real.ros.commands import INTERFACES
from real.ros.connection import Connection, best_effort, reliable
from real.ros.description import describe
from real.ros.episodes import TwinEpisodes
from real.ros.fields import FieldPlan, Mapped, map_fields
from real.ros.options import Ros2Config, wanted_spec
from real.ros.reading import Reader, open_readers
from real.ros.sensors import CameraReader, JointReader, VectorReader
from real.ros.stamps import StampClock
from real.ros.urdf import Urdf, parse_urdf

_JOINT_STATE, _STRING = "sensor_msgs/msg/JointState", "std_msgs/msg/String"
_WATCH_S = 0.1  # between two looks at who else is there


class Ros2Robot:
    """One robot over ROS 2; see ``real.robot.Robot``.

    Args:
        config: How it is reached.
        log: Where lines go.

    Raises:
        InputError: one line: what is not there, or does not fit, and where.
    """

    Config = Ros2Config

    def __init__(self, config: Ros2Config, log: Callable[[str], None] = lambda line: print(line, flush=True)) -> None:
        self.config = config
        self._log = lambda line: log(f"robot=ros2: {line}")
        self._stopped = self._closed = False
        self._seen_doubt = ""
        self._graph_doubt, self._unheard_since, self._shared = "", 0.0, False
        self._clock = StampClock("the robot", config.speed)
        try:
            self._connection = Connection(config.node, config.namespace, config.domain, config.interface, config.remap)
        except InputError as error:
            raise InputError(f"robot=ros2: {error}") from error
        try:
            self._open()
        except InputError as error:
            self.close()
            raise InputError(f"robot=ros2: {error}") from error
        except BaseException:
            self.close()
            raise

    # Opening -------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Find out what the robot is, bring it together with what is wanted, and wait until it can be read and commanded."""
        config, connection = self.config, self._connection
        texts: list[str] = []
        heard = connection.subscribe(_STRING, config.description, lambda m, _: texts.append(m.data), reliable(latched=True))
        names: list[str] = []
        states = connection.subscribe(_JOINT_STATE, config.joint_states, lambda m, _: names.extend(m.name), best_effort())
        connection.listen()
        if not connection.wait(lambda: names, config.connect_s):
            raise InputError(f"no joint states on {states.topic_name} within {config.connect_s:g} s; {connection.seen(_JOINT_STATE, states.topic_name)}")
        if not connection.wait(lambda: texts, config.connect_s):
            topic = heard.topic_name
            raise InputError(f"no robot_description on {topic} within {config.connect_s:g} s (transient local); {connection.seen(_STRING, topic)}")
        self._alone(states.topic_name, config.joint_state_publishers, "joint states")
        self._alone(heard.topic_name, 1, "robot descriptions")  # whose limits are true?
        connection.node.destroy_subscription(heard)
        connection.node.destroy_subscription(states)
        urdf = parse_urdf(texts[-1])
        mapped = map_fields(wanted_spec(config), config.fields, urdf, config.command, config.joints, config.twist, config.action_rate_hz, config.convert)
        self.spec = mapped.spec
        self._motion, self.info = describe(config, urdf, mapped)
        for line in mapped.lines:
            self._log(line)
        if self._motion is not None and config.tracking is None:
            far = ", ".join(f"{limit:.3g}" for limit in self._motion.tracking)
            self._log(f"robot.tracking is not set: joints that are further than {far} from their commands stop the robot")
        self._read_from(urdf, mapped)
        self._commander = open_commander(
            config, connection, self._clock, mapped, self._motion, 1 / self.info.rate_hz, lambda: int(self._joints.stamps_ns.max()),
            lambda: self._joints.read()[0]["position"][: len(mapped.joints)],  # the commanded ones come first
        )  # fmt: skip
        self._await_all(mapped)
        steady = api.Clock(clock_type=api.ClockType.STEADY_TIME)  # a node's own clock is the wall's: set back, it would end the watch
        connection.node.create_timer(_WATCH_S, self._look_around, clock=steady)
        silence = f"when commands stop it {self.info.on_silence} within {self.info.silence_s:.3g} s"
        self._log(f"{self.info.name}: {', '.join(mapped.joints)} by {self._commander.topic}; {silence}")

    def _read_from(self, urdf: Urdf, mapped: Mapped) -> None:
        """Subscribe to everything that is read."""
        self._frames_ready = threading.Condition()
        self._readers: dict[str, Reader] = {}
        self._joints, self._readers, self._frames = open_readers(self._connection, self.config, urdf, mapped, self._clock, self._wake_decoder)
        self._cameras = [reader.source for reader in self._readers.values() if isinstance(reader.source, CameraReader)]
        self._episodes = TwinEpisodes(self._connection)
        if self._cameras:
            threading.Thread(target=self._decode, name="ros pictures", daemon=True).start()

    def _await_all(self, mapped: Mapped) -> None:
        """Wait for the first message of everything, and for somebody who takes commands. Raises InputError, naming what does not come."""
        config, connection, joints = self.config, self._connection, self._joints
        if not connection.wait(lambda: not joints.missing, config.connect_s):
            raise InputError(_lacking(f"joint states on {config.joint_states}", joints.missing, sorted(joints.heard)))
        for plan in mapped.plans:
            reader = self._readers[plan.name]
            if not connection.wait(reader.ready, config.connect_s):
                raise InputError(self._absent(plan, reader))
        commands, kind = self._commander.topic, INTERFACES[config.command][0]
        if not connection.wait(self._commander.heard, config.connect_s):
            raise InputError(
                f"nobody takes commands on {commands} within {config.connect_s:g} s: is the controller active? {connection.seen(kind, commands, offered=False)}"
            )
        self._alone(commands, 1, "commands")
        connection.wait(lambda: connection.publishers_of(self._joints_topic), config.connect_s)  # whoever has come, all it publishes is known
        if connection.node.count_publishers(self._episodes.topic):
            connection.wait(lambda: self._episodes.active, config.connect_s)
        else:
            self._episodes.ignore()  # no twin: nobody ends episodes of a robot, or moves it to another one, by a topic

    def _absent(self, plan: FieldPlan, reader: Reader) -> str:
        """Return why a field has no value."""
        wait = f"within {self.config.connect_s:g} s"
        source: Any = reader.source
        if plan.source == "transform":
            frames = ", ".join(self._frames.names[:12]) or "none"
            return f"field {plan.name}: no transform from {plan.config.child!r} to {plan.config.parent!r} {wait}; frames seen: {frames}"
        if plan.source == "joints":
            return f"field {plan.name}: joint states without the {' and '.join(reader.parts)} that it needs"
        if isinstance(source, CameraReader) and source.fault:
            return f"field {plan.name}: {reader.topic}: {source.fault}"
        if isinstance(source, VectorReader) and source.missing and source.heard:
            return _lacking(f"field {plan.name}: {reader.topic}", source.missing, source.heard)
        return f"field {plan.name}: nothing on {reader.topic} {wait}; {self._connection.seen(reader.kind, reader.topic)}"

    def _alone(self, topic: str, most: int, what: str) -> None:
        """Refuse a topic on which others publish; one that was killed a moment ago is seen for some seconds more. Raises InputError."""
        if not self._connection.wait(lambda: not self._others(topic, most, what), self.config.connect_s):
            raise InputError(self._others(topic, most, what) or f"too many publishers of {what} on {topic}")

    def _others(self, topic: str, most: int, what: str) -> str:
        """Return who else publishes on a topic; empty: nobody."""
        nodes = self._connection.publishers_of(topic)
        return f"{len(nodes)} publishers of {what} on {topic}, expected {most}: {', '.join(nodes[:6])}" if len(nodes) > most else ""

    # Beside the ticks -----------------------------------------------------------------------------------------------

    def _wake_decoder(self) -> None:
        with self._frames_ready:
            self._frames_ready.notify()

    def _decode(self) -> None:
        """Decode the newest picture of every camera, in a thread of its own: joint states do not wait for it."""
        while not self._closed:
            if not sum(camera.work() for camera in self._cameras):  # every one of them has its turn
                with self._frames_ready:
                    self._frames_ready.wait(0.1)

    def _look_around(self) -> None:
        """Note who else publishes and whether anybody takes commands."""
        doubt = self._others(self._commander.topic, 1, "commands")
        doubt = doubt or self._others(self._joints_topic, self.config.joint_state_publishers, "joint states")
        if self._commander.heard():
            self._unheard_since = 0.0
        else:
            self._unheard_since = self._unheard_since or time.monotonic()
            doubt = f"controller gone: nobody takes commands on {self._commander.topic}"
        self._graph_doubt = doubt

    @property
    def _joints_topic(self) -> str:
        return self._connection.node.resolve_topic_name(self.config.joint_states)

    # The robot ------------------------------------------------------------------------------------------------------

    def read(self) -> Observation:
        """Return the newest of everything. Raises RobotGone when joint states or controller have been away for ``gone_s``."""
        now_ns = time.monotonic_ns()
        silent_s = (now_ns - self._joints.heard_ns) * 1e-9
        if self._shared and not self._graph_doubt:
            self._commander.restart()  # others commanded it meanwhile, or its controller was away: it need not stand where it was sent
        self._shared = bool(self._graph_doubt)
        doubt = self._doubt(now_ns, silent_s)
        if doubt != self._seen_doubt:
            self._log(doubt or "all is well again")
            self._seen_doubt = doubt
        fields, captured, stamps = {}, {}, []
        for name, reader in self._readers.items():
            fields[name], captured[name], stamp = reader.read(now_ns)
            stamps.append(stamp)
        episode, ended, success = self._episodes.of(min(stamps))
        if self._episodes.begun:
            self._commander.restart()
        return Observation(fields, captured, episode, ended, success, doubt=doubt)

    def _doubt(self, now_ns: int, silent_s: float) -> str:
        """Return why robot or controller are not believed. Raises RobotGone."""
        config, joints = self.config, self._joints
        if self._connection.failed:
            raise RobotGone(self._connection.failed)
        if silent_s > config.gone_s:
            raise RobotGone(f"joint states: none on {self._joints_topic} for {silent_s:.3g} s")
        if self._unheard_since and time.monotonic() - self._unheard_since > config.gone_s:
            raise RobotGone(self._graph_doubt)
        if silent_s > config.stale_s:
            return f"joint states: none on {self._joints_topic} for more than {config.stale_s:g} s"
        if clock := next((d for c in (self._clock, *self._own_clocks) if (d := c.doubt(now_ns))), ""):
            return clock
        old_s = (now_ns - int(joints.capture_ns.min())) * 1e-9
        if old_s > config.stale_s:
            return f"joint states: those on {self._joints_topic} were measured more than {config.stale_s:g} s ago"
        return self._graph_doubt or self._commander.doubt()

    @property
    def _own_clocks(self) -> list[StampClock]:
        return [camera.own_clock for camera in self._cameras if camera.own_clock is not None]

    def write(self, command: np.ndarray) -> None:
        """Send one command (Da,) that is no joint motion; joints come by :meth:`write_motion`."""
        if not self._stopped:
            self._commander.send(np.asarray(command, np.float64))
        self._next_episode()

    def write_motion(self, before: Reference, after: Reference) -> None:
        """Send the motion (n,) of one tick, in the units of the command, and the stop from its end."""
        if not self._stopped:
            self._commander.send_motion(before, after)
        self._next_episode()

    def hold(self) -> None:
        """Keep the pose: a trajectory has ended at rest, a rate is set to zero, a position stays."""
        if not self._stopped:
            self._commander.hold()
        self._next_episode()

    def _next_episode(self) -> None:
        """Ask a twin for its next episode, once the end of the last has been read."""
        self._episodes.go_on()

    def stop(self) -> None:
        """Take no command until :meth:`clear`; rates are set to zero, trajectories have ended at rest."""
        if not self._stopped:
            self._commander.hold()
        self._stopped = True

    def clear(self) -> None:
        """Take commands again."""
        self._stopped = False
        self._commander.resume()

    def report(self) -> dict[str, Any]:
        """Return what was heard and sent: messages, stamps, pictures, by name."""
        cameras = {c.name: {"decoded": c.decoded, "skipped": c.skipped, "malformed": c.malformed} for c in self._cameras}
        stamps = {"unstamped": self._clock.unstamped, "clock_jumps": self._clock.jumps, "offset_ns": self._clock.offset_ns}
        joints: JointReader = self._joints
        return {"joint_states": joints.messages, "malformed": joints.malformed, **stamps, **self._commander.counts, "cameras": cameras}

    def close(self) -> None:
        """Let go; may be called twice. What moves comes to rest by its trajectory, rates are set to zero."""
        if self._closed:
            return
        self._closed = True
        commander: Commander | None = getattr(self, "_commander", None)
        if commander is not None:
            commander.hold()
        self._connection.close()


def _lacking(where: str, missing: tuple[str, ...], heard: Iterable[str]) -> str:
    return f"{where} lack {', '.join(missing)}{suggest(missing[0], heard)}"
