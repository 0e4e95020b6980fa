"""A node of our own with a thread that hears for it: what the robot driver stands on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from policies.spec import InputError, suggest
from real.ros import api

_LOOK_S = 0.02  # between two looks at a condition that callbacks bring about


def best_effort(depth: int = 5) -> Any:
    """Return the profile that hears every publisher of sensor data, reliable or not."""
    return api.QoSProfile(depth=depth, history=api.HistoryPolicy.KEEP_LAST, reliability=api.ReliabilityPolicy.BEST_EFFORT)


def reliable(depth: int = 1, *, latched: bool = False) -> Any:
    """Return a reliable profile; ``latched``: who comes late gets what was said before (transient local)."""
    durability = api.DurabilityPolicy.TRANSIENT_LOCAL if latched else api.DurabilityPolicy.VOLATILE
    return api.QoSProfile(depth=depth, history=api.HistoryPolicy.KEEP_LAST, reliability=api.ReliabilityPolicy.RELIABLE, durability=durability)


class Connection:
    """One node in a context of its own, heard for by one thread.

    Args:
        name: Of the node.
        namespace: Of the node; empty: the root.
        domain: DDS domain; None: ``ROS_DOMAIN_ID``, or 0.
        interface: Network interface; empty: loopback, None: as the environment says.
        remap: Name of a topic -> name that is used in its place.

    Attributes:
        node: The node.
        failed: Why the thread has ended; empty: it runs.

    Raises:
        InputError: for a domain, an interface or a name that is none.
    """

    def __init__(self, name: str, namespace: str = "", domain: int | None = None, interface: str | None = None, remap: dict[str, str] | None = None) -> None:
        self.failed = ""
        self._closed = False
        words = [word for old, new in (remap or {}).items() for word in ("-r", f"{old}:={new}")]
        self._context = api.Context()
        # What is on this process's own command line is meant for another
        api.init(args=[], context=self._context, domain_id=domain, **({} if api.BACKEND == "rclpy" else {"interface": interface}))
        try:
            arguments = ["--ros-args", *words] if words else None
            options: dict[str, Any] = {"context": self._context, "cli_args": arguments, "use_global_arguments": False, "start_parameter_services": False}
            self.node: Any = api.Node(name, namespace=namespace or None, **options)
            self._executor = api.SingleThreadedExecutor(context=self._context)
            self._executor.add_node(self.node)
        except BaseException:
            api.shutdown(context=self._context)
            raise
        self._thread = threading.Thread(target=self._spin, name=f"ros {name}", daemon=True)

    def listen(self) -> None:
        """Begin to hear; subscriptions made before miss nothing."""
        self._thread.start()

    def _spin(self) -> None:
        try:
            while not self._closed:
                self._executor.spin_once(timeout_sec=0.1)
        except Exception as error:  # whatever a callback or the middleware raises: the driver says so, its process goes on
            if not self._closed:
                self.failed = f"ROS: {type(error).__name__}: {error}"

    def subscribe(self, kind: str, topic: str, callback: Callable[[Any, int], None], qos: Any, raw: bool = False) -> Any:
        """Have ``callback`` called with every message (its CDR bytes, if ``raw``) and the monotonic ns at which it arrived."""
        return self.node.create_subscription(api.message(kind), topic, lambda message: callback(message, time.monotonic_ns()), qos, raw=raw)

    def publisher(self, kind: str, topic: str, qos: Any) -> Any:
        """Return a publisher."""
        return self.node.create_publisher(api.message(kind), topic, qos)

    def publishers_of(self, topic: str) -> list[str]:
        """Return the nodes that publish on the absolute name ``topic``, by full name, one for each publisher."""
        return sorted(_full(info) for info in self.node.get_publishers_info_by_topic(topic))

    def topics(self, kind: str, offered: bool = True) -> list[str]:
        """Return the topics of a type ``package/msg/Name`` that somebody publishes (else: that somebody hears)."""
        count = self.node.count_publishers if offered else self.node.count_subscribers
        return sorted(name for name, kinds in self.node.get_topic_names_and_types() if kind in kinds and count(name))

    def wait(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Wait for what callbacks bring about; returns whether it came. Raises InputError if hearing has failed."""
        until = time.monotonic() + timeout_s
        while not condition():
            if self.failed:
                raise InputError(self.failed)
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_S)
        return True

    def seen(self, kind: str, topic: str, offered: bool = True) -> str:
        """Return what there is in place of ``topic``: the topics of its type, and the nearest name."""
        found = [name for name in self.topics(kind, offered) if name != topic]
        if not found:
            return f"no other topic of {kind} seen (domain {self._context.get_domain_id()}; is the robot on it, and on this interface?)"
        return f"topics of {kind} seen: {', '.join(found[:8])}{_nearest(topic, found)}"

    def close(self) -> None:
        """End node and thread; may be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._executor.wake()
            self._thread.join(2.0)
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        api.shutdown(context=self._context)


def _nearest(topic: str, found: Sequence[str]) -> str:
    """Return the nearest name; a topic in another namespace is near if its last part is the same."""
    last = topic.rpartition("/")[2]
    same = [name for name in found if name.rpartition("/")[2] == last]
    if same:
        return f"; did you mean {same[0]!r} (robot.namespace or robot.remap)?"
    hint = suggest(topic, found)
    return hint if "did you mean" in hint else ""


def _full(info: Any) -> str:
    return f"{str(info.node_namespace).rstrip('/')}/{info.node_name}"
