"""Nodes of a test in a domain of their own, spun until something holds."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from real.ros import api as ros
from tests.real.ros.domains import free_domain

LONG_S = 30.0


class Place:
    """A context in a domain that nobody else uses, its nodes and the executor that spins them."""

    def __init__(self, domain: int, **options: Any) -> None:
        self.domain = domain
        self.context = ros.Context()
        self.context.init(args=[], domain_id=domain, **options)
        self.executor = ros.SingleThreadedExecutor(context=self.context)

    def node(self, name: str, **options: Any) -> Any:
        """Return a new node that is spun; without parameter services and rosout unless asked."""
        chosen: dict[str, Any] = {"start_parameter_services": False, "enable_rosout": False} | options
        made = ros.Node(name, context=self.context, **chosen)
        self.executor.add_node(made)
        return made

    def until(self, condition: Callable[[], Any], seconds: float = LONG_S) -> bool:
        """Spin until the condition holds, at most so long; returns whether it does."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.executor.spin_once(0.02)
        return True


@contextlib.contextmanager
def place(**options: Any) -> Iterator[Place]:
    """A place that is gone at the end."""
    with free_domain() as domain:
        here = Place(domain, **options)
        try:
            yield here
        finally:
            here.executor.shutdown()
            here.context.try_shutdown()


@contextlib.contextmanager
def peers(domain: int) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """What starts other processes (peer.py) in a domain and returns when they are ready; they are gone at the end."""
    running: list[subprocess.Popen[str]] = []
    root = Path(__file__).parents[3]

    def start(*words: str) -> subprocess.Popen[str]:
        env = {key: value for key, value in os.environ.items() if key != "CYCLONEDDS_URI"} | {"PYTHONPATH": str(root)}
        command = [sys.executable, str(Path(__file__).with_name("peer.py")), str(domain), *words]
        one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=root)
        running.append(one)
        assert one.stdout is not None and json.loads(one.stdout.readline()) == {"ready": True}
        return one

    try:
        yield start
    finally:
        for one in running:
            one.kill()
            one.communicate()
