"""What the page shows: the run's telemetry and what the teleoperation says, made ready for browsers in a thread of its own.

Images become JPEG here, the newest of each camera alone: while one is being made, those that come are replaced, never queued.
"""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from policies.spec import InputError
from real.telemetry import Subscription
from real.telemetry_wire import Record

_CAMERAS = 8  # at most
_ELEMENTS = 64  # of a vector that is shown, at most
_TEXT = 300  # characters of a text that is shown, at most
_SILENT_S = 2.0  # without telemetry for so long the page says so
_LARGEST = 960  # pixels of a side; larger images are halved until they fit


class View:
    """Follows one run after the other.

    Args:
        image_rate_hz: Images a second and camera.
        quality: Of the JPEG, 1 to 95.
        changed: Called, in the view's thread, when there is a new image.

    Attributes:
        images: Camera -> (number, JPEG); the number rises with every image.
        latch: File of the drive's latched stop, as the run says; empty: it has not.
        lost: Telemetry messages that did not come.
    """

    def __init__(self, image_rate_hz: float, quality: int, changed: Callable[[], None] = lambda: None) -> None:
        self.images: dict[str, tuple[int, bytes]] = {}
        self.latch, self.lost = "", 0
        self._rate, self._quality, self._changed = image_rate_hz, quality, changed
        self._address, self._told = "", {}
        self._info: dict[str, Any] = {}
        self._tick: dict[str, Any] = {}
        self._readings: dict[str, Any] = {}
        self._heard_at: float | None = None
        self._count = 0
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="page view", daemon=True)
        self._thread.start()

    def follow(self, telemetry: str) -> None:
        """Show the run whose telemetry is at that address from now on."""
        with self._lock:
            self._address = telemetry

    def tell(self, values: Mapping[str, Any]) -> None:
        """Take what the teleoperation says of itself."""
        with self._lock:
            self._told = dict(values)

    def status(self) -> dict[str, Any]:
        """Return everything that is shown but images, JSON-ready."""
        with self._lock:
            silent = None if self._heard_at is None else time.monotonic() - self._heard_at
            run = {name: self._tick.get(name) for name in ("state", "cause", "drive", "speed", "tick", "tick_ms", "plan_ms")}
            out = {
                "run": run if silent is not None and silent < _SILENT_S else None,
                "robot": self._info.get("robot", ""),
                "joints": self._info.get("joints") or [],
                "readings": self._readings,
                "cameras": sorted(self.images),
                "teleop": self._told,
                "lost": self.lost,
            }
            return plain(out)

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join(10)

    def _work(self) -> None:
        subscription, followed = None, ""
        while not self._closing.is_set():
            with self._lock:
                address = self._address
            if address != followed:
                if subscription is not None:
                    subscription.close()
                subscription, followed = self._subscribe(address), address
            if subscription is None:
                self._closing.wait(0.05)
                continue
            self._drain(subscription)
        if subscription is not None:
            subscription.close()

    def _subscribe(self, address: str) -> Subscription | None:
        with self._lock:
            self._info, self._tick, self._readings, self.images, self._heard_at = {}, {}, {}, {}, None
        try:
            return Subscription(address, image_rate_hz=self._rate) if address else None
        except InputError:  # an address that is none: there is nothing to show
            return None

    def _drain(self, subscription: Subscription) -> None:
        """Take in everything that has come, then make the newest image of each camera."""
        newest: dict[str, np.ndarray] = {}
        record = subscription.poll(0.02)
        until = time.monotonic() + 0.1
        while record is not None:
            self._take(record, newest)
            record = subscription.poll(0.0) if time.monotonic() < until else None
        self.lost = subscription.lost
        for name, image in newest.items():
            if name in self.images or len(self.images) < _CAMERAS:
                self._count += 1
                self.images[name] = self._count, jpeg(image, self._quality)
                self._changed()

    def _take(self, record: Record, newest: dict[str, np.ndarray]) -> None:
        values = record.values
        with self._lock:
            self._heard_at = time.monotonic()
            if record.kind == "info":
                self._info, self.latch = values, str(values.get("latch", ""))
            elif record.kind == "tick":
                self._tick = values
            elif record.kind == "observation":
                self._readings = {name: value for name, value in values.items() if isinstance(value, np.ndarray) and value.ndim <= 1}
            elif record.kind == "image" and values["image"].shape[2] in (1, 3):
                newest[values["name"][:_TEXT]] = values["image"]


def jpeg(image: np.ndarray, quality: int) -> bytes:
    """Return an image (H, W, 3) or (H, W, 1) uint8 as JPEG; one that is too large for a page is made smaller."""
    from PIL import Image

    step = math.ceil(max(image.shape[:2]) / _LARGEST)
    image = image[::step, ::step]
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(out, "JPEG", quality=quality)
    return out.getvalue()


def plain(value: Any) -> Any:
    """Return ``value`` as JSON knows it: what is not finite is nothing, long texts and vectors are cut, what is unknown is a text."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float | np.integer | np.floating):
        number = float(value)
        return None if not math.isfinite(number) else int(value) if isinstance(value, int | np.integer) else round(number, 6)
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value.reshape(-1)[:_ELEMENTS].tolist()]
    if isinstance(value, Mapping):
        return {str(name)[:_TEXT]: plain(v) for name, v in list(value.items())[:_ELEMENTS]}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value[:_ELEMENTS]]
    return str(value)[:_TEXT]
