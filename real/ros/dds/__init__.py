"""The rclpy API over Cyclone DDS, without a ROS installation; nobody but ``real.ros.api`` imports from here."""
