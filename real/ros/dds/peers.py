"""Who is at the other end of an endpoint: its DDS engine, and the identity that services put into user data."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from real.ros.dds.binding import POLICIES

#: The first two bytes of a GUID name the vendor of the engine.
ENGINES = {(0x01, 0x0F): "Fast DDS", (0x01, 0x10): "Cyclone DDS", (0x01, 0x01): "RTI Connext", (0x01, 0x03): "OpenDDS", (0x01, 0x12): "RustDDS"}
FAST_DDS = "Fast DDS"


@dataclass(frozen=True)
class Peer:
    """The other end: its engine, and its ``clientid`` or ``serviceid`` (empty: it says none)."""

    engine: str
    client: str
    service: str


def engine_of(guid: bytes) -> str:
    """Return the name of the engine that made a GUID (16 bytes)."""
    return ENGINES.get((guid[0], guid[1]), "an unknown DDS engine")


def user_data(qos: Any) -> dict[str, str]:
    """Return the ``key=value;`` pairs of an endpoint's user data; what is not of that form is left out."""
    from cyclonedds.core import Policy

    if qos is None or Policy.Userdata not in qos:
        return {}
    text = bytes(qos[Policy.Userdata].data).decode("utf-8", "replace")
    return {key: value for key, sign, value in (pair.partition("=") for pair in text.split(";")) if sign}


def _peer(endpoint: Any) -> Peer | None:
    if endpoint is None:
        return None
    said = user_data(endpoint.qos)
    return Peer(engine_of(endpoint.key.bytes), said.get("clientid", ""), said.get("serviceid", ""))


def _known(peers: list[Peer | None]) -> list[Peer]:
    return [peer for peer in peers if peer is not None]


def matched_readers(writer: Any) -> list[Peer]:
    """Return who reads what this writer writes."""
    with POLICIES:
        return _known([_peer(writer.get_matched_subscription_data(handle)) for handle in writer.get_matched_subscriptions()])


def matched_writers(reader: Any) -> list[Peer]:
    """Return who writes what this reader reads."""
    with POLICIES:
        return _known([_peer(reader.get_matched_publication_data(handle)) for handle in reader.get_matched_publications()])


def peer_of_writer(reader: Any, handle: int) -> Peer | None:
    """Return who wrote a sample, by the publication handle that came with it; None where it is gone."""
    with POLICIES:
        return _peer(reader.get_matched_publication_data(handle))


#: Participant -> (its reader of other participants, whether Fast DDS has been found and told of).
_watched: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()


def fast_dds_arrived(participant: Any) -> bool:
    """Whether a participant of Fast DDS has been found on this domain that was not asked about before; True once."""
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsParticipant

    with POLICIES:
        watched = _watched.get(participant)
        if watched is None:
            watched = _watched[participant] = [BuiltinDataReader(participant, BuiltinTopicDcpsParticipant), False]
        if watched[1]:
            return False
        found = watched[0].read(N=256)
        watched[1] = any(engine_of(one.key.bytes) == FAST_DDS for one in found if getattr(one, "key", None) is not None)
        return watched[1]
