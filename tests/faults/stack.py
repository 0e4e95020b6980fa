"""The whole stack in processes of its own: policy server, runtime, drive, twin of the arm, and beside them recorder and page.

``with Stack(folder) as stack`` has them all running and the arm moving. What a test then does to a process, it does from
outside; what it asserts, it asserts of the twin's log, which holds every message that reached the robot.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import zmq

from real.wire import Limits, Message, decode, encode
from tests.faults.arrivals import Arrivals, RobotLog
from tests.faults.policies import PolicyControl
from tests.faults.processes import PATIENCE_S, Process, wait_until

HERE = Path(__file__).resolve().parent
TASK = "arm/tour"


class Stack:
    """One run of everything.

    Args:
        folder: For sockets, logs and state; its path must be short enough for a socket's (108 bytes).
        run, drive, server: Further words of ``robopolicy run`` and ``robopolicy drive`` (key=value) and of the policy server.
        policy_address, robot_address: What the runtime and the drive connect to, given that of the server and of the twin.
        environments: Of a process, by its name.
        tcp: Whether the policy server is reached over TCP, not over a file's socket.
        runtime: Whether there is one; without it the drive is served and nobody commands.
        moving: Whether to wait until it moves the arm.
    """

    def __init__(
        self, folder: Path, *, run: Sequence[str] = (), drive: Sequence[str] = (), server: Sequence[str] = (),
        policy_address: Callable[[str], str] = lambda address: address, robot_address: Callable[[str], str] = lambda address: address,
        environments: Mapping[str, Mapping[str, str]] | None = None, tcp: bool = False, runtime: bool = True, moving: bool = True,
    ) -> None:  # fmt: skip
        self.folder, self.log = folder, folder / "robot.log"
        self.summary, self._robot_log = folder / "summary.json", RobotLog(self.log)
        self.state = folder / "state"
        self._run, self._drive, self._server = tuple(run), tuple(drive), tuple(server)
        self._policy_address, self._robot_address = policy_address, robot_address
        self._environments, self._with_runtime, self._moving = dict(environments or {}), runtime, moving
        self._server_bind = "tcp://127.0.0.1:0" if tcp else f"ipc://{folder}/server"
        self._ended = ExitStack()
        self._processes: list[Process] = []
        self.frozen_ns: list[int] = []  # when a test stopped the robot itself

    def __enter__(self) -> Stack:
        with ExitStack() as stack:
            self._ended = stack
            at = {name: f"ipc://{self.folder}/{name}" for name in ("control", "drive")}
            world = ["-m", "robopolicy", "twin", TASK, "--log", self.log, "--max-steps", 10**6]
            self.twin = self.start("twin", [*world, *self.twin_words()], announces=True)
            serve = [HERE / "policies.py", TASK, "--bind", self._server_bind, "--control", at["control"], *self._server]
            self.server = self.start("server", serve, announces=True)
            self.drive = self.start("drive", ["-m", "robopolicy", "drive", *self.robot_words(), *self._drive, "--bind", at["drive"]], announces=True)
            self.policy = PolicyControl(at["control"])
            stack.callback(self.policy.close)
            self._served = self._policy_address(self.server.ready())
            self.drive.ready()
            if self._with_runtime:
                self.start_runtime()
                self.until_moving() if self._moving else None
            self._ended = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.close()

    def twin_words(self) -> list[object]:
        """How the twin is reached, as words of its command line."""
        return ["--bind", f"ipc://{self.folder}/twin"]

    def robot_words(self) -> list[str]:
        """The robot of the drive, once the twin is there."""
        return ["robot=twin", f"robot.address={self._robot_address(self.twin.ready())}"]

    def start(self, name: str, command: Sequence[object], announces: bool = False) -> Process:
        """Start a process that ends with the stack."""
        file = self.folder / f"{name}.address"
        words = [*command, *(["--announce", file] if announces else [])]
        environment = {"ROBOPOLICY_STATE": str(self.state), **self._environments.get(name, {})}
        made = Process(name, words, self.folder, file if announces else None, environment)
        self._processes.append(made)
        return self._ended.enter_context(made)

    def healthy(self) -> bool:
        """Whether every process runs that the test has not killed."""
        return all(process.alive or process.killed for process in self._processes)

    def start_runtime(self) -> None:
        """Start the runtime (again)."""
        keys = [f"drive=ipc://{self.folder}/drive", f"policy={self._served}", f"json={self.summary}"]
        keys += [f"telemetry=ipc://{self.folder}/telemetry", "preflight=false"]  # it measures the rate, which a busy machine does not keep
        if (before := getattr(self, "runtime", None)) is not None:
            self._processes.remove(before)
        self.runtime = self.start("runtime", ["-m", "robopolicy", "run", *keys, *self._run])

    def start_source(self, *words: str) -> Process:
        """Start a source of commands that is not the runtime."""
        return self.start("source", [HERE / "source.py", f"ipc://{self.folder}/drive", *words])

    def start_recorder(self, ring: Path) -> Process:
        """Start the black box's recorder."""
        words = ["--address", f"ipc://{self.folder}/telemetry", "--folder", ring, "--flush-seconds", 0.2]
        return self.start("recorder", ["-m", "real.blackbox", *words])

    def start_page(self) -> Process:
        """Start the operator's page and wait until it is served."""
        page = self.start("page", ["-m", "robopolicy", "page", "--file", self.state / "operator.json", "--port", 0], announces=True)
        page.ready()
        return page

    def start_deadman(self) -> Process:
        """Start somebody who holds the deadman."""
        return self.start("deadman", [HERE / "deadman.py", self.state / "operator.json"])

    # What reached the robot -----------------------------------------------------------------------------------------

    def arrived(self) -> Arrivals:
        """Return what has reached the robot so far."""
        return self._robot_log.arrivals()

    def ticks(self) -> int:
        """Return how many messages of the drive have reached the robot."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def pass_ticks(self, number: int) -> None:
        """Let ``number`` more messages reach the robot."""
        goal = self.ticks() + number
        wait_until(lambda: self.ticks() >= goal, lambda: f"the drive has stopped ticking\n{self.said()}", self.healthy, PATIENCE_S + 0.05 * number)

    def until_moving(self) -> None:
        """Wait until the robot is told to move."""
        begun = time.monotonic_ns()

        def moving() -> bool:
            found = self.arrived() if self.log.exists() else None
            return found is not None and len(found) > 20 and bool((found.position[-1] != found.position[-2]).any()) and found.arrived_ns[-1] > begun

        wait_until(moving, lambda: f"the robot does not move\n{self.said()}", self.healthy)

    def share_moving(self, ticks: int) -> float:
        """Let ``ticks`` messages reach the robot; returns the part of them that moved it."""
        row = len(self.arrived())
        self.pass_ticks(ticks)
        position = self.arrived().position[row - 1 :]
        return float((np.diff(position, axis=0) != 0).any(axis=1).mean())

    def until_still(self) -> int:
        """Wait until the robot is told to stand, or is told nothing for half a second; return the first row that arrived since now."""
        row = self.arrived().row(time.monotonic_ns())

        def still() -> bool:
            found = self.arrived()
            return found.still_from(row) is not None or time.monotonic_ns() - int(found.arrived_ns[-1]) > 500_000_000

        wait_until(still, lambda: f"the robot does not stand still\n{self.said()}", self.healthy)
        return row

    def judge(self) -> Arrivals:
        """Fail unless everything that has reached the robot was safe, see :meth:`Arrivals.require_safe`, and return it."""
        found = self.arrived()
        for frozen_ns in self.frozen_ns:
            found = found.without_freeze(frozen_ns)
        found.require_safe()
        assert found.most_in(20) <= 20 + 5, "commands were caught up in a burst"
        return found

    def drive_status(self) -> dict:
        """Ask the drive, as anybody may, and return its status; ``counts`` is what it has counted."""
        link = zmq.Context.instance().socket(zmq.DEALER)
        link.connect(self.drive.ready())
        try:
            link.send_multipart([bytes(f) for f in encode(Message("status", sequence=1))])
            assert link.poll(10_000), f"the drive does not answer\n{self.said()}"
            found = decode(link.recv_multipart(), Limits()).meta
        finally:
            link.close(linger=0)
        return {**found, "counts": json.loads(found["counts"])}

    def end(self) -> dict:
        """End the runtime as an operator does, and return its summary."""
        assert self.runtime.end() in (0, 1), self.said()
        return json.loads(self.summary.read_text())

    def said(self) -> str:
        """Return the last that every process has said, and how those ended that have."""
        return "\n".join(f"-- {process.name}, {process.process.poll()}\n{process.said[-1500:]}" for process in self._processes)
