"""Programs of other DDS engines: compiled once, kept by what they are made of, and started as children that end with their test."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(__file__).resolve().parents[4] / ".pytest_cache" / "interop"

#: Cyclone DDS in C, version 0.10: the loopback profile in the words that it knows.
CYCLONE_URI = (
    '<CycloneDDS><Domain id="any"><General><Interfaces><NetworkInterface name="lo" multicast="false"/></Interfaces>'
    "<AllowMulticast>false</AllowMulticast><MaxMessageSize>65500B</MaxMessageSize><FragmentSize>65000B</FragmentSize></General>"
    "<Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>100</MaxAutoParticipantIndex>"
    '<Peers><Peer address="127.0.0.1"/></Peers></Discovery></Domain></CycloneDDS>'
)


def built(name: str, commands: list[list[str]], sources: list[Path]) -> Path:
    """Return the program ``name`` that ``commands`` (run in an empty folder) make of ``sources``; made once for the same text."""
    key = hashlib.sha256("\0".join([*(" ".join(c) for c in commands), *(s.read_text(encoding="utf-8") for s in sources)]).encode()).hexdigest()[:16]
    folder = CACHE / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            folder.mkdir(exist_ok=True)
            for command in commands:
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
                assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-3000:]}"
            (folder / "complete").touch()
    return folder / name


def fast_peer() -> Path:
    """Return our peer on Debian's Fast DDS."""
    source = HERE / "fast_peer.cpp"
    return built("fast_peer", [["g++", "-std=c++17", "-O1", "-o", "fast_peer", str(source), "-lfastrtps", "-lfastcdr"]], [source])


def cyclone_peer(*, type_information: bool = False) -> Path:
    """Return our peer on Debian's Cyclone DDS in C: its types without XTypes information, as rmw_cyclonedds has them, or with it."""
    source, idl = HERE / "cyclone_peer.c", HERE / "ros.idl"
    name = "cyclone_typed" if type_information else "cyclone_peer"
    generate = ["idlc", *([] if type_information else ["-t"]), str(idl)]
    return built(name, [generate, ["gcc", "-O1", "-I.", "-o", name, str(source), "ros.c", "-lddsc"]], [source, idl])


class Peer:
    """A running program: the lines that it prints, and a way to end it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def line(self, timeout: float = 30.0) -> str:
        """Return the next line; fails after ``timeout`` s or when the program has ended."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            try:
                return self._lines.get(timeout=0.05)
            except queue.Empty:
                assert self._process.poll() is None or not self._lines.empty(), f"the peer ended with {self._process.poll()}"
        raise AssertionError(f"the peer said nothing for {timeout} s")

    def lines(self) -> list[str]:
        """Return what it has printed and nobody has read, without waiting."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._lines.get_nowait())
        return found


@contextlib.contextmanager
def running(program: Path, *words: object) -> Iterator[Peer]:
    """Run a peer; it ends when its input is closed, or is killed."""
    environment = {**os.environ, "CYCLONEDDS_URI": CYCLONE_URI}
    process = subprocess.Popen(
        [str(program), *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        yield Peer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
