"""Calibration: what a robot's cameras, joints and delays are, measured with a ChArUco board or from recorded motion."""
