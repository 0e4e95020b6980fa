"""The bound end of a conversation: a ROUTER socket that others connect to, on loopback or secured by keys."""

from __future__ import annotations

from collections.abc import Mapping

import zmq

from real.addresses import checked_bind
from real.context import LinkContext
from real.keys import ServerKeys
from real.wire import Limits, configure


def bound_router(
    bind: str, limits: Limits, keys: ServerKeys | None = None, options: Mapping[zmq.SocketOption, int] | None = None
) -> tuple[LinkContext, zmq.Socket[bytes], str]:
    """Return a context, its ROUTER socket and the address that it is bound to; where that fails, all is closed, ``keys`` too.

    Args:
        bind: Loopback address, any with keys; port 0 takes a free one.
        limits: What a message may hold that is received.
        keys: Who may connect.
        options: Of the socket, in place of those of :func:`real.wire.configure`.

    Raises:
        InputError: if the address is not loopback without keys, or cannot be bound.
    """
    context = LinkContext()
    try:
        socket = context.socket(zmq.ROUTER)
        configure(socket, limits)
        for option, value in (options or {}).items():
            socket.setsockopt(option, value)
        if keys is not None:
            keys.secure(socket, context)
        return context, socket, checked_bind(socket, bind, keys is not None)
    except BaseException:
        if keys is not None:
            keys.close()
        context.destroy(linger=0)
        raise
