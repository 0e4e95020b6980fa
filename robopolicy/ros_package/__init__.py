"""The ament_python package ``robopolicy_ros``, as files; ``robopolicy ros2 package --out FOLDER`` writes it to a workspace."""
