"""What a policy server counts, and how it is read from outside: text in the Prometheus format, and whether it is ready.

The endpoint answers on loopback from a thread of its own, one request at a time, from copies of the numbers: nobody who
asks can hold up the policy. The text format is a dozen lines, so the client library of Prometheus is not needed here (the
tests read the text with its parser).
"""

from __future__ import annotations

import socketserver
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from policies.spec import InputError
from real.latency import Latency

_SIZES = 10  # bins of batch sizes: 1, 2, 3-4, 5-8, ... 257-512
_FRESH_S = 0.1  # for as long the same text is given: who asks all the time costs no more


class Sizes:
    """How often which size occurred, in powers of two; constant memory."""

    def __init__(self) -> None:
        self.count = self.total = 0
        self._bins = [0] * _SIZES

    def add(self, size: int) -> None:
        """Count one size, 1 or more."""
        self.count += 1
        self.total += size
        self._bins[min((size - 1).bit_length(), _SIZES - 1)] += 1

    def buckets(self) -> list[tuple[float, int]]:
        """Return (size, how many were at most that)."""
        bins = list(self._bins)
        return [(float(1 << i), sum(bins[: i + 1])) for i in range(_SIZES - 1)]


@dataclass
class ServerStats:
    """What a server has counted since its start.

    Attributes:
        ready: Whether it has warmed up.
        sessions_open: Sessions at present.
        sessions_opened, sessions_closed_idle: Opened in all; closed as they were silent.
        plans: Plans made.
        batches: Policy calls that succeeded.
        batches_split: Calls that failed with more than one request, which were then computed one by one.
        forgotten: Streams begun anew because the plan they go on from is not kept, e.g. after this server's restart.
        dropped_late: Requests past their budget when their turn came.
        dropped_surplus: Requests that a newer one of the same session replaced.
        refused, malformed, policy_errors: Requests answered with an error: understood, not understood, failed.
        replies_unsent: Answers whose client had gone or did not read.
        shared_arrays: Arrays read from shared memory.
        shared_refused: Shared memories, or places in them, that were not taken.
        unknown_keys: Connections refused as their key is not authorised.
        inference: Duration of policy calls.
        answered: From a request's arrival, at the earliest, to its plan on the way.
        batch_streams: Rows of each call.
    """

    ready: bool = False
    sessions_open: int = 0
    sessions_opened: int = 0
    sessions_closed_idle: int = 0
    plans: int = 0
    batches: int = 0
    batches_split: int = 0
    forgotten: int = 0
    dropped_late: int = 0
    dropped_surplus: int = 0
    refused: int = 0
    malformed: int = 0
    policy_errors: int = 0
    replies_unsent: int = 0
    shared_arrays: int = 0
    shared_refused: int = 0
    unknown_keys: int = 0
    inference: Latency = field(default_factory=Latency)
    answered: Latency = field(default_factory=Latency)
    batch_streams: Sizes = field(default_factory=Sizes)

    def called(self, seconds: float, rows: int, succeeded: bool) -> None:
        """Count a policy call."""
        self.inference.add(seconds)
        self.batch_streams.add(rows)
        self.batches += succeeded

    def line(self) -> str:
        """Return the counts as one line."""
        ms = self.inference
        return (
            f"sessions {self.sessions_open} open, {self.sessions_opened} in all; plans {self.plans} in {self.batches} calls, "
            f"{1e3 * ms.quantile(0.5):.1f} ms p50, {1e3 * ms.quantile(0.99):.1f} ms p99; dropped {self.dropped_late + self.dropped_surplus}, "
            f"refused {self.refused}, malformed {self.malformed}, policy errors {self.policy_errors}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, the latency as ``Latency.to_dict``."""
        counts = {key: value for key, value in vars(self).items() if type(value) is int}
        return {**counts, "inference_ms": self.inference.to_dict()}

    def prometheus(self) -> str:
        """Return everything in the text format of Prometheus (version 0.0.4)."""
        lines = _family("ready", "gauge", "Whether the server has warmed up", int(self.ready))
        lines += _family("sessions_open", "gauge", "Sessions open at present", self.sessions_open)
        for name, help_text in _COUNTERS.items():
            lines += _family(f"{name}_total", "counter", help_text, getattr(self, name))
        for name, help_text, latency in (
            ("inference_seconds", "Duration of policy calls", self.inference),
            ("answer_seconds", "From arrival of a request to its plan on the way", self.answered),
        ):
            lines += _histogram(name, help_text, latency.buckets(), latency.total_s, latency.count)
        lines += _histogram("batch_streams", "Rows of a policy call", self.batch_streams.buckets(), self.batch_streams.total, self.batch_streams.count)
        return "\n".join(lines) + "\n"


_COUNTERS = {
    "sessions_opened": "Sessions opened",
    "sessions_closed_idle": "Sessions closed as they were silent",
    "plans": "Plans made",
    "batches": "Policy calls that succeeded",
    "batches_split": "Failed policy calls that were repeated one request at a time",
    "forgotten": "Streams begun anew as the plan they go on from is not kept",
    "dropped_late": "Requests dropped past their budget",
    "dropped_surplus": "Requests that a newer one of the same session replaced",
    "refused": "Requests understood and not granted",
    "malformed": "Messages that could not be read",
    "policy_errors": "Requests at which the policy failed",
    "replies_unsent": "Answers that could not be sent",
    "shared_arrays": "Arrays read from shared memory",
    "shared_refused": "Shared memories, or places in them, not taken",
    "unknown_keys": "Connections whose key is not authorised",
}


def _family(name: str, kind: str, help_text: str, value: float) -> list[str]:
    return [f"# HELP robopolicy_{name} {help_text}.", f"# TYPE robopolicy_{name} {kind}", f"robopolicy_{name} {value}"]


def _histogram(name: str, help_text: str, buckets: list[tuple[float, int]], total: float, count: int) -> list[str]:
    """Return the lines of a histogram; ``count`` is at least the last bucket's, whatever was added while it was read."""
    count = max(buckets[-1][1], count)
    lines = [f"# HELP robopolicy_{name} {help_text}.", f"# TYPE robopolicy_{name} histogram"]
    lines += [f'robopolicy_{name}_bucket{{le="{edge:.6g}"}} {below}' for edge, below in buckets]
    return [*lines, f'robopolicy_{name}_bucket{{le="+Inf"}} {count}', f"robopolicy_{name}_sum {float(total)}", f"robopolicy_{name}_count {count}"]


class MetricsServer:
    """``/metrics`` and ``/healthz`` (200 once ready, 503 before) on 127.0.0.1.

    Args:
        stats: What is told.
        port: 0 takes any free one; see :attr:`address`.

    Raises:
        InputError: if the port cannot be bound.
    """

    def __init__(self, stats: ServerStats, port: int = 0) -> None:
        told = _Told(stats)

        class Handler(BaseHTTPRequestHandler):
            timeout = 1.0  # s, for a client that sends nothing

            def do_GET(self) -> None:
                status, text = told.answer(self.path)
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        try:
            self._server = _Server(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"metrics port {port} cannot be bound on 127.0.0.1: {getattr(error, 'strerror', None) or error}") from error
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; may be called twice."""
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.TCPServer):
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away in the middle."""


class _Told:
    """The text, made anew at most ten times a second."""

    def __init__(self, stats: ServerStats) -> None:
        self._stats, self._text, self._at = stats, "", -_FRESH_S

    def answer(self, path: str) -> tuple[int, str]:
        path = path.partition("?")[0]
        if path == "/healthz":
            return (200, "ready\n") if self._stats.ready else (503, "warming up\n")
        if path != "/metrics":
            return 404, "there are /metrics and /healthz\n"
        now = time.monotonic()
        if now - self._at >= _FRESH_S:
            self._text, self._at = self._stats.prometheus(), now
        return 200, self._text
