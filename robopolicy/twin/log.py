"""The twin's log: every command that reached it, in a file that outlives any process, and its reader.

One line of JSON for each event, appended with one system call, so that whatever is killed, the lines before are there.
Tests judge from it what a runtime let through to the drive, by code of their own.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError

#: ``start``: a twin opened the file; ``begin``: an episode began (the command is where the joints stand); ``write``, ``hold``,
#: ``stop``: what a driver sent; ``silent``: commands had stopped coming and the world held. Over ROS 2 a ``write`` is what the
#: controllers gave the joints in a tick, and ``refused`` a message that no controller took.
KINDS = ("start", "begin", "write", "hold", "stop", "silent", "refused")
_MOST_NUMBERS = 64  # of a command that has the wrong shape


class TwinLog:
    """Appends events to ``path``, which may hold earlier ones; ``about`` is kept in a line of kind ``start``.

    Raises:
        InputError: if the file cannot be opened or written.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(f"log {path}: {error.strerror}") from error
        self._append({"kind": "start", "about": dict(about)})

    def event(self, kind: str, arrived_ns: int, sequence: int, episode: int, step: int, command: np.ndarray | None = None, refused: str = "") -> None:
        """Append one event.

        Args:
            kind: One of ``KINDS``.
            arrived_ns: Monotonic nanoseconds of this machine.
            sequence: Number of the driver's message; 0 for what the world did by itself.
            episode: Seed of the episode.
            step: Steps that the world has done in it: ticks of the drive.
            command: (n,) as it arrived, before any clipping, or None.
            refused: Why it was not taken; empty: it was.
        """
        numbers = None if command is None else [float(v) for v in np.ravel(command)[:_MOST_NUMBERS]]
        line: dict[str, Any] = {"kind": kind, "t": arrived_ns, "sequence": sequence, "episode": episode, "step": step, "command": numbers}
        self._append({**line, "refused": refused} if refused else line)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, line: Mapping[str, Any]) -> None:
        data = (json.dumps(line, separators=(",", ":")) + "\n").encode()
        try:
            written = os.write(self._file, data)
        except OSError as error:
            raise InputError(f"log {self._path}: {error.strerror}") from error
        if written != len(data):
            raise InputError(f"log {self._path}: only {written} of {len(data)} bytes of a line could be written")


@dataclass(frozen=True)
class TwinEvents:
    """What a log holds, K events in the order of their arrival.

    Attributes:
        about: What the first twin said of itself: ``task``, ``rate_hz``, ``substeps``, ``motion``, ``lockstep``, ``dim``.
        kind: (K,) str.
        arrived_ns: (K,) int64, monotonic.
        sequence: (K,) int64.
        episode: (K,) int64, seeds.
        step: (K,) int64.
        command: (K, n) float64, NaN where there was none or it had the wrong shape.
        refused: (K,) str, empty where the command was taken.
    """

    about: dict[str, Any]
    kind: np.ndarray
    arrived_ns: np.ndarray
    sequence: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    command: np.ndarray
    refused: np.ndarray

    def motions(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield for every episode where the joints stood at its beginning (n,) and the commands written for it (M, n), refused ones too."""
        begins = np.flatnonzero(self.kind == "begin")
        for start, end in zip(begins, [*begins[1:], len(self.kind)], strict=True):
            inside = slice(start + 1, end)
            meant = (self.kind[inside] == "write") & (self.episode[inside] == self.episode[start])
            yield self.command[start], self.command[inside][meant]


def read_log(path: Path) -> TwinEvents:
    """Read a log; an unfinished last line, of a disk that was full, is left out.

    Raises:
        InputError: if the file cannot be read or is no log of a twin.
    """
    try:
        text = path.read_text(encoding="utf-8")
        lines = [json.loads(row) for row in text.split("\n")[:-1]]
        about = next(line["about"] for line in lines if line["kind"] == "start")
        events, n = [line for line in lines if line["kind"] != "start"], int(about["dim"])
        commands = np.full((len(events), n), math.nan)
        for row, event in zip(commands, events, strict=True):
            if event["command"] is not None and len(event["command"]) == n:
                row[:] = event["command"]
        numbers = {key: np.array([event[key] for event in events], np.int64) for key in ("t", "sequence", "episode", "step")}
        words = {key: np.array([event.get(key, "") for event in events], np.str_) for key in ("kind", "refused")}
    except OSError as error:
        raise InputError(f"log {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise InputError(f"log {path}: not a log of a twin ({type(error).__name__}: {error})") from error
    return TwinEvents(about, words["kind"], numbers["t"], numbers["sequence"], numbers["episode"], numbers["step"], commands, words["refused"])
