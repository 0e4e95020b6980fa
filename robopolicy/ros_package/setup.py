"""Installs the ROS package; the stack itself is the Python package robopolicy, which pip brings."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup

NAME = "robopolicy_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(map(str, Path("launch").glob("*.launch.py")))),
        (f"share/{NAME}/config", sorted(map(str, Path("config").glob("*.yaml")))),
    ],
    install_requires=["setuptools", "robopolicy"],
    zip_safe=True,
    maintainer="robopolicy",
    maintainer_email="robopolicy@example.org",
    description="Runs a robot policy on a ROS 2 robot.",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"policy_node = {NAME}.policy_node:main", f"twin = {NAME}.twin:main"]},
)
