"""A run of the control runtime as seen from beside it: what it says of itself, and hold, stop and resume.

The run is another process of this machine, found by the ``operator.json`` that it leaves; whoever asks for a stop gets one even
if that process no longer answers, by the latch that the drive itself looks at.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.spec import InputError
from real.latch import Latch, state_folder, stop_all
from real.operator import FILE_NAME, OperatorClient, OperatorRefused, read_file
from real.telemetry import Subscription

_MOST_AT_ONCE = 200  # messages taken in one look
_LOOK_S = 0.5  # between two looks for a run
ANSWER_S = 1.0  # for the run to answer; a stop goes to the latch then


@dataclass
class RunView:
    """What is known of the run.

    Attributes:
        robot: Its name; empty: no run is known.
        policy: As the run says.
        rate_hz: Rate of its commands, as declared.
        tick: Values of the newest tick (``real.telemetry``).
        heard_ns: When that was, monotonic; 0: never.
        stamps: Of the ticks of the last seconds, ns.
        event: The newest change of state or intervention.
        latched: Why the robot is stopped until it is cleared, as the drive's latch says; empty: it is not.
    """

    robot: str = ""
    policy: str = ""
    rate_hz: float = 0.0
    tick: dict[str, Any] = field(default_factory=dict)
    heard_ns: int = 0
    stamps: deque[int] = field(default_factory=lambda: deque(maxlen=400))
    event: str = ""
    latched: str = ""

    def age_s(self) -> float:
        """Return how long ago the run last said something, s; infinite: never."""
        return 1e-9 * (time.monotonic_ns() - self.heard_ns) if self.heard_ns else float("inf")

    def ticks_per_second(self) -> float:
        """Return the rate of the ticks heard, 1/s; 0 while there are less than two."""
        if len(self.stamps) < 2 or self.stamps[-1] <= self.stamps[0]:
            return 0.0
        return 1e9 * (len(self.stamps) - 1) / (self.stamps[-1] - self.stamps[0])


class RunLink:
    """The way to the run of this user that runs on this machine, now or later.

    Args:
        state_dir: State folder of the runs; None: the user's own.
        who: Kept with a latched stop.

    Attributes:
        view: What is known of the run.
    """

    def __init__(self, state_dir: str | None = None, who: str = "a ROS topic") -> None:
        self.view, self._who = RunView(), who
        self._file = state_folder(state_dir or None) / FILE_NAME
        self._found: dict[str, Any] = {}
        self._client: OperatorClient | None = None
        self._telemetry: Subscription | None = None
        self._latch: Latch | None = None
        self._looked = 0.0

    @property
    def connected(self) -> bool:
        """Whether a run has left its address."""
        return self._client is not None

    @property
    def pid(self) -> int:
        """Process id of the run; 0: there is none."""
        return int(self._found.get("pid", 0))

    def look(self) -> None:
        """Find the run, if it is new, and take in what it has said since; never waits."""
        now = time.monotonic()
        if now - self._looked > _LOOK_S:
            self._looked = now
            self._find()
            self.view.latched = self._latched()
        if self._telemetry is None:
            return
        for _ in range(_MOST_AT_ONCE):
            record = self._telemetry.poll(0.0)
            if record is None:
                return
            self.view.heard_ns = record.stamp_ns
            if record.kind == "info":
                self._describe(record.values)
            elif record.kind == "tick":
                self.view.tick = record.values
                self.view.stamps.append(record.stamp_ns)
            elif record.kind == "event":
                self.view.event = f"{record.values.get('event', '')}: {record.values.get('cause', '')}"

    def ask(self, kind: str) -> str:
        """Ask the run to ``hold`` or ``resume``; returns an empty text, or why it did not."""
        self._find()
        if self._client is None:
            return f"{kind}: no run is there"
        try:
            self._client.request(kind)
        except OperatorRefused as error:
            return str(error)
        return ""

    def stop(self) -> str:
        """Stop the robot, latched, by the run or else by the latch; returns an empty text, or what did not work.

        Without a run that answers, and none whose robot is known, every robot that has been driven from here is stopped.
        """
        refused = self.ask("stop")
        if not refused:
            return ""
        known = self._found.get("latch")
        folders = [Path(known).parent] if known else [p for p in self._file.parent.glob("*") if p.is_dir()]
        _, failed = stop_all(folders, f"{self._who} (the run did not answer)", self._who)
        if failed:
            return f"{refused}; NOT stopped: {'; '.join(failed)}: USE THE ROBOT'S OWN STOP"
        return "" if folders else refused

    def close(self) -> None:
        """Let go of the connections; the way to the latch stays known."""
        if self._client is not None:
            self._client.close()
        if self._telemetry is not None:
            self._telemetry.close()
        self._client = self._telemetry = None

    def _find(self) -> None:
        """Connect to the run that has left its address last; forget one that has taken it away."""
        try:
            found = read_file(self._file)
        except InputError:
            self.close()
            return
        if self._client is not None and found["token"] == self._found.get("token"):
            return
        self.close()
        try:
            self._client = OperatorClient(found["address"], found["token"], timeout_s=ANSWER_S)
            self._telemetry = Subscription(found["telemetry"], image_rate_hz=0)
        except InputError:
            self.close()
            return
        self._found, self._latch, self.view = found, None, RunView()

    def _latched(self) -> str:
        """Return the line of the latch of the robot that ran last; empty: there is none."""
        try:
            if self._latch is None and self._found.get("latch"):
                self._latch = Latch(Path(self._found["latch"]).parent)
            record = None if self._latch is None else self._latch.read()
        except (OSError, InputError) as error:
            return f"its latch cannot be read: {error}"
        return "" if record is None else record.line()

    def _describe(self, values: dict[str, Any]) -> None:
        rate = values.get("rate_hz", 0.0)
        self.view.robot, self.view.policy = str(values.get("robot", "")), str(values.get("policy", ""))
        self.view.rate_hz = float(rate) if isinstance(rate, (int, float)) else 0.0
