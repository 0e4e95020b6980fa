"""Executable ``policy_node``."""

from __future__ import annotations

import sys

from robopolicy.ros_node import main as run_node


def main() -> None:
    """Run the policy node; arguments are ROS's."""
    sys.exit(run_node())
