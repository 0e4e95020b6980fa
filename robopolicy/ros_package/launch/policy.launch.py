"""Launch the policy node: ``ros2 launch robopolicy_ros policy.launch.py policy:=/path/to/checkpoint autostart:=true``."""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
# (launch is a part of ROS 2 and comes with it)
from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Return the node and its arguments."""
    defaults = PathJoinSubstitution([FindPackageShare("robopolicy_ros"), "config", "policy.yaml"])
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and of the robot's topics."),
        DeclareLaunchArgument("params", default_value=defaults, description="YAML file with the node's parameters."),
        DeclareLaunchArgument("policy", default_value="", description="Address of a server, or a checkpoint."),
        DeclareLaunchArgument("checkpoints", default_value="", description="Folder from which checkpoints are chosen by name."),
        DeclareLaunchArgument("checkpoint", default_value="", description="Name in that folder."),
        DeclareLaunchArgument("control", default_value="false", description="Whether ROS may start and resume the robot."),
        DeclareLaunchArgument("autostart", default_value="false", description="Start the run at once."),
    ]
    texts = {name: ParameterValue(LaunchConfiguration(name), value_type=str) for name in ("policy", "checkpoints", "checkpoint")}
    switches = {name: ParameterValue(LaunchConfiguration(name), value_type=bool) for name in ("control", "autostart")}
    node = LifecycleNode(
        package="robopolicy_ros",
        executable="policy_node",
        name="robopolicy",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("params"), texts, switches],
        output="screen",
        sigterm_timeout="20",  # the run brakes and holds the robot before it ends
        sigkill_timeout="20",
    )
    return LaunchDescription([*arguments, node])
