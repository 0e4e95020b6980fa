"""DDS readers and writers of ready CDR bytes, with the settings that ROS 2's middleware gives them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from cyclonedds.core import DDSException, Entity, InstanceState, ReadCondition, SampleState, ViewState
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from real.ros.dds.binding import POLICIES
from real.ros.dds.clock import Duration
from real.ros.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

if TYPE_CHECKING:
    from real.ros.dds.context import Context

#: A reliable writer whose readers do not keep up waits this long at most, then the sample is dropped and counted.
WRITE_WAITS_NS = 50_000_000

_INFINITE = duration(infinite=True)


def close(entity: Entity | None) -> None:
    """Delete a DDS entity now, and not when nobody refers to it any more; deleting it twice is harmless."""
    if entity is not None:
        entity.__del__()


def cyclone_qos(profile: QoSProfile, user_data: str = "") -> Qos:
    """Return the DDS policies of a profile: XCDR1 only, no automatic disposal, what is left to the system as ROS 2 fills it in."""
    reliable = profile.reliability != ReliabilityPolicy.BEST_EFFORT
    kept = max(profile.depth, 1)
    keep_all = profile.history == HistoryPolicy.KEEP_ALL
    history: Any = Policy.History.KeepAll if keep_all else Policy.History.KeepLast(kept)
    policies: list[Any] = [
        Policy.Reliability.Reliable(max_blocking_time=WRITE_WAITS_NS) if reliable else Policy.Reliability.BestEffort,
        history,
        Policy.DataRepresentation(use_cdrv0_representation=True, use_xcdrv2_representation=False),
        Policy.WriterDataLifecycle(autodispose=False),
    ]
    if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        policies += [Policy.Durability.TransientLocal, Policy.DurabilityService(0, history, -1, -1, -1)]
    else:
        policies.append(Policy.Durability.Volatile)
    if profile.deadline.nanoseconds:
        policies.append(Policy.Deadline(profile.deadline.nanoseconds))
    if profile.lifespan.nanoseconds:
        policies.append(Policy.Lifespan(profile.lifespan.nanoseconds))
    lease = profile.liveliness_lease_duration.nanoseconds or _INFINITE
    manual = profile.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC
    policies.append(Policy.Liveliness.ManualByTopic(lease) if manual else Policy.Liveliness.Automatic(lease))
    if user_data:
        policies.append(Policy.Userdata(user_data.encode()))
    return Qos(*policies)


def ros_profile(qos: Qos) -> QoSProfile:
    """Return the profile that a discovered endpoint's DDS policies stand for."""

    def finite(policy: Any, name: str) -> Duration | None:
        value = getattr(qos[policy], name) if policy in qos else _INFINITE
        return Duration(nanoseconds=value) if 0 < value < _INFINITE else None

    durable = Policy.Durability in qos and qos[Policy.Durability] != Policy.Durability.Volatile
    history = qos[Policy.History] if Policy.History in qos else Policy.History.KeepLast(1)
    live: Any = qos[Policy.Liveliness] if Policy.Liveliness in qos else Policy.Liveliness.Automatic(_INFINITE)
    lease = live.lease_duration
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if history == Policy.History.KeepAll else HistoryPolicy.KEEP_LAST,
        depth=getattr(history, "depth", 0),
        reliability=ReliabilityPolicy.RELIABLE if isinstance(qos[Policy.Reliability], Policy.Reliability.Reliable) else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if durable else DurabilityPolicy.VOLATILE,
        deadline=finite(Policy.Deadline, "deadline"),
        lifespan=finite(Policy.Lifespan, "lifespan"),
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC if isinstance(live, Policy.Liveliness.ManualByTopic) else LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=Duration(nanoseconds=lease) if 0 < lease < _INFINITE else None,
    )


class Writer:
    """Writes ready CDR bytes to one DDS topic; any thread may.

    Args:
        context: Whose participant writes.
        topic: DDS name, e.g. ``rt/joint_states``.
        kind: From ``types.raw_type``.
        profile: Quality of service.
        user_data: What discovery tells beside it, e.g. ``typehash=RIHS01_..;``.

    Attributes:
        dropped: Samples that were not written since readers did not keep up.
        entity: The DDS writer.
    """

    def __init__(self, context: Context, topic: str, kind: Any, profile: QoSProfile, user_data: str = "") -> None:
        self.dropped = 0
        self._lock = threading.Lock()
        self._kind = kind
        self._topic = Topic(context.participant, topic, kind)
        with POLICIES:
            self.entity: Any = DataWriter(context.participant, self._topic, cyclone_qos(profile, user_data))

    def write(self, cdr: bytes) -> bool:
        """Send a sample; returns whether it went out (a reliable reader that stands still costs samples, never more than 50 ms).

        Raises:
            DDSException: if DDS refuses it for another reason.
        """
        try:
            with self._lock:
                self.entity.write(self._kind.of(cdr))
        except DDSException as error:
            if error.code != DDSException.DDS_RETCODE_TIMEOUT:
                raise
            self.dropped += 1
            return False
        return True

    def matched(self) -> int:
        """Return how many readers get what is written."""
        return len(self.entity.get_matched_subscriptions())

    def close(self) -> None:
        """Take it out of DDS."""
        with self._lock:
            close(self.entity)
            close(self._topic)


class Reader:
    """Reads CDR bytes of one DDS topic; arguments as of Writer.

    Attributes:
        entity: The DDS reader.
        condition: Triggered while there is something to take.
    """

    def __init__(self, context: Context, topic: str, kind: Any, profile: QoSProfile, user_data: str = "") -> None:
        self._topic = Topic(context.participant, topic, kind)
        with POLICIES:
            self.entity: Any = DataReader(context.participant, self._topic, cyclone_qos(profile, user_data))
        self.condition = anything(self.entity)

    def take(self) -> tuple[bytes, Any] | None:
        """Return the next sample and what DDS says about it, or None; notices without data (a writer has gone) are passed over."""
        while taken := self.entity.take(N=1):
            if taken[0].sample_info.valid_data:
                return taken[0].cdr, taken[0].sample_info
        return None

    def matched(self) -> int:
        """Return how many writers it hears."""
        return len(self.entity.get_matched_publications())

    def close(self) -> None:
        """Take it out of DDS."""
        close(self.condition)
        close(self.entity)
        close(self._topic)


def anything(reader: Any) -> ReadCondition:
    """Return a condition that is triggered while a reader has anything to take."""
    return ReadCondition(reader, ViewState.Any | InstanceState.Any | SampleState.Any)
