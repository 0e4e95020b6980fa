"""Quality of service: rclpy's profiles, policies and presets, and what keeps an offer and a request apart."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

from real.ros.dds.clock import Duration


class InvalidQoSProfileException(Exception):
    """A profile lacks what it needs; named as in rclpy."""

    def __init__(self, *args: Any) -> None:
        super().__init__("Invalid QoSProfile", *args)


class HistoryPolicy(IntEnum):
    """How many samples are kept."""

    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2
    UNKNOWN = 3


class ReliabilityPolicy(IntEnum):
    """Whether a lost sample is sent again."""

    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class DurabilityPolicy(IntEnum):
    """Whether who comes late gets what was published before."""

    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class LivelinessPolicy(IntEnum):
    """Who says that a publisher is alive."""

    SYSTEM_DEFAULT = 0
    AUTOMATIC = 1
    MANUAL_BY_TOPIC = 3
    UNKNOWN = 4
    BEST_AVAILABLE = 5


class QoSPolicyKind(IntEnum):
    """The policies of a profile."""

    INVALID = 1
    DURABILITY = 2
    DEADLINE = 4
    LIVELINESS = 8
    RELIABILITY = 16
    HISTORY = 32
    LIFESPAN = 64
    DEPTH = 128
    LIVELINESS_LEASE_DURATION = 256


class QoSProfile:
    """What a publisher offers or a subscription asks for; arguments are rclpy's.

    Raises:
        InvalidQoSProfileException: if neither history nor depth is given, or keep last without a depth.
    """

    __slots__ = (
        "avoid_ros_namespace_conventions", "deadline", "depth", "durability", "history", "lifespan", "liveliness", "liveliness_lease_duration", "reliability"
    )  # fmt: skip
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        *,
        history: HistoryPolicy | None = None,
        depth: int | None = None,
        reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
        durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
        lifespan: Duration | None = None,
        deadline: Duration | None = None,
        liveliness: LivelinessPolicy = LivelinessPolicy.SYSTEM_DEFAULT,
        liveliness_lease_duration: Duration | None = None,
        avoid_ros_namespace_conventions: bool = False,
    ) -> None:
        if history is None:
            if depth is None:
                raise InvalidQoSProfileException("History and/or Depth settings are required.")
            history = HistoryPolicy.KEEP_LAST
        if depth is None and history == HistoryPolicy.KEEP_LAST:
            raise InvalidQoSProfileException("History set to KEEP_LAST without a depth setting.")
        if depth is not None and (not isinstance(depth, int) or depth < 0):
            raise ValueError(f"depth must be an int of 0 or more, got {depth!r}")
        self.history = HistoryPolicy(history)
        self.depth = depth or 0
        self.reliability = ReliabilityPolicy(reliability)
        self.durability = DurabilityPolicy(durability)
        self.lifespan = lifespan or Duration()
        self.deadline = deadline or Duration()
        self.liveliness = LivelinessPolicy(liveliness)
        self.liveliness_lease_duration = liveliness_lease_duration or Duration()
        self.avoid_ros_namespace_conventions = bool(avoid_ros_namespace_conventions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QoSProfile) and all(getattr(self, slot) == getattr(other, slot) for slot in self.__slots__)

    def __repr__(self) -> str:
        return f"QoSProfile({self.reliability.name}, {self.durability.name}, {self.history.name}, depth={self.depth})"


_SENSOR_DATA = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
_DEFAULT = QoSProfile(depth=10)
_SYSTEM_DEFAULT = QoSProfile(history=HistoryPolicy.SYSTEM_DEFAULT, reliability=ReliabilityPolicy.SYSTEM_DEFAULT, durability=DurabilityPolicy.SYSTEM_DEFAULT)
_SERVICES = QoSProfile(depth=10)
_PARAMETERS = QoSProfile(depth=1000)
_PARAMETER_EVENTS = QoSProfile(depth=1000)
_ACTION_STATUS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

qos_profile_sensor_data = _SENSOR_DATA
qos_profile_default = _DEFAULT
qos_profile_system_default = _SYSTEM_DEFAULT
qos_profile_services_default = _SERVICES
qos_profile_parameters = _PARAMETERS
qos_profile_parameter_events = _PARAMETER_EVENTS
qos_profile_action_status_default = _ACTION_STATUS


class QoSPresetProfiles(Enum):
    """The presets by name."""

    SENSOR_DATA = _SENSOR_DATA
    DEFAULT = _DEFAULT
    SYSTEM_DEFAULT = _SYSTEM_DEFAULT
    SERVICES_DEFAULT = _SERVICES
    PARAMETERS = _PARAMETERS
    PARAMETER_EVENTS = _PARAMETER_EVENTS
    ACTION_STATUS_DEFAULT = _ACTION_STATUS


def as_profile(qos: QoSProfile | int) -> QoSProfile:
    """Return the profile for what rclpy takes as one: a profile, or the depth of a reliable queue.

    Raises:
        TypeError: for anything else.
        ValueError: for a negative depth.
    """
    if isinstance(qos, QoSProfile):
        return qos
    if isinstance(qos, bool) or not isinstance(qos, int):
        raise TypeError(f"Expected QoSProfile or int, but received {type(qos)!r}")
    return QoSProfile(depth=qos)


@dataclass(frozen=True)
class Mismatch:
    """Why an offer does not serve a request.

    Attributes:
        policy: Which policy.
        offered: What the publisher offers.
        requested: What the subscription asks for.
    """

    policy: QoSPolicyKind
    offered: str
    requested: str

    def advice(self) -> str:
        """Return what to change."""
        name = self.policy.name.lower()
        return f"ask for {name} {self.offered} in the subscription, or publish with {self.requested}"


def mismatch(offered: QoSProfile, requested: QoSProfile) -> Mismatch | None:
    """Return the first policy by which a publisher's offer falls short of what a subscription asks for, or None."""
    if requested.reliability == ReliabilityPolicy.RELIABLE and offered.reliability == ReliabilityPolicy.BEST_EFFORT:
        return Mismatch(QoSPolicyKind.RELIABILITY, offered.reliability.name, requested.reliability.name)
    if requested.durability == DurabilityPolicy.TRANSIENT_LOCAL and offered.durability == DurabilityPolicy.VOLATILE:
        return Mismatch(QoSPolicyKind.DURABILITY, offered.durability.name, requested.durability.name)
    wanted, given = requested.deadline.nanoseconds, offered.deadline.nanoseconds
    if wanted and (not given or given > wanted):
        return Mismatch(QoSPolicyKind.DEADLINE, f"{given / 1e9:g} s" if given else "none", f"{wanted / 1e9:g} s")
    if requested.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC and offered.liveliness != LivelinessPolicy.MANUAL_BY_TOPIC:
        return Mismatch(QoSPolicyKind.LIVELINESS, "AUTOMATIC", requested.liveliness.name)
    wanted, given = requested.liveliness_lease_duration.nanoseconds, offered.liveliness_lease_duration.nanoseconds
    if wanted and (not given or given > wanted):
        return Mismatch(QoSPolicyKind.LIVELINESS_LEASE_DURATION, f"{given / 1e9:g} s" if given else "none", f"{wanted / 1e9:g} s")
    return None


class QoSCompatibility(IntEnum):
    """The answer of ``qos_check_compatible``."""

    OK = 0
    WARNING = 1
    ERROR = 2


def qos_check_compatible(publisher_qos: QoSProfile, subscription_qos: QoSProfile) -> tuple[QoSCompatibility, str]:
    """Return whether a publisher serves a subscription, and why not; as rclpy's."""
    apart = mismatch(publisher_qos, subscription_qos)
    if apart is not None:
        return QoSCompatibility.ERROR, f"{apart.policy.name.lower()}: offered {apart.offered}, requested {apart.requested}"
    unsure = any(int(p) in (0, 3) for profile in (publisher_qos, subscription_qos) for p in (profile.reliability, profile.durability))
    return (QoSCompatibility.WARNING, "a policy is left to the system") if unsure else (QoSCompatibility.OK, "")
