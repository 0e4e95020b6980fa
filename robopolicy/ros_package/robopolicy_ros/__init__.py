"""Executables of the ROS package; all they do is in the Python package robopolicy."""
