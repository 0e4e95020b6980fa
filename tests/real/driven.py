"""A twin of three joints, its drive in a process of its own, an outsider who may ask it, and a judge of what arrived."""

import json
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq

from real.drive import DriveOptions
from real.drive_process import DriveProcess
from real.wire import Limits, Message, configure, decode, receive, send
from robopolicy.twin.log import read_log
from tests.real.jointed import Running, limits, worst


class Outsider:
    """Somebody without a lease, who may know the address."""

    def __init__(self, address: str) -> None:
        self.context, self.sequence = zmq.Context(), 0
        self.socket = self.context.socket(zmq.DEALER)
        configure(self.socket, Limits(frame_bytes=1 << 22))
        self.socket.connect(address)
        assert self.socket.poll(5000, zmq.POLLOUT)

    def ask(self, kind: str, meta=None, session: int = 0, arrays=None, wait_s: float = 10.0) -> Message:
        self.sequence += 1
        assert send(self.socket, Message(kind, session, self.sequence, meta=meta or {}, arrays=arrays or {}))
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            self.socket.poll(100)
            frames = receive(self.socket, Limits(frame_bytes=1 << 22))
            if frames is not None and (reply := decode(frames, Limits())).sequence == self.sequence:
                return reply
        raise AssertionError(f"no answer to {kind}")

    def status(self) -> dict:
        found = self.ask("status").meta
        return {**found, "counts": json.loads(found["counts"])}

    def wait(self, condition, what: str, wait_s: float = 30.0) -> dict:
        until = time.monotonic() + wait_s
        while not condition(status := self.status()):
            assert time.monotonic() < until, f"never {what}: {status}"
            time.sleep(0.01)
        return status

    def close(self) -> None:
        self.context.destroy(linger=0)


class Place:
    """A twin of three joints, its drive and an outsider."""

    def __init__(self, folder: Path, stack: ExitStack, max_steps: int = 10**6, **options) -> None:
        self.folder, self.options, self._stack, self._started = folder, DriveOptions(**options), stack, 0
        self.log = folder / "twin.jsonl"
        self.twin = stack.enter_context(Running(folder, "twin", "twin", "--log", self.log, "--max-steps", max_steps))
        self.start()

    def start(self, **options) -> None:
        self.drive = DriveProcess({"type": "twin", "address": self.twin.ready(), "timeout_s": 1.0}, self.folder, self.options, **options)
        self._stack.callback(self.kill)
        self.address = self.drive.address()
        self.outsider = Outsider(self.address)
        self._stack.callback(self.outsider.close)

    def kill(self) -> None:
        if self.drive.process.poll() is None:
            self.drive.process.kill()
        self.drive.process.wait()

    def source(self, *arguments: str) -> Running:
        self._started += 1
        return self._stack.enter_context(Running(self.folder, f"source{self._started}", "source", "--address", self.address, *arguments))

    def events(self):
        return read_log(self.log)

    def check_log(self) -> np.ndarray:
        """Return every command that reached the robot, which took them all and of which none was beyond any limit."""
        events = self.events()
        commands = events.command[events.kind == "write"]
        assert np.isfinite(commands).all() and not set(events.refused) - {""}, set(events.refused)
        arrived = {tuple(c): t for c, t in zip(commands.tolist(), events.arrived_ns[events.kind == "write"].tolist(), strict=True)}
        for start, motion in events.motions():
            motion = np.concatenate([start[None], motion]) if len(motion) and np.abs(motion[0] - start).max() < 1e-6 else motion
            times = np.array([arrived.get(tuple(c), 0) for c in motion.tolist()])
            stood = np.flatnonzero(np.diff(times) > 0.5e9 * SILENCE_S) + 1  # without commands the robot came to rest at the last one
            for piece in np.split(motion, stood):
                excess = worst(piece, limits()) if len(piece) else {}
                assert np.abs(piece).max(initial=0) <= 2.0 + 1e-6 and max(excess.values(), default=0) <= 1 + 1e-6, excess
        return commands


#: Of the twin: a robot that holds in silence stands at its last command from its first tick without another one.
SILENCE_S = 0.25


@contextmanager
def placed(folder: Path, **options):
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("ROBOPOLICY_STATE", str(folder / "state"))
        yield Place(folder, stack, **options)
