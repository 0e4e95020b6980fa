"""Serving: round trips of small and camera observations beside a raw ZeroMQ echo, and many robots on one server.

The policy of the round trips answers a constant chunk of 8 actions at once, so that what is measured is the way there
and back: stacking is not included, checking, encoding, decoding and the policy call are. The peer sends and echoes the
same bytes as raw multipart frames between two processes, in turns with ours. Camera images cross in shared memory, as
they do by default on one host; the same in messages, and behind keys (CURVE, the peer in the clear), are rows without a
target. Many robots ask a denoiser of ten network calls as fast as they are answered, with their requests computed
together and each by itself. Servers run in processes of their own, over TCP on loopback.
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from policies.base import Execution, Plan
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from robopolicy.bench.harness import Result, Row, measured
from robopolicy.data.atomic import write_bytes

RATE_HZ, CHUNK, ACTION = 20.0, 8, 7
CALLS, WIDTH = 10, 512  # of the denoiser
SMALL, IMAGE = "100-byte observation", "640x480x3 observation"


class ConstantPolicy:
    """Plans zeros, whatever it sees.

    Args:
        image: Whether it sees a 640x480 camera, else 25 numbers (100 bytes).
    """

    n_obs_steps, horizon, n_action_steps = 1, 16, CHUNK

    def __init__(self, image: bool) -> None:
        seen = Field((480, 640, 3), "uint8", "px", kind="image") if image else Field((25,))
        name = "observation.images.top" if image else "observation.state"
        action = Field((ACTION,), unit="rad", kind="position", low=(-3,) * ACTION, high=(3,) * ACTION)
        self.spec = Spec(ObservationSpec({name: seen}, RATE_HZ), ActionSpec({"action": action}, RATE_HZ))

    def initial_state(self, batch: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def reset(self, state: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
        """Return ``state``: there is nothing to begin anew."""
        return state

    def act(self, obs: Mapping[str, np.ndarray], state: dict[str, Any], noise: Any, execution: Execution = Execution()) -> tuple[Plan, dict[str, Any]]:
        """Return zeros (B, Ta, Da)."""
        rows = len(next(iter(obs.values())))
        return Plan(np.zeros((rows, CHUNK, ACTION), np.float32), {"network_calls": np.zeros(rows)}), state


def denoiser() -> Any:
    """Return a policy that costs something: ten calls of a perceptron with random weights, from 25 numbers and noise to a chunk."""
    import torch

    constant = ConstantPolicy(False)

    class Denoiser(torch.nn.Module):
        n_obs_steps, horizon, n_action_steps = 1, 16, CHUNK

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            sizes = [25 + CHUNK * ACTION, WIDTH, WIDTH, WIDTH, CHUNK * ACTION]
            layers = [torch.nn.Sequential(torch.nn.Linear(m, n), torch.nn.SiLU()) for m, n in itertools.pairwise(sizes)]
            self.spec, self.network = constant.spec, torch.nn.Sequential(*layers)

        def initial_state(self, batch: int) -> dict[str, Any]:
            return {}

        def reset(self, state: dict[str, Any], mask: Any) -> dict[str, Any]:
            return state

        def act(self, obs: Mapping[str, Any], state: dict[str, Any], noise: Any, execution: Execution = Execution()) -> tuple[Plan, dict[str, Any]]:
            x, seen = noise.normal(CHUNK * ACTION), obs["observation.state"].flatten(1)
            for _ in range(CALLS):
                x = x - 0.1 * self.network(torch.cat([seen, x], 1))
            return Plan(x.reshape(-1, CHUNK, ACTION), {"network_calls": torch.full((len(x),), float(CALLS))}), state

    return Denoiser()


def serve_policy(file: str, policy: str, keys: str, max_batch: int) -> None:
    """Serve until killed; the address goes to ``file``. The body of a server process.

    Args:
        file: That gets the address.
        policy: ``small`` or ``image`` (constant plans), or ``denoiser``.
        keys: Folder of the server's keys; empty: none.
        max_batch: As ``real.server.PolicyServer``.
    """
    from real.server import PolicyServer

    if policy == "denoiser":
        import torch

        torch.set_num_threads(1)
    served = denoiser() if policy == "denoiser" else ConstantPolicy(policy == "image")
    server = PolicyServer(served, "tcp://127.0.0.1:0", stats_s=0, keys=keys or None, max_batch=max_batch)
    server.warm_up()
    gc.freeze()
    write_bytes(Path(file), server.address.encode())
    server.serve()


def serve_echo(file: str) -> None:
    """Answer every message with its first frame and a chunk of raw bytes until killed. The body of the peer's process."""
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.bind("tcp://127.0.0.1:*")
    write_bytes(Path(file), socket.getsockopt_string(zmq.LAST_ENDPOINT).encode())
    chunk = bytes(4 * CHUNK * ACTION)
    while True:
        identity, header, *_ = socket.recv_multipart(copy=False)
        socket.send_multipart([identity, header, chunk], copy=False)


@contextmanager
def process(body: Callable[..., None], *arguments: str | int | float) -> Iterator[str]:
    """Run ``body(file, *arguments)`` in a process of its own and yield its address."""
    with tempfile.TemporaryDirectory(prefix="robopolicy-bench-") as folder:
        file = Path(folder) / "address"
        root = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path.insert(0, {root!r}); from {body.__module__} import {body.__name__}; {body.__name__}(*{(str(file), *arguments)!r})"
        child = subprocess.Popen([sys.executable, "-c", code])
        try:
            until = time.monotonic() + 60
            while not file.exists():
                if child.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{body.__name__}: the process did not come up")
                time.sleep(0.01)
            yield file.read_text()
        finally:
            child.kill()
            child.wait()


def observation(image: bool) -> dict[str, np.ndarray]:
    """Return one observation (1, 1, *shape) of random numbers."""
    policy, generator = ConstantPolicy(image), np.random.default_rng(0)
    shapes = {name: (1, 1, *f.shape) for name, f in policy.spec.observation.fields.items()}
    return {n: generator.integers(0, 256, s, np.uint8) if image else generator.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def round_trips(image: bool, seconds: float, shared: bool = True, keys: tuple[str, str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return durations in seconds (N,) of served calls and (N,) of echoes, taken in turn so that both see the same machine.

    Args:
        image: Which observation.
        seconds: For how long.
        shared: Whether images cross in shared memory.
        keys: Folders of the server's and of the client's keys.
    """
    from real.client import PolicyClient

    obs, noise = observation(image), np.zeros(1, np.int64)
    frames = [bytes(200), np.ascontiguousarray(next(iter(obs.values()))).reshape(-1).view(np.uint8).data]
    served: list[float] = []
    echoed: list[float] = []
    with process(serve_policy, "image" if image else "small", keys[0] if keys else "", 64) as ours, process(serve_echo) as theirs:
        client = PolicyClient(ours, keys=keys[1] if keys else None, shared_memory=shared)
        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.connect(theirs)
        state = client.initial_state(1)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for _ in range(20):
                began = time.perf_counter()
                _, state = client.act(obs, state, noise)
                served.append(time.perf_counter() - began)
            for _ in range(20):
                began = time.perf_counter()
                socket.send_multipart(frames, copy=False)
                socket.recv_multipart(copy=False)
                echoed.append(time.perf_counter() - began)
        if image and shared != (client.shared > client.sent):
            raise RuntimeError(f"images crossed in shared memory {client.shared} times, in messages {client.sent} times")
        client.close()
        socket.close(linger=0)
    return np.array(served[40:]), np.array(echoed[40:])


def many_robots(robots: int, seconds: float, max_batches: Sequence[int] = (64, 1), rounds: int = 4) -> list[tuple[float, float]]:
    """Return plans a second and p99 in seconds of ``robots`` clients that ask as fast as they are answered, for each ``max_batch``.

    Args:
        robots: One thread each.
        seconds: For how long with each server.
        max_batches: Of servers of their own, which take turns so that all see the same machine.
        rounds: Turns of each.
    """
    from real.client import PolicyClient

    durations: list[list[float]] = [[] for _ in max_batches]
    elapsed = [0.0 for _ in max_batches]
    with ExitStack() as stack:
        addresses = [stack.enter_context(process(serve_policy, "denoiser", "", most)) for most in max_batches]
        fleets = [[PolicyClient(address, connect_s=30.0) for _ in range(robots)] for address in addresses]
        for client in (client for fleet in fleets for client in fleet):
            stack.callback(client.close)
        for _ in range(rounds):
            for number, fleet in enumerate(fleets):
                began = time.perf_counter()
                threads = [threading.Thread(target=_ask, args=(client, began + seconds / rounds, durations[number])) for client in fleet]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                elapsed[number] += time.perf_counter() - began
    return [(len(d) / e, float(np.quantile(d, 0.99))) for d, e in zip(durations, elapsed, strict=True)]


def _ask(client: Any, until: float, durations: list[float]) -> None:
    """Ask for one plan after the other; how long each took goes to ``durations``."""
    obs, noise, state = observation(False), np.zeros(1, np.int64), client.initial_state(1)
    while (began := time.perf_counter()) < until:
        _, state = client.act(obs, state, noise)
        durations.append(time.perf_counter() - began)


@contextmanager
def key_folders() -> Iterator[tuple[str, str]]:
    """Yield folders with the keys of a server and of a client that know each other."""
    from real.keys import authorize, new_keys

    with tempfile.TemporaryDirectory(prefix="robopolicy-bench-") as folder:
        server, client = Path(folder) / "server", Path(folder) / "client"
        public, _ = new_keys(server, "server")
        authorize(server, new_keys(client, "client")[0])
        shutil.copy(public, client)
        yield str(server), str(client)


def run(quick: bool) -> Result:
    """Measure; ``quick`` takes under two minutes."""
    return measure(3.0 if quick else 30.0)


def measure(seconds: float, fleets: Sequence[int] = (1, 4, 16)) -> Result:
    """Measure with about ``seconds`` a figure; ``fleets`` are the numbers of robots on one server."""
    result = Result()
    with key_folders() as keys:
        for name, image, shared, secured in (
            (SMALL, False, False, False),
            (IMAGE, True, True, False),
            (f"{IMAGE} in messages", True, False, False),
            (f"{SMALL} behind keys", False, False, True),
            (f"{IMAGE} in messages behind keys", True, False, True),
        ):
            with measured() as took:
                served, echoed = round_trips(image, 2 * seconds, shared, keys if secured else None)
            for q, target in ((0.5, 1.3), (0.99, 2.0)):
                values = [1e6 * float(np.quantile(v, q)) for v in (served, echoed)]
                goal = target if shared else None
                label = f"round trip, {name}, p{int(100 * q)}"
                result.rows.append(Row(label, values[0], "us", "raw ZeroMQ multipart echo", values[1], goal, "lower", took.wall_s, took.cpu_s))
    for robots in fleets:
        with measured() as took:
            (rate, p99), (alone_rate, alone_p99) = many_robots(robots, seconds)
        peer, label = "each request by itself", f"{robots} robot{'s' * (robots > 1)} on one server"
        result.rows.append(Row(f"{label}, plans", rate, "1/s", peer, alone_rate, wall_s=took.wall_s, cpu_s=took.cpu_s))
        result.rows.append(Row(f"{label}, p99", 1e3 * p99, "ms", peer, 1e3 * alone_p99, better="lower", wall_s=took.wall_s, cpu_s=took.cpu_s))
    result.notes.append("the robots are threads of one Python process; they ask a denoiser of 10 calls for their next plan as soon as they have the last")
    result.notes.append(f"load average after the run: {os.getloadavg()[0]:.1f}")
    return result
