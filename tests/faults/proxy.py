"""Bad networks in user space: a relay of ZeroMQ messages that loses, delays, doubles and reorders, and a cable of TCP that is cut.

Both run in a thread of the test and can be changed while they run. Nothing of the machine's own network is touched.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import zmq

Frames = list[bytes]


@dataclass
class Network:
    """How messages fare, each way.

    Attributes:
        delay_s, jitter_s: Every message waits ``delay_s`` and up to ``jitter_s`` more, so that messages overtake each other.
        loss, double: Part of the messages that never arrive, or arrive a second time, up to ``echo_s`` later.
        partition: Nothing passes; what comes meanwhile is lost.
        towards_server, towards_client: What becomes of a message's frames on that way; None: the message is lost.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    double: float = 0.0
    echo_s: float = 1.0
    partition: bool = False
    towards_server: Callable[[Frames], Frames | None] = field(default=lambda frames: frames)
    towards_client: Callable[[Frames], Frames | None] = field(default=lambda frames: frames)


class Relay:
    """A ROUTER towards clients and one DEALER per client towards the server, with a :class:`Network` between them.

    Attributes:
        address: Where clients connect.
        network: May be changed at any time.
        counts: Messages that ``passed``, were ``lost``, ``doubled`` and ``reordered`` so far.
    """

    def __init__(self, address: str, server: str, network: Network | None = None, seed: int = 0) -> None:
        self.address, self.network, self.counts = address, network or Network(), Counter()
        self._server, self._random = server, np.random.default_rng(seed)
        self._context, self._stop = zmq.Context(), threading.Event()
        self._front = self._socket(zmq.ROUTER)
        self._front.bind(address)
        self._backs: OrderedDict[bytes, zmq.Socket] = OrderedDict()
        self._due: list[tuple[float, int, bool, bytes, Frames]] = []  # (when, number, towards the server, client, frames)
        self._number, self._newest = itertools.count(), {True: 0, False: 0}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._context.destroy(linger=0)

    def _socket(self, kind: int) -> zmq.Socket:
        made = self._context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        return made

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._front, zmq.POLLIN)
        while not self._stop.is_set():
            wait = self._due[0][0] - time.monotonic() if self._due else 0.05
            ready = dict(poller.poll(max(int(1e3 * min(wait, 0.05)), 0)))
            if self._front in ready:
                client, *frames = self._front.recv_multipart()
                if client not in self._backs:
                    self._backs[client] = back = self._socket(zmq.DEALER)
                    back.connect(self._server)
                    poller.register(back, zmq.POLLIN)
                    if len(self._backs) > 32:  # clients that lost their session have come back as others
                        _, old = self._backs.popitem(last=False)
                        poller.unregister(old)
                        old.close()
                self._post(True, client, frames)
            for client, back in list(self._backs.items()):
                if back in ready:
                    self._post(False, client, back.recv_multipart())
            while self._due and self._due[0][0] <= time.monotonic():
                self._deliver(*heapq.heappop(self._due)[1:])

    def _post(self, to_server: bool, client: bytes, frames: Frames) -> None:
        net = self.network
        changed = (net.towards_server if to_server else net.towards_client)(frames)
        if changed is None or net.partition or self._random.random() < net.loss:
            self.counts["lost"] += 1
            return
        waits = [net.delay_s + net.jitter_s * self._random.random()]
        if self._random.random() < net.double:
            self.counts["doubled"] += 1
            waits.append(waits[0] + net.echo_s * self._random.random())
        for wait in waits:
            heapq.heappush(self._due, (time.monotonic() + wait, next(self._number), to_server, client, changed))

    def _deliver(self, number: int, to_server: bool, client: bytes, frames: Frames) -> None:
        if self.network.partition:
            self.counts["lost"] += 1
            return
        self.counts["passed"] += 1
        self.counts["reordered"] += number < self._newest[to_server]
        self._newest[to_server] = max(number, self._newest[to_server])
        if to_server and client in self._backs:
            self._backs[client].send_multipart(frames, zmq.NOBLOCK)
        elif not to_server:
            self._front.send_multipart([client, *frames], zmq.NOBLOCK)


class Cable:
    """TCP from ``address`` to a server's port: bytes pass unchanged until the cable is stalled or cut.

    Attributes:
        address: Where clients connect, ``tcp://127.0.0.1:PORT``.
        stalled: While True nothing passes and nothing is lost.
        opened: Connections made so far.
    """

    def __init__(self, server: str) -> None:
        self._target = ("127.0.0.1", int(server.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.stalled, self.opened = False, 0
        self._stop, self._cut = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._listener.close()

    def cut(self) -> None:
        """Break every connection; new ones may be made."""
        self._cut.set()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            pairs: dict[socket.socket, socket.socket] = {}

            def drop(end: socket.socket) -> None:
                for one in (end, pairs.get(end)):
                    if one is not None and pairs.pop(one, None) is not None:
                        selector.unregister(one)
                        one.close()

            while not self._stop.is_set():
                if self._cut.is_set():
                    self._cut.clear()
                    for end in list(pairs):
                        drop(end)
                if self.stalled:
                    time.sleep(0.005)
                    continue
                for key, _ in selector.select(0.05):
                    if key.fileobj is self._listener:
                        near, _ = self._listener.accept()
                        try:
                            far = socket.create_connection(self._target, timeout=1)
                        except OSError:
                            near.close()
                            continue
                        self.opened += 1
                        for one, other in ((near, far), (far, near)):
                            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                            pairs[one] = other
                            selector.register(one, selectors.EVENT_READ)
                    elif key.fileobj in pairs:
                        try:
                            data = key.fileobj.recv(1 << 16)
                            pairs[key.fileobj].sendall(data)
                        except OSError:
                            data = b""
                        if not data:
                            drop(key.fileobj)
            for end in list(pairs):
                drop(end)
