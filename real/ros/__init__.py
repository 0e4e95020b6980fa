"""ROS 2: nodes written against the rclpy API, on rclpy where it is there and otherwise over DDS; import from ``real.ros.api``."""
