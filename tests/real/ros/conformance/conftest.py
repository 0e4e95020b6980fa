"""Fixtures of the conformance suite. The files here use ``real.ros.api`` alone, so that they run on rclpy too (docs/ros2.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.real.ros.conformance.world import World, worlds


@pytest.fixture
def opened() -> Iterator[Callable[..., World]]:
    with worlds() as opener:
        yield opener


@pytest.fixture
def world(opened: Callable[..., World]) -> World:
    return opened()
