"""A DDS domain that no other test on this machine uses, however many processes share the tests."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

#: Domains whose ports lie below those that the kernel gives out by itself.
DOMAINS = range(1, 100)


@contextlib.contextmanager
def free_domain() -> Iterator[int]:
    """Draw a domain and keep it: an abstract socket, which dies with its process, says that it is taken."""
    start = os.getpid()
    for k in range(len(DOMAINS)):
        number = DOMAINS[(start * 7 + k * 31) % len(DOMAINS)]
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0robopolicy-test-domain-{number}")
        except OSError:
            lock.close()
            continue
        try:
            yield number
        finally:
            lock.close()
        return
    raise RuntimeError("all test domains are taken")
