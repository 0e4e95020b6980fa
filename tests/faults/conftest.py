"""One stack for the tests of a file that need nothing special of it, made anew when a test has left it dead."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.stack import Stack


class _Kept:
    """The stack of a file."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory, self._stack = factory, None

    def moving(self) -> Stack:
        """Return it with the arm moving under the runtime."""
        stack = self._stack
        if stack is None or not (stack.twin.alive and stack.drive.alive and stack.server.alive):
            self.close()
            stack = Stack(self._factory.mktemp("stack"), run=["timeout_s=0.3", "lead=14", "approach=100"])  # nothing is approached slowly
            self._stack = stack.__enter__()
        elif not stack.runtime.alive:
            stack.until_still()  # whoever moved it last
            stack.start_runtime()
        stack.policy.say("good", 0.0)
        stack.until_moving()
        return stack

    def close(self) -> None:
        if self._stack is not None:
            self._stack.__exit__()
        self._stack = None


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Kept]:
    kept = _Kept(tmp_path_factory)
    yield kept
    kept.close()


@pytest.fixture
def stack(kept: _Kept) -> Stack:
    """The stack of this file, running, the arm moving. What it judges is all that has happened to it so far."""
    return kept.moving()
