#!/usr/bin/env bash
# The conformance suite on the real rclpy: the same files, in a container of ROS 2.
#
#   tests/real/ros/conformance/container.sh [IMAGE]        ros:jazzy by default; ros:kilted, ros:rolling
#
# Needs docker and a network. The source tree is mounted read-only; nothing is left behind.
set -euo pipefail
image="${1:-ros:jazzy}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../.." && pwd)"

exec docker run --rm --volume "$root:/source:ro" --env RMW_IMPLEMENTATION="${RMW_IMPLEMENTATION:-}" "$image" bash -euc '
  apt-get -qq update
  apt-get -qq install -y --no-install-recommends python3-venv python3-numpy python3-yaml >/dev/null
  if [ -n "$RMW_IMPLEMENTATION" ]; then
    apt-get -qq install -y --no-install-recommends "ros-$ROS_DISTRO-${RMW_IMPLEMENTATION//_/-}" >/dev/null
  else
    unset RMW_IMPLEMENTATION
  fi
  set +u
  . "/opt/ros/$ROS_DISTRO/setup.bash"
  set -u
  python3 -m venv --system-site-packages /tmp/tests
  /tmp/tests/bin/python -m pip install --quiet "pytest>=8.3" "hypothesis>=6.120"
  cd /source
  export ROBOPOLICY_ROS=rclpy PYTHONDONTWRITEBYTECODE=1
  /tmp/tests/bin/python -c "from real.ros import api; print(api.BACKEND, api.WHY)"
  exec /tmp/tests/bin/python -m pytest -p no:cacheprovider tests/real/ros/conformance
'
