"""Servers in threads and clients that are closed, for tests of the wire."""

import threading

import pytest

from real.client import PolicyClient
from real.server import PolicyServer


@pytest.fixture
def serve():
    """Serve policies in threads; returns the servers."""
    running, stop = [], threading.Event()

    def start(policy, bind="tcp://127.0.0.1:0", **options):
        server = PolicyServer(policy, bind, stats_s=0, log=lambda line: None, **options)
        thread = threading.Thread(target=server.serve, args=(stop.is_set, 0.02), daemon=True)
        thread.start()
        running.append(thread)
        return server

    yield start
    stop.set()
    for thread in running:
        thread.join(5)


@pytest.fixture
def connect():
    """Make clients that are closed at the end."""
    made = []

    def client(address, **options):
        made.append(PolicyClient(address, **options))
        return made[-1]

    yield client
    for one in made:
        one.close()
