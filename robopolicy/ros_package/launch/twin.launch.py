"""Launch a simulated robot and the policy node that drives it: ``ros2 launch robopolicy_ros twin.launch.py policy:=CHECKPOINT``."""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
# (launch is a part of ROS 2 and comes with it)
from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Return twin, policy node and their arguments."""
    arguments = [
        DeclareLaunchArgument("task", default_value="arm/reach", description="Task whose world is simulated."),
        DeclareLaunchArgument("policy", description="Address of a server, or a checkpoint."),
        DeclareLaunchArgument("autostart", default_value="true", description="Start the run at once."),
        DeclareLaunchArgument("control", default_value="false", description="Whether ROS may start and resume the robot."),
    ]
    twin = Node(package="robopolicy_ros", executable="twin", arguments=[LaunchConfiguration("task")], output="screen")
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([FindPackageShare("robopolicy_ros"), "launch", "policy.launch.py"])),
        launch_arguments={name: LaunchConfiguration(name) for name in ("policy", "autostart", "control")}.items(),
    )
    return LaunchDescription([*arguments, twin, policy])
