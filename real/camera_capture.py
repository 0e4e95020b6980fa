"""One opened video source: a V4L2 device, a file or a stream, read by OpenCV, with the options that were really taken.

What a device does not take it ignores without a word; here every option that was asked for is read back and a difference
is an error of one line. OpenCV is imported when a source is opened: a robot without cameras needs none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from policies.config import Config
from policies.spec import InputError

LARGEST_PX = 1 << 25  # of a picture that is handed on: what a stream says of its own size reserves no memory beyond
_MANUAL, _AUTOMATIC = 1, 3  # V4L2's exposure modes
_RATE_TOLERANCE, _EXPOSURE_TOLERANCE = 0.05, 0.02
_OPEN_MS = 5000
#: What a stream may speak; never ``file``: a play list from the network must not name files of this machine.
_PROTOCOLS = "http,https,tcp,udp,rtp,rtsp,rtsps,rtmp,tls,crypto,httpproxy"


class CameraConfig(Config):
    """One camera of a robot.

    Attributes:
        source: Device (``/dev/video0`` or its number), file, or address (``rtsp://``, ``http://``).
        width, height: Of the picture that the device gives, px; None: whatever it gives.
        fps: Pictures a second of the device; None: whatever it gives.
        fourcc: Its pixel format, four letters, e.g. ``MJPG``; None: whatever it gives.
        exposure: In the device's own unit, or ``auto``; None: left alone. V4L2 devices alone.
        size: (H, W) that is handed on: cut to that shape around the centre, then scaled; None: as the device gives it.
        latency_ms: From exposure to the stamp of the source, taken off every stamp; None: as the calibration says, or 0.
        frozen_s, frozen_frames: A picture that has come again unchanged for so long, and so often, is no longer handed on, so
            that it goes stale; ``frozen_s`` None: never.
        stall_s: Silence of the source after which it is opened anew.
        retry_s: Longest pause between two attempts; they begin at 0.2 s and double.
        connect_s: How long the first picture may take.
        loop: Play a file again and again; else it goes stale at its end.
    """

    source: str | int
    width: pydantic.PositiveInt | None = None
    height: pydantic.PositiveInt | None = None
    fps: pydantic.PositiveFloat | None = None
    fourcc: str | None = pydantic.Field(default=None, min_length=4, max_length=4)
    exposure: float | Literal["auto"] | None = None
    size: tuple[pydantic.PositiveInt, pydantic.PositiveInt] | None = None
    latency_ms: pydantic.NonNegativeFloat | None = None
    frozen_s: pydantic.PositiveFloat | None = 1.0
    frozen_frames: pydantic.PositiveInt = 10
    stall_s: pydantic.PositiveFloat = 2.0
    retry_s: pydantic.PositiveFloat = 5.0
    connect_s: pydantic.PositiveFloat = 10.0
    loop: bool = False

    @pydantic.field_validator("size")
    @classmethod
    def _fits(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and value[0] * value[1] > LARGEST_PX:
            raise ValueError(f"{value[0]}x{value[1]} pixels, at most {LARGEST_PX} are handed on")
        return value

    @property
    def kind(self) -> Literal["device", "address", "file"]:
        """What the source is."""
        text = str(self.source)
        if text.isdigit() or text.startswith("/dev/"):
            return "device"
        return "address" if "://" in text else "file"

    @property
    def shown(self) -> str:
        """The source as it may be printed: without a password."""
        return re.sub(r"//[^/@]*@", "//...@", str(self.source))


class SourceError(ConnectionError):
    """A source that cannot be opened or is not as asked; one line."""


class Capture:
    """A source that is open.

    Args:
        config: What to open and with which options.

    Attributes:
        fps: Pictures a second as the source says; 0: it does not.

    Raises:
        SourceError: it cannot be opened, or gives something else than was asked for.
        InputError: OpenCV is not installed.
    """

    def __init__(self, config: CameraConfig) -> None:
        self.config = config
        cv2 = _opencv(config)
        self._cv2 = cv2
        if config.kind == "file" and not Path(str(config.source)).is_file():
            raise SourceError(f"{config.shown}: there is no such file")
        if config.kind == "device":
            text = str(config.source)
            if text.startswith("/dev/") and not Path(text).exists():
                raise SourceError(f"{config.shown}: there is no such device{_devices()}")
            self._video = cv2.VideoCapture(int(text) if text.isdigit() else text, cv2.CAP_V4L2)
        else:
            limits = [] if config.kind == "file" else [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(1e3 * config.stall_s)]
            with _spoken(config):
                self._video = cv2.VideoCapture(str(config.source), cv2.CAP_FFMPEG, limits)
        if not self._video.isOpened():
            self.close()
            what = {"device": "it is no camera, or another program has it", "address": "nothing answers there, or it is no video"}
            raise SourceError(f"{config.shown}: cannot be opened: {what.get(config.kind, 'it is no video')}")
        wrong = self._configure()
        if wrong:
            self.close()
            raise SourceError(f"{config.shown}: {'; '.join(wrong)}")
        self.fps = float(self._video.get(cv2.CAP_PROP_FPS) or 0.0)

    def read(self) -> tuple[np.ndarray, float | None] | None:
        """Return the next picture (H, W, 3) uint8 BGR and the source's own time of it, s; None when there is none.

        A V4L2 device says when its buffer was filled, on the monotonic clock; a stream how far it has come; others nothing.
        """
        ok, picture = self._video.read()
        if not ok or picture is None or picture.ndim != 3:
            return None
        said = float(self._video.get(self._cv2.CAP_PROP_POS_MSEC))
        return picture, (1e-3 * said if said > 0 else None)

    def shaped(self, picture: np.ndarray) -> np.ndarray:
        """Return ``picture`` (H, W, 3) BGR as RGB of ``config.size``: cut around the centre to its shape, then scaled."""
        cv2, size = self._cv2, self.config.size
        if size is not None and picture.shape[:2] != tuple(size):
            height, width = picture.shape[:2]
            scale = min(height / size[0], width / size[1])
            keep_h, keep_w = round(size[0] * scale), round(size[1] * scale)
            top, left = (height - keep_h) // 2, (width - keep_w) // 2
            way = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
            picture = cv2.resize(picture[top : top + keep_h, left : left + keep_w], (size[1], size[0]), interpolation=way)
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        """Let go of the source; may be called twice."""
        self._video.release()

    def _configure(self) -> list[str]:
        """Set what was asked for on a device, and return every difference between asked and given."""
        cv2, c, video = self._cv2, self.config, self._video
        device = c.kind == "device"
        if not device and c.exposure is not None:
            return ["exposure: only V4L2 devices take it; leave it out"]
        if device:
            video.set(cv2.CAP_PROP_BUFFERSIZE, 2)
            if c.fourcc is not None:
                video.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*c.fourcc))
            for prop, value in ((cv2.CAP_PROP_FRAME_WIDTH, c.width), (cv2.CAP_PROP_FRAME_HEIGHT, c.height), (cv2.CAP_PROP_FPS, c.fps)):
                if value is not None:
                    video.set(prop, value)
            if c.exposure is not None:
                video.set(cv2.CAP_PROP_AUTO_EXPOSURE, _AUTOMATIC if c.exposure == "auto" else _MANUAL)
                if c.exposure != "auto":
                    video.set(cv2.CAP_PROP_EXPOSURE, c.exposure)
        return differences(c, {name: float(video.get(prop)) for name, prop in _properties(cv2).items()})


def differences(config: CameraConfig, given: dict[str, float]) -> list[str]:
    """Return one phrase for every option of ``config`` that the source, which says ``given`` of itself, has not taken."""
    out = []
    for name, asked in (("width", config.width), ("height", config.height)):
        if asked is not None and round(given[name]) != asked:
            out.append(f"{name}: {asked} asked for, {round(given[name])} given")
    if config.fps is not None and not abs(given["fps"] - config.fps) <= _RATE_TOLERANCE * config.fps:
        out.append(f"fps: {config.fps:g} asked for, {given['fps']:g} given")
    if config.fourcc is not None and config.kind == "device" and _letters(given["fourcc"]) != config.fourcc:
        out.append(f"fourcc: {config.fourcc} asked for, {_letters(given['fourcc'])} given")
    if isinstance(config.exposure, (int, float)) and not abs(given["exposure"] - config.exposure) <= _EXPOSURE_TOLERANCE * abs(config.exposure):
        out.append(f"exposure: {config.exposure:g} asked for, {given['exposure']:g} given")
    return out


def _properties(cv2: Any) -> dict[str, int]:
    return {
        "width": cv2.CAP_PROP_FRAME_WIDTH,
        "height": cv2.CAP_PROP_FRAME_HEIGHT,
        "fps": cv2.CAP_PROP_FPS,
        "fourcc": cv2.CAP_PROP_FOURCC,
        "exposure": cv2.CAP_PROP_EXPOSURE,
    }


def _letters(code: float) -> str:
    """Return the four letters of a pixel format's number."""
    number = int(code) & 0xFFFFFFFF
    return "".join(chr(number >> 8 * k & 0xFF) for k in range(4)).strip("\0") or "none"


def _devices() -> str:
    found = sorted(path.name for path in Path("/dev").glob("video*"))
    return f"; there is {', '.join('/dev/' + name for name in found)}" if found else "; there is no /dev/video* at all"


@contextmanager
def _spoken(config: CameraConfig) -> Iterator[None]:
    """Tell FFmpeg what it may speak while it opens an address; a file opened later is not meant."""
    key = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    before = os.environ.get(key)
    if config.kind == "address":
        os.environ[key] = f"rtsp_transport;tcp|protocol_whitelist;{_PROTOCOLS}"
    try:
        yield
    finally:
        os.environ.pop(key, None)
        if before is not None:
            os.environ[key] = before


def _opencv(config: CameraConfig) -> Any:
    """Return the module, told in time how patient it is with V4L2."""
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(max(1, round(config.stall_s))))
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise InputError(f"camera {config.shown}: OpenCV is not installed or does not load ({error}): pip install 'robopolicy[video]'") from error
    cv2.setNumThreads(1)
    return cv2
