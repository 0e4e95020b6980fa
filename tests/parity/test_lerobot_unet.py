"""Our U-Net and LeRobot's with the same weights: the same numbers, as trained and accelerated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.parity import lerobot_unet
from tests.require import require


def test_the_networks_are_the_same():
    if not lerobot_unet.is_made():
        require("network")
    done = subprocess.run([sys.executable, Path(lerobot_unet.__file__), "parity"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    assert "difference as trained" in done.stdout
