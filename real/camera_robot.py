"""Cameras beside a robot: whatever its driver is, OpenCV cameras become fields of its observation.

``robot.cameras.NAME.source=/dev/video0`` adds ``observation.images.NAME`` with the time at which the picture was taken. A
camera that is lost or frozen gives no new picture: its field grows old, and the runtime holds as for every stale field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic

from policies.spec import Field, InputError, ObservationSpec, Spec, suggest
from real.calibration import META, Calibration
from real.camera import Camera
from real.camera_capture import CameraConfig
from real.robot import Observation, Robot, RobotInfo

#: Keys of a robot's section that are not its driver's.
GENERIC = ("cameras", "calibration")


class CameraRobot:
    """A robot whose observation holds the pictures of some cameras besides; everything else is its driver's own, unchanged.

    Args:
        driver: The robot.
        cameras: Name -> camera; closed with the robot.
        calibration: Carried in ``spec.meta``; None: none is known.

    Attributes:
        spec: The driver's with a field ``observation.images.NAME`` (H, W, 3) a camera.
    """

    def __init__(self, driver: Robot, cameras: Mapping[str, Camera], calibration: Calibration | None = None) -> None:
        self._driver, self._cameras = driver, dict(cameras)
        fields = dict(driver.spec.observation.fields)
        for name, camera in self._cameras.items():
            key = field_name(name)
            if key in fields:
                raise InputError(f"robot.cameras.{name}: the robot {driver.info.name!r} has a field {key!r} already")
            fields[key] = Field(camera.shape, "uint8", "px", kind="image")
        meta = dict(driver.spec.meta) if calibration is None else {**driver.spec.meta, META: calibration.text}
        self.spec = Spec(ObservationSpec(fields, driver.spec.observation.rate_hz), driver.spec.action, meta)
        self.info: RobotInfo = driver.info

    def read(self) -> Observation:
        """Return the driver's reading with the newest picture (H, W, 3) of every camera. Raises RobotGone as the driver does."""
        reading = self._driver.read()
        fields, captured = dict(reading.fields), dict(reading.capture_ns)
        for name, camera in self._cameras.items():
            frame = camera.newest()
            fields[field_name(name)], captured[field_name(name)] = frame.image, frame.capture_ns
        return replace(reading, fields=fields, capture_ns=captured)

    def camera_counts(self) -> dict[str, dict[str, Any]]:
        """Return what every camera has counted (``Camera.counts``), JSON-ready; the drive reports it as ``cameras``."""
        return {name: camera.counts() for name, camera in self._cameras.items()}

    def close(self) -> None:
        """Let go of robot and cameras."""
        try:
            self._driver.close()
        finally:
            for camera in self._cameras.values():
                camera.close()

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the driver can do: commands go to it as they come, and it alone knows which others there are."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._driver, name)


def field_name(camera: str) -> str:
    """Return the observation field of camera ``camera``."""
    return f"observation.images.{camera}"


def own_options(robot: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a robot's section that are its driver's: neither ``type`` nor what is the same for all.

    A driver that is brought together with a ``spec`` is given it without the fields of the cameras beside it.
    """
    out, spec = {key: value for key, value in robot.items() if key not in ("type", *GENERIC)}, _wanted(robot)
    if robot.get("cameras") and spec is not None:
        fields = {name: field for name, field in spec["observation"]["fields"].items() if name not in map(field_name, robot["cameras"])}
        out["spec"] = {**spec, "observation": {**spec["observation"], "fields": fields}}
    return out


def _wanted(robot: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the spec, as a mapping, that the section brings its robot together with; None: none that can be read."""
    spec = robot.get("spec")
    if isinstance(spec, str):
        path = Path(spec)
        try:
            spec = json.loads((path / "spec.json" if path.is_dir() else path).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # the driver says what is wrong with it
            return None
    fits = isinstance(spec, Mapping) and isinstance(spec.get("observation"), Mapping) and isinstance(spec["observation"].get("fields"), Mapping)
    return dict(spec) if fits and isinstance(spec, Mapping) else None


def attach(driver: Any, robot: Mapping[str, Any]) -> Any:
    """Return ``driver`` with the ``cameras`` and the ``calibration`` of its section; itself, if there are neither.

    Args:
        driver: Just opened; it is closed if a camera cannot be.
        robot: The section, e.g. ``{"type": "twin", "cameras": {"front": {"source": 0}}, "calibration": "calibration.json"}``.

    Raises:
        InputError: one line: an option is wrong, a camera does not open or has not taken an option, no such calibration.
    """
    wanted, path = robot.get("cameras") or {}, robot.get("calibration")
    if not wanted and not path:
        return driver
    with ExitStack() as stack:
        stack.callback(driver.close)
        if not isinstance(wanted, Mapping):
            raise InputError(f"robot.cameras: expected names with options, e.g. robot.cameras.front.source=/dev/video0, found {wanted!r}")
        if wanted and driver.info.lockstep:
            raise InputError(f"robot.cameras: robot {driver.info.name!r} is in lock-step, whose time is no camera's; run it in real time")
        calibration = Calibration.load(str(path)) if path else None
        opened: dict[str, Camera] = {}
        expected = (_wanted(robot) or {"observation": {"fields": {}}})["observation"]["fields"]
        for name, options in wanted.items():
            config = camera_config(name, options, calibration)
            if config.size is None and field_name(name) in expected:
                config.size = tuple(expected[field_name(name)]["shape"][:2])
            opened[name] = stack.enter_context(Camera(config, name))
        out = CameraRobot(driver, opened, calibration)
        stack.pop_all()
        return out


def camera_config(name: str, options: Any, calibration: Calibration | None = None) -> CameraConfig:
    """Return the configuration of camera ``name``, whose latency is the calibration's unless it is given. Raises InputError."""
    if not isinstance(options, Mapping):
        raise InputError(f"robot.cameras.{name}: expected options, e.g. robot.cameras.{name}.source=/dev/video0, found {options!r}")
    if unknown := [key for key in options if key not in CameraConfig.model_fields]:
        raise InputError(f"robot.cameras.{name}.{unknown[0]} is unknown{suggest(str(unknown[0]), CameraConfig.model_fields)}")
    try:
        config = CameraConfig.model_validate(dict(options))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"robot.cameras.{name}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if config.latency_ms is None and calibration is not None:
        config.latency_ms = calibration.latency_ms(name)
    return config
