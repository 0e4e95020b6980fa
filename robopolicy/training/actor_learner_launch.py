"""A learner and its actors on this machine, each started again when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from robopolicy.processes import die_with_parent
from robopolicy.training.actor_learner import say
from robopolicy.training.launch import free_port

_LOOK_S = 0.1
_GRACE_S = 20.0  # for the others to end by themselves
_QUICK_S = 15.0  # a process that dies sooner than that,
_QUICK_TIMES = 3  # so often in a row, is not started again
_REFUSED = (2, 130)  # bad input; a person asked for the end


@dataclass
class _Child:
    name: str
    command: list[str]
    process: subprocess.Popen[bytes]
    began: float
    quick: int = 0


def launch_all(arguments: Sequence[str], actors: int, flags: Sequence[str]) -> int:
    """Run learner and actors until the learner is done, and return the exit code.

    Args:
        arguments: Of ``robopolicy train`` for both roles.
        actors: How many.
        flags: Of the learner alone; but ``--fresh`` is for all, and counts for their first start.
    """
    address = f"tcp://127.0.0.1:{free_port()}"
    shared = [sys.executable, "-m", "robopolicy", "train", *arguments, "--actors", str(actors)]
    learner = [*shared, "--role", "learner", "--bind", address, *(flag for flag in flags if flag != "--fresh")]
    commands = {"the learner": learner}
    commands |= {f"actor {i}": [*shared, "--role", "actor", "--connect", address, "--actor", str(i)] for i in range(actors)}
    children = [_start(name, [*command, *(flag for flag in flags if flag == "--fresh")]) for name, command in commands.items()]
    for child, command in zip(children, commands.values(), strict=True):
        child.command = command
    asked: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        _signal(children, number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while True:
            code = _look(children, bool(asked))
            if code is not None:
                return code
            time.sleep(_LOOK_S)
    finally:
        _end(children)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(name: str, command: list[str]) -> _Child:
    # a session of their own: a Ctrl-C in the terminal comes to this process alone, which passes it on once
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent(), env=dict(os.environ))
    return _Child(name, command, process, time.monotonic())


def _look(children: list[_Child], asked: bool) -> int | None:
    """Start again who has died; returns the exit code when it is over, else None."""
    for place, child in enumerate(children):
        code = child.process.poll()
        if code is None or (code == 0 and place > 0):
            continue
        if place == 0 and code == 0:
            return 0
        if code in _REFUSED or asked:
            return code if code > 0 else 128 - code
        child.quick = child.quick + 1 if time.monotonic() - child.began < _QUICK_S else 0
        why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if child.quick == _QUICK_TIMES:
            say(f"error: {child.name} died {_QUICK_TIMES} times in a row ({why})")
            return 1
        say(f"note: {child.name} died ({why}) and is started again")
        again = _start(child.name, child.command)
        again.quick = child.quick
        children[place] = again
    return None


def _signal(children: Sequence[_Child], number: int) -> None:
    for child in children:
        if child.process.poll() is None:
            child.process.send_signal(number)


def _end(children: Sequence[_Child]) -> None:
    """Give the others time to end, then end them."""
    deadline = time.monotonic() + _GRACE_S
    told = False
    while any(child.process.poll() is None for child in children) and time.monotonic() < deadline:
        if not told and time.monotonic() > deadline - _GRACE_S + 5.0:
            _signal(children, signal.SIGTERM)
            told = True
        time.sleep(_LOOK_S)
    for child in children:
        if child.process.poll() is None:
            child.process.kill()
        child.process.wait()
