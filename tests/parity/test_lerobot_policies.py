"""Our U-Net and LeRobot's with the same weights: the same numbers, as trained and accelerated; its policy as a peer on PushT."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.parity import lerobot_policies
from tests.require import require


@pytest.mark.parametrize(("command", "said"), [("parity", "difference as trained"), ("peer", "largest difference")])
def test_the_networks_are_the_same_and_so_are_the_plans_of_the_peer(command: str, said: str):
    if not lerobot_policies.is_made():
        require("network")
    done = subprocess.run([sys.executable, Path(lerobot_policies.__file__), command], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    assert said in done.stdout
