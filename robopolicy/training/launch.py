"""Several training processes on this machine; many machines are started by ``accelerate launch`` or ``torchrun`` instead.

Every process runs the same command and finds its place in the environment variables of torch.distributed, so this
launcher and those two are interchangeable.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NoReturn

from robopolicy.processes import die_with_parent

_GRACE = 10.0  # s for the others to end by themselves after one has failed


def launched() -> bool:
    """Whether this process is one of several that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def leave() -> NoReturn:
    """End this process, its work done, without taking the interpreter apart.

    The libraries keep threads that exchange tensors for as long as an optimiser or a wrapped network refers to the group of
    processes; one that frees a tensor while the interpreter ends aborts the process, and a finished run would seem to have failed.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def launch(command: Sequence[str], processes: int) -> int:
    """Run ``command`` in ``processes`` processes and return the exit code: 0, or that of the first that failed.

    The first process speaks for all; what another one printed is shown only if that one fails first. When one fails the
    others are ended. Ctrl-C and SIGTERM reach all of them, and all are waited for.
    """
    port, with_parent = free_port(), die_with_parent()
    quiet = [tempfile.TemporaryFile() for _ in range(processes - 1)]  # noqa: SIM115 (closed below)
    children = []
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        stream = None if rank == 0 else quiet[rank - 1]
        # a session of their own: a Ctrl-C in the terminal comes to this process alone, which passes it on once
        env = {**os.environ, **{k: str(v) for k, v in place.items()}}
        children.append(subprocess.Popen(list(command), env=env, stdout=stream, stderr=stream, start_new_session=True, preexec_fn=with_parent))

    def pass_on(number: int, frame: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        rank, code = _wait(children)
        if code and rank > 0:
            quiet[rank - 1].seek(0)
            sys.stderr.write(quiet[rank - 1].read().decode(errors="replace"))
        return code
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
        for file in quiet:
            file.close()


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int]:
    """Return (rank, exit code) of the first that failed, the lowest rank among several, or (0, 0) when all are done."""
    while True:
        codes = [child.poll() for child in children]
        if all(code == 0 for code in codes):
            return 0, 0
        if any(codes):
            break
        time.sleep(0.05)
    first = next(rank for rank, code in enumerate(codes) if code)
    deadline = time.monotonic() + (1.0 if first else _GRACE)
    while time.monotonic() < deadline and any(child.poll() is None for child in children):
        time.sleep(0.05)
    # all ranks see the same bad input; the first process says it best
    rank = 0 if children[0].poll() not in (None, 0) else first
    code = children[rank].poll() or 1
    return rank, code if code > 0 else 128 - code


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
