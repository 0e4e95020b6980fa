"""A link that nobody closed ends with what it was part of."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

CYCLE = """
import gc
import zmq
from real.context import LinkContext

class Owner:
    def __init__(self):
        self.context, self.cycle = {made}(), self
        for _ in range(3):
            self.socket = self.context.socket(zmq.DEALER)
            self.socket.setsockopt(zmq.IMMEDIATE, 0)
            self.socket.connect("tcp://127.0.0.1:9")
            self.socket.send(b"waits")

owner = Owner()
del owner
gc.collect()
print("collected")
"""


def test_a_cycle_with_an_open_link_is_collected():
    done = subprocess.run([sys.executable, "-c", CYCLE.format(made="LinkContext")], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "collected\n", done.stderr


def test_which_waits_for_ever_with_a_context_of_pyzmq():
    """What LinkContext is for; it can go when this fails."""
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", CYCLE.format(made="zmq.Context")], cwd=ROOT, capture_output=True, timeout=3)


def test_closed_sockets_are_forgotten():
    import zmq

    from real.context import LinkContext

    context = LinkContext()
    for _ in range(100):
        context.socket(zmq.DEALER).close()
    assert len(context._open) <= 1
    context.destroy()
