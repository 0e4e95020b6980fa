"""One server for all processes that the tests of this folder fork, started before anything else would start one that has imported less."""

import pytest

from tests.robopolicy import forked


@pytest.fixture(scope="session", autouse=True)
def server() -> None:
    """Start it; it imports while the first tests run."""
    forked.context()
