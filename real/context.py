"""The ZeroMQ context of a link: it ends with its owner, also where nobody closed it."""

from __future__ import annotations

from typing import Any

import zmq


class LinkContext(zmq.Context[zmq.Socket[bytes]]):
    """A context that knows its sockets until they are closed.

    pyzmq's own knows them by weak references. Where a link that nobody closed is collected together with a cycle, an exception's
    frames for one, those are gone first, and ``__del__`` would wait for ever for a socket that nobody can close any more.
    """

    _open: list[zmq.Socket[bytes]]

    def __init__(self) -> None:
        super().__init__()
        self._open = []

    def socket(self, *args: Any, **options: Any) -> zmq.Socket[bytes]:
        """Return a socket of this context; as :meth:`zmq.Context.socket`."""
        made = super().socket(*args, **options)
        self._open = [*(one for one in self._open if not one.closed), made]
        return made

    def __del__(self) -> None:
        for one in getattr(self, "_open", ()):
            if not one.closed:
                one.close(linger=0)
        super().__del__()
