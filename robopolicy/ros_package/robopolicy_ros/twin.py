"""Executable ``twin``: a simulated robot behind the same topics."""

from __future__ import annotations

import sys

from robopolicy.cli import main as command_line


def main() -> None:
    """Run the twin: ``twin TASK [OPTION]...``; what launch adds for ROS (``--ros-args ...``) is left out."""
    words = sys.argv[1:]
    if "--ros-args" in words:
        words = words[: words.index("--ros-args")]
    sys.exit(command_line(["twin", *words, "--ros2"]))
