"""The twin: a simulated world in a process of its own, behind the robot interface or the topics of a robot under ros2_control."""
