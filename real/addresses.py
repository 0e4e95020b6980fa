"""Addresses of ZeroMQ sockets: loopback alone, unless keys secure the socket."""

from __future__ import annotations

import zmq

from policies.spec import InputError


def is_loopback(address: str) -> bool:
    """Whether a ZeroMQ address can be reached from this machine alone."""
    transport, _, rest = address.partition("://")
    if transport in ("ipc", "inproc"):
        return True
    host = rest.rpartition(":")[0].strip("[]")
    if host == "localhost" or host == "::1":
        return True
    octets = host.split(".")
    return transport == "tcp" and len(octets) == 4 and octets[0] == "127" and all(_is_number(o, 255) for o in octets)


def require_loopback(address: str, secured: bool = False) -> None:
    """Raise InputError, one line, unless ``address`` can be reached from this machine alone or the socket is ``secured`` by keys; or if its port is none."""
    if not secured and not is_loopback(address):
        loopback, apart = "tcp://127.0.0.1:PORT or ipc://PATH", "an ssh tunnel, or for a policy server keys (robopolicy keys --help)"
        raise InputError(f"address {address!r}: only loopback is served and trusted ({loopback}); between machines use {apart}")
    port = address.rpartition(":")[2]
    if address.startswith("tcp://") and port != "*" and not _is_number(port, 65535):  # ZeroMQ takes any number modulo 65536: another port
        raise InputError(f"address {address!r}: expected a port up to 65535, found {port}")


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most


def _take_ipv6(socket: zmq.Socket, address: str) -> None:
    """Let ``socket`` speak IPv6 where its address is one: ZeroMQ finds no such host otherwise, or never connects."""
    if address.startswith("tcp://") and address.count(":") > 2:
        socket.setsockopt(zmq.IPV6, 1)


def checked_bind(socket: zmq.Socket, address: str, secured: bool = False) -> str:
    """Bind to a loopback address, or to any if ``secured`` (``real.keys``), and return the one bound (port 0 or ``*``: any free one).

    Raises:
        InputError: one line, for another address or one that cannot be bound.
    """
    require_loopback(address, secured)
    if address.endswith(":0"):
        address = address[:-1] + "*"
    _take_ipv6(socket, address)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise InputError(f"address {address!r} cannot be bound: {error}") from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def checked_connect(socket: zmq.Socket, address: str, secured: bool = False) -> None:
    """Connect (in the background). Raises InputError for another address unless ``secured``: nobody there has shown who they are."""
    require_loopback(address, secured)
    _take_ipv6(socket, address)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise InputError(f"address {address!r} is not one: {error}; expected tcp://127.0.0.1:PORT or ipc://PATH") from error
