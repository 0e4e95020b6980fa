"""The process of the teleoperation page: browsers on one side, the run on the other.

It is told what to do on its standard input, and ends with it. A stop or a hold goes to the run's operator channel from here, and if
the run does not answer, to the latch that the drive itself looks at: it needs nothing of the process that teleoperates.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zmq

from policies.spec import InputError
from real.addresses import is_loopback
from real.context import LinkContext
from real.page_operator import Requests
from real.teleop.page_http import Gate
from real.teleop.page_input import Controls
from real.teleop.page_server import PageServer
from real.teleop.page_view import View

_LINK_S = 0.005  # between two looks at the run
_BEAT_S = 0.02  # between two messages to it


class Page:
    """Joins server, view and run.

    Args:
        asked: ``config`` (``real.teleop.page.PageConfig``), ``key``, ``link`` (the run's socket) and ``announce`` (file).
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked, self._config = asked, asked["config"]
        self._secure = _certificate(self._config["certificate"], self._config["certificate_key"])
        self._requests: Requests | None = None
        self._latch = ""
        self._asking: dict[str, asyncio.Future[str]] = {}
        self._workers = ThreadPoolExecutor(4, "page request")  # a stop waits for no hold
        self._context = LinkContext()
        self._link = self._context.socket(zmq.PAIR)
        for option, value in ((zmq.SNDHWM, 64), (zmq.RCVHWM, 256), (zmq.LINGER, 0), (zmq.MAXMSGSIZE, 1 << 20)):
            self._link.setsockopt(option, value)
        self._link.connect(asked["link"])

    async def run(self) -> None:
        """Serve until told to end."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        threading.Thread(target=_await_parent, args=(loop, ended), daemon=True).start()
        gate = Gate(self._asked["key"], self._secure is not None)
        self._view = View(self._config["image_rate_hz"], self._config["quality"], lambda: _soon(loop, self._server.wake))
        self._controls = Controls()
        self._server = PageServer(gate, self._controls, self._view, self._pressed, self._config["stale_s"])
        server = await self._server.serve(self._config["bind"], self._config["port"], self._secure)
        _write(Path(self._asked["announce"]), json.dumps(self._announcement(server)))
        joined = asyncio.create_task(self._join())
        try:
            done = asyncio.create_task(ended.wait())
            await asyncio.wait([done, joined], return_when=asyncio.FIRST_COMPLETED)
            if joined.done():
                joined.result()
        finally:
            joined.cancel()
            server.close()
            await server.wait_closed()
            self._view.close()
            self._workers.shutdown(wait=False)
            self._context.destroy(linger=0)

    def _announcement(self, server: Any) -> dict[str, Any]:
        bind, port = self._config["bind"], next(iter(server.sockets)).getsockname()[1]
        local, scheme = _local(bind), "https" if self._secure else "http"
        host = "127.0.0.1" if local and bind == "localhost" else _outward() if bind in ("0.0.0.0", "::") else bind
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/?key={self._asked['key']}"
        notes = [f"teleoperation page: {url}"]
        if not local and not self._secure:
            lacking = "it is readable on the network, and browsers give gamepads, phone motion and AR to HTTPS pages alone"
            notes.append(f"the page is served over plain HTTP beyond this machine: {lacking}; give certificate= and certificate_key=")
        if self._config["announce"]:
            _write(Path(self._config["announce"]), url)
        return {"url": url, "notes": notes}

    async def _join(self) -> None:
        """Bring what the run says to browsers, and what browsers do to the run."""
        said_at, told = 0.0, -1
        while True:
            self._hear()
            now, events = time.monotonic(), len(self._controls.events) and self._controls.events[-1][0]
            if now - said_at >= _BEAT_S or events != told:
                said_at, told = now, events
                self._say()
            await asyncio.sleep(_LINK_S)

    def _say(self) -> None:
        beat, proven_ns = self._controls.held(time.monotonic_ns())
        message = {"beat": asdict(beat), "proven_ns": proven_ns, "events": self._controls.events, "browsers": len(self._controls.browsers)}
        try:
            self._link.send(json.dumps(message).encode(), zmq.NOBLOCK)
        except zmq.Again:  # the run does not listen now; what is held is said again, and events are told until others follow
            return

    def _hear(self) -> None:
        while True:
            try:
                message = json.loads(self._link.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            if "status" in message:
                self._view.tell(message["status"])
            elif "robot" in message:
                self._server.introduce(message["robot"])
            elif "cue" in message:
                self._server.cue(str(message["cue"]))
            elif "run" in message:
                self._turn_to(message["run"])

    def _turn_to(self, run: dict[str, str]) -> None:
        before, self._requests, self._latch = self._requests, None, run["latch"]
        if before is not None:
            self._workers.submit(before.close)
        self._view.follow(run["telemetry"])
        if run["operator"]:
            self._requests = Requests(run["operator"], run["token"])
            self._requests.latch = run["latch"]

    def _pressed(self, name: str) -> asyncio.Future[str]:
        """Ask the run's operator channel for what concerns it, beside telling the process that teleoperates; the same once at a time."""
        loop, requests, asking = asyncio.get_running_loop(), self._requests, self._asking.get(name)
        if asking is not None and not asking.done():
            return asking
        if name not in ("stop", "hold", "resume") or requests is None:
            nothing: asyncio.Future[str] = loop.create_future()
            nothing.set_result("")
            return nothing
        requests.latch = self._latch or self._view.latch
        self._asking[name] = loop.run_in_executor(self._workers, requests.stop if name == "stop" else lambda: requests.ask(name))
        return self._asking[name]


def _certificate(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """Return what serves HTTPS, None for HTTP. Raises InputError."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise InputError("HTTPS needs both certificate= and certificate_key=")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise InputError(f"certificate {certificate} with key {key} cannot be used: {getattr(error, 'strerror', None) or error}") from error
    return context


def _local(bind: str) -> bool:
    return is_loopback(f"tcp://[{bind}]:1" if ":" in bind else f"tcp://{bind}:1")


def _outward() -> str:
    """Return this machine's address on the network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _write(file: Path, text: str) -> None:
    """Write a file that only this user reads, whole or not at all. Raises InputError."""
    part = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from error


def _await_parent(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """End the page when the process that started it closes its end of the pipe, or is no more."""
    while sys.stdin.readline():
        continue
    _soon(loop, ended.set)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call in the thread of ``loop``, unless that has ended."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return


def main() -> int:
    """Serve the page that standard input asks for."""
    try:
        import PIL  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        print(f"error: the teleoperation page needs {error.name}: pip install 'robopolicy[teleop]'")
        return 2
    try:
        asyncio.run(Page(json.loads(sys.stdin.readline())).run())
    except InputError as error:
        print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
