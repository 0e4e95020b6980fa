"""What the operator's page asks of the runtime: requests, a stop that has a second way, and the deadman's heartbeat."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from policies.spec import InputError
from real.latch import Latch
from real.operator import OperatorClient, OperatorRefused

_BEAT_S = 0.05  # between two heartbeats; each one waits for the browser besides
_ANSWER_S = 0.3  # a browser that does not answer within that is not there


class Requests:
    """Requests from the page's callbacks, which come from many threads.

    Args:
        address: Of the operator channel.
        token: Of the run; empty: only hold, stop and a lower speed are possible.
        latch: File of the drive's latched stop, as the run says; empty: it has not said.
    """

    def __init__(self, address: str, token: str, latch: str = "") -> None:
        self._client, self._lock = OperatorClient(address, token), threading.Lock()
        self._stopper, self._stop_lock = OperatorClient(address, token, timeout_s=1.0), threading.Lock()  # never waits for another request
        self.latch = latch
        self._closed = False

    def ask(self, kind: str, value: float | None = None) -> str:
        """Ask and return what became of it: empty, or one line that says why not."""
        with self._lock:
            if self._closed:
                return f"{kind}: this run has ended"
            try:
                self._client.request(kind, value)
            except OperatorRefused as error:
                return str(error)
        return ""

    def stop(self) -> str:
        """Stop the robot: through the runtime, and if that does not answer by the latch that the drive itself looks at."""
        with self._stop_lock:
            if self._closed:
                return f"stop: this run has ended; {self._latch()}"
            try:
                self._stopper.request("stop")
                return ""
            except OperatorRefused as error:
                return f"{error}; {self._latch()}"

    def _latch(self) -> str:
        if not self.latch:
            return "USE THE ROBOT'S OWN STOP"
        try:
            Latch(Path(self.latch).parent).set("operator's page", "operator's page")
        except (OSError, InputError) as error:
            return f"the latch cannot be written ({error}): USE THE ROBOT'S OWN STOP"
        return "stopped by the drive's latch instead"

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock, self._stop_lock:
            self._closed = True
            self._client.close()
            self._stopper.close()


class Deadman:
    """Sends the heartbeat while the browser that holds the deadman answers.

    Every beat is a round trip to the page in that very browser: one that is closed, hangs, or has lost its network ends
    the heartbeat within a third of a second, and the drive brakes. Another browser that only looks on does not renew it.

    Args:
        address: Of the operator channel.
        token: Of the run.
        answers: Whether the browser of that number answers within some seconds.
        ended: Called with the cause when the heartbeat ends on its own.
    """

    def __init__(self, address: str, token: str, answers: Callable[[int, float], bool], ended: Callable[[str], Any]) -> None:
        self._client = OperatorClient(address, token)
        self._answers, self._ended = answers, ended
        self._holder: int | None = None
        self._changed, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._beat, name="deadman", daemon=True)
        self._thread.start()

    @property
    def holder(self) -> int | None:
        """The browser that holds it."""
        return self._holder

    def hold(self, browser: int | None) -> None:
        """Let ``browser`` hold it from now on; None: nobody does."""
        self._holder = browser
        self._changed.set()

    def close(self) -> None:
        """Let go and end."""
        self._closing = True
        self.hold(None)
        self._thread.join(5)
        self._client.close()

    def _beat(self) -> None:
        while not self._closing:
            browser = self._holder
            if browser is None:
                self._client.heartbeat(held=False)
                self._changed.wait()
            elif self._answers(browser, _ANSWER_S):
                if self._holder == browser:  # it may have let go while it was asked
                    self._client.heartbeat()
            elif self._holder == browser:
                self._holder = None
                self._ended("the browser that held it no longer answers")
            self._changed.wait(_BEAT_S)
            self._changed.clear()
