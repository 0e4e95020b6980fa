"""The teleoperation page's server: speaks with every browser on its own, and never lets one wait for another.

To a browser go the answer to each of its beats at once, the status a few times a second, and of each camera the newest image,
the next one only when the last is on its screen. A browser that is slow sees fewer images; one that does not read is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Callable
from typing import Any

from policies.spec import InputError
from real.teleop.page_http import Gate
from real.teleop.page_input import EVENTS, MESSAGE_BYTES, SAFER, Beat, Browser, Controls, Event, Malformed, parse
from real.teleop.page_view import View

STATUS_S = 0.05
_DRAWN_S = 1.0  # an image that is not said to be on the screen for so long is taken for lost
_BROWSERS, _STRANGERS = 16, 8  # at most, and of these without the key: who has it always finds a place
_MALFORMED = 20  # messages, after which a browser is let go
_A_SECOND = 400  # messages of one browser, after which it is let go
_UNREAD = 1 << 20  # bytes that a browser may leave unread


class PageServer:
    """Serves browsers in the running event loop.

    Args:
        gate: Who may come in.
        controls: What they do.
        view: What they see.
        pressed: Called with every event that is carried out; returns a line for whoever pressed it once it is known, or nothing.
        stale_s: Age from which a beat counts for nothing.
    """

    def __init__(self, gate: Gate, controls: Controls, view: View, pressed: Callable[[str], asyncio.Future[str]], stale_s: float) -> None:
        self._gate, self.controls, self._view, self._pressed, self._stale_s = gate, controls, view, pressed, stale_s
        self._robot: dict[str, Any] = {}
        self._clients: dict[int, _Client] = {}

    async def serve(self, bind: str, port: int, secure: ssl.SSLContext | None) -> Any:
        """Begin to serve; returns the websockets server, whose socket says the port. Raises InputError."""
        from websockets.asyncio.server import serve

        try:
            return await serve(
                self._meet, bind, port, process_request=self._gate.process_request, ssl=secure, compression=None, max_size=MESSAGE_BYTES,
                max_queue=16, ping_interval=5, ping_timeout=10, close_timeout=1, open_timeout=5, server_header=None,
            )  # fmt: skip
        except (OSError, OverflowError) as error:
            raise InputError(f"the teleoperation page cannot be served at {bind} port {port}: {getattr(error, 'strerror', None) or error}") from error

    def introduce(self, robot: dict[str, Any]) -> None:
        """Take in whose robot it is."""
        self._robot = robot

    def cue(self, name: str) -> None:
        """Let every browser beep; the one with the controls also shakes its gamepad."""
        for client in self._clients.values():
            client.send({"kind": "cue", "name": name, "yours": client.browser.number == self.controls.holder})

    def wake(self) -> None:
        """Note that there is a new image."""
        for client in self._clients.values():
            client.news.set()

    async def _meet(self, connection: Any) -> None:
        """Live with one browser until it goes."""
        trusted = bool(getattr(connection, "trusted", False))
        alike = sum(client.browser.trusted == trusted for client in self._clients.values())
        if alike >= (_BROWSERS - _STRANGERS if trusted else _STRANGERS):
            await connection.close(1013, "too many browsers")
            return
        browser = self.controls.join(trusted, time.monotonic_ns())
        client = self._clients[browser.number] = _Client(connection, browser)
        telling = asyncio.create_task(self._tell(client))
        try:
            await self._listen(client)
        finally:
            self.controls.leave(browser)
            del self._clients[browser.number]
            telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await telling

    async def _listen(self, client: _Client) -> None:
        from websockets.exceptions import ConnectionClosed

        window, count = 0, 0
        with contextlib.suppress(ConnectionClosed):
            async for text in client.connection:
                now = time.monotonic_ns()
                window, count = (window, count + 1) if now - window < 1_000_000_000 else (now, 1)
                if count > _A_SECOND or client.browser.malformed > _MALFORMED:
                    await client.connection.close(1008, "too many messages" if count > _A_SECOND else "malformed messages")
                    return
                try:
                    await self._obey(client, parse(text), now)
                except Malformed:
                    client.browser.malformed += 1

    async def _obey(self, client: _Client, said: Any, now_ns: int) -> None:
        browser = client.browser
        if isinstance(said, Beat):
            self.controls.beat(browser, said, now_ns)
            await client.connection.send(json.dumps({"kind": "answer", "number": said.number, "echo": now_ns // 1000}))
        elif isinstance(said, Event):
            why = self.controls.event(browser, said, now_ns)
            client.send({"kind": "line", "text": why or said.name, "refused": bool(why)})
            if not why:
                self._pressed(said.name).add_done_callback(lambda done: self._answered(client, done))
        elif said.name == "control":
            if not self.controls.control(browser, bool(said.value), now_ns):
                client.send({"kind": "line", "text": "another browser has the controls", "refused": True})
        else:
            client.drawn = max(client.drawn, said.value)
            client.news.set()

    def _answered(self, client: _Client, done: asyncio.Future[str]) -> None:
        if not done.cancelled() and done.exception() is None and done.result():
            client.send({"kind": "line", "text": done.result(), "refused": True})

    async def _tell(self, client: _Client) -> None:
        """Send status and images as fast as the browser takes them."""
        from websockets.exceptions import ConnectionClosed

        due = 0.0
        with contextlib.suppress(ConnectionClosed):
            while True:
                now = time.monotonic()
                if now >= due:
                    due = now + STATUS_S
                    await client.connection.send(json.dumps(self._status(client), allow_nan=False))
                    if client.unread > _UNREAD:
                        await client.connection.close(1008, "it does not read")
                        return
                if client.browser.trusted:
                    await self._send_images(client, now)
                client.news.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(client.news.wait(), max(due - time.monotonic(), 0.001))

    async def _send_images(self, client: _Client, now: float) -> None:
        for name, (number, data) in list(self._view.images.items()):
            sent, at = client.sent.get(name, (0, 0.0))
            if number > sent and (client.drawn >= sent or now - at > _DRAWN_S):
                client.sent[name] = number, now
                label = name.encode()
                await client.connection.send(number.to_bytes(6, "big") + len(label).to_bytes(2, "big") + label + data)

    def _status(self, client: _Client) -> dict[str, Any]:
        """Return what one browser is told; without the key, only that it may stop and hold."""
        now = time.monotonic_ns()
        _, proven = self.controls.held(now)
        age = (now - proven) * 1e-9 if proven else None
        out = {"kind": "status", "trusted": client.browser.trusted, "you": client.browser.number}
        if not client.browser.trusted:
            return {**out, "events": list(SAFER)}
        holder = self.controls.holder
        control = {"holder": holder, "yours": holder == client.browser.number, "age_s": age, "stale": age is None or age > self._stale_s}
        return {**out, "events": list(EVENTS), "browsers": len(self._clients), "control": control, "about": self._robot, **self._view.status()}


class _Client:
    """One connection and what is on its way to it."""

    def __init__(self, connection: Any, browser: Browser) -> None:
        self.connection, self.browser, self.news = connection, browser, asyncio.Event()
        self.sent: dict[str, tuple[int, float]] = {}
        self.drawn = 0
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def unread(self) -> int:
        """Bytes that wait for the browser to read."""
        return self.connection.transport.get_write_buffer_size()

    def send(self, message: dict[str, Any]) -> None:
        """Send soon, unless the browser has not read so much already that it would only pile up."""
        if len(self._sending) < 32:
            task = asyncio.ensure_future(self._send(json.dumps(message)))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, text: str) -> None:
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed):
            await self.connection.send(text)
