"""The DDS settings that ship: loopback by default, one chosen interface when asked; a person's own ``CYCLONEDDS_URI`` goes before both.

The defaults of Cyclone DDS lose most of a second camera stream on loopback; with these no frame is lost.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from policies.spec import InputError, suggest

_FOLDER = Path(__file__).with_name("profiles")
_PLACE = '<NetworkInterface name="INTERFACE"/>'
_LOOPBACK = ("", "lo", "localhost", "127.0.0.1")

#: What a kernel should grant a socket that receives two cameras over a network, in bytes.
RECEIVE_BUFFER = 16 * 1024 * 1024

_RMEM_MAX = Path("/proc/sys/net/core/rmem_max")


@dataclass(frozen=True)
class Settings:
    """How DDS is set up.

    Attributes:
        profile: ``loopback``, ``network`` or ``CYCLONEDDS_URI``.
        xml: What Cyclone DDS is given; None where the environment's own settings are left alone.
        said: One line for people.
    """

    profile: str
    xml: str | None
    said: str


def settings(interface: str = "") -> Settings:
    """Return the settings for an interface: its name or IPv4 address; empty or ``lo`` is loopback.

    Raises:
        InputError: if this machine has no such interface, with the nearest name.
    """
    own = os.environ.get("CYCLONEDDS_URI", "")
    if own:
        shown = own if len(own) <= 60 else own[:57] + "..."
        ignored = f"; interface {interface!r} is left to it" if interface else ""
        return Settings("CYCLONEDDS_URI", None, f"DDS settings are those of CYCLONEDDS_URI ({shown}){ignored}")
    if interface in _LOOPBACK:
        return Settings("loopback", (_FOLDER / "loopback.xml").read_text(encoding="utf-8"), "DDS stays on loopback; ros.interface=NAME opens it to a network")
    chosen = _chosen(interface)
    xml = (_FOLDER / "network.xml").read_text(encoding="utf-8").replace(_PLACE, f"<NetworkInterface {chosen}/>")
    return Settings("network", xml, f"DDS is open to the network of {interface}: whoever is on it hears and may publish")


def _chosen(interface: str) -> str:
    try:
        ipaddress.IPv4Address(interface)
    except ValueError:
        names = [name for _, name in socket.if_nameindex()]
        if interface not in names:
            raise InputError(f"ros.interface={interface!r}: this machine has no such interface{suggest(interface, names)}") from None
        return f'name="{interface}"'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((interface, 0))
        except OSError:
            raise InputError(f"ros.interface={interface!r}: no interface of this machine has that address") from None
    return f'address="{interface}"'


def receive_buffer() -> int | None:
    """Return what the kernel grants a receiving socket at most, in bytes; None where it does not say."""
    try:
        return int(_RMEM_MAX.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def receive_buffer_advice() -> str:
    """Return the command that lets two cameras come over a network without loss, or an empty text when the kernel grants enough."""
    granted = receive_buffer()
    return "" if granted is None or granted >= RECEIVE_BUFFER else f"sudo sysctl -w net.core.rmem_max={RECEIVE_BUFFER}"
