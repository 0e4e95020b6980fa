"""ChArUco boards: drawn to be printed in their true size, and found in pictures.

The board's frame: the origin is the upper left corner of the chessboard, x runs right, y down, z into the board.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError, suggest
from robopolicy.data.atomic import write_bytes

_DICTIONARIES = tuple(f"{bits}x{bits}_{count}" for bits in (4, 5, 6, 7) for count in (50, 100, 250, 1000))
_MARGIN_MM, _POINTS_PER_MM = 10.0, 72 / 25.4
_FEWEST = 6  # corners: fewer say too little of a pose


@dataclass(frozen=True)
class Corners:
    """Corners of a board in one picture.

    Attributes:
        ids: (n,) int64 numbers of the corners, rising.
        points: (n, 2) float64 px; the centre of the upper left pixel is (0, 0).
    """

    ids: np.ndarray
    points: np.ndarray


@dataclass(frozen=True)
class Board:
    """A ChArUco board.

    Attributes:
        columns, rows: Squares.
        square_m, marker_m: Sides of a square and of the marker in it, m.
        dictionary: Of the markers: ``BITSxBITS_COUNT``.

    Raises:
        InputError: for a board that cannot be.
    """

    columns: int = 7
    rows: int = 5
    square_m: float = 0.03
    marker_m: float = 0.022
    dictionary: str = "5x5_100"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.columns < 3 or self.rows < 3:
            raise InputError(f"board: expected at least 3x3 squares, found {self.columns}x{self.rows}")
        if not 0 < self.marker_m < self.square_m:
            raise InputError(f"board: markers of {1e3 * self.marker_m:g} mm do not fit into squares of {1e3 * self.square_m:g} mm")
        if self.dictionary not in _DICTIONARIES:
            raise InputError(f"board: dictionary {self.dictionary!r} is unknown{suggest(self.dictionary, _DICTIONARIES)}")
        if self.columns * self.rows // 2 > int(self.dictionary.rpartition("_")[2]):
            raise InputError(f"board: {self.columns}x{self.rows} squares need more markers than {self.dictionary} has")

    @classmethod
    def parse(cls, text: str) -> Board:
        """Return the board of ``COLUMNSxROWS:SQUARE:MARKER[:DICTIONARY]``, sides in mm, e.g. ``7x5:30:22``. Raises InputError."""
        found = re.fullmatch(r"(\d+)x(\d+):([\d.]+):([\d.]+)(?::(\w+))?", text)
        if not found:
            raise InputError(f"board {text!r}: expected COLUMNSxROWS:SQUARE:MARKER in mm, e.g. 7x5:30:22 or 7x5:30:22:5x5_100")
        columns, rows, square, marker, dictionary = found.groups()
        try:
            return cls(int(columns), int(rows), 1e-3 * float(square), 1e-3 * float(marker), dictionary or "5x5_100")
        except ValueError as error:
            raise InputError(str(error)) from error

    @property
    def text(self) -> str:
        """What :meth:`parse` reads."""
        return f"{self.columns}x{self.rows}:{1e3 * self.square_m:g}:{1e3 * self.marker_m:g}:{self.dictionary}"

    @property
    def size_m(self) -> tuple[float, float]:
        """Width and height, m."""
        return self.columns * self.square_m, self.rows * self.square_m

    @property
    def corners(self) -> np.ndarray:
        """(n, 3) float64, m: the inner corners by their numbers, in the board's frame."""
        across, down = np.meshgrid(np.arange(1, self.columns), np.arange(1, self.rows))
        return np.stack([across.ravel(), down.ravel(), np.zeros(across.size)], axis=1) * self.square_m

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the attributes."""
        return asdict(self)

    def picture(self, square_px: int, margin_px: int = 0) -> np.ndarray:
        """Return the board drawn, (H, W) uint8, with a white margin."""
        size = self.columns * square_px + 2 * margin_px, self.rows * square_px + 2 * margin_px
        return self._charuco.generateImage(size, marginSize=margin_px)

    def detect(self, picture: np.ndarray) -> Corners | None:
        """Return the corners that are seen in ``picture`` (H, W, 3) or (H, W) uint8; None if there are too few to say anything."""
        import cv2

        grey = picture if picture.ndim == 2 else cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        points, ids, _, _ = self._detector.detectBoard(grey)
        if ids is None or len(ids) < _FEWEST:
            return None
        numbers, found = ids.ravel().astype(np.int64), points.reshape(-1, 2).astype(np.float64)
        across, down = numbers % (self.columns - 1), numbers // (self.columns - 1)
        if len(set(across.tolist())) < 2 or len(set(down.tolist())) < 2:  # on one line: no plane
            return None
        order = np.argsort(numbers)
        return Corners(numbers[order], found[order])

    def save(self, path: str | Path) -> None:
        """Draw the board in its true size to be printed at 100 %: ``.pdf``, or ``.png`` with its resolution (300 dpi) noted.

        Raises:
            InputError: for another ending, or a file that cannot be written.
        """
        path = Path(path)
        if path.suffix not in (".pdf", ".png"):
            raise InputError(f"board {path}: expected a name that ends in .pdf or .png")
        try:
            write_bytes(path, self._pdf() if path.suffix == ".pdf" else self._png())
        except OSError as error:
            raise InputError(f"board {path}: cannot be written: {error.strerror or error}") from error

    @cached_property
    def _charuco(self) -> Any:
        import cv2

        bits, _, count = self.dictionary.partition("_")
        markers = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{bits.upper()}_{count}"))
        return cv2.aruco.CharucoBoard((self.columns, self.rows), self.square_m, self.marker_m, markers)

    @cached_property
    def _detector(self) -> Any:
        import cv2

        return cv2.aruco.CharucoDetector(self._charuco)

    def _png(self) -> bytes:
        import cv2

        square = round(self.square_m / 0.0254 * 300)
        done, body = cv2.imencode(".png", self.picture(square, square // 2))
        assert done
        per_metre = round(square / self.square_m)
        chunk = b"pHYs" + per_metre.to_bytes(4, "big") * 2 + b"\x01"
        raw = body.tobytes()
        header = 8 + 25  # the signature and the first chunk
        return raw[:header] + (9).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + raw[header:]

    def _pdf(self) -> bytes:
        """Return a page as large as the board and a margin, with one picture on it and a line that says what to check."""
        square = 100
        image = self.picture(square)
        width, height = (1e3 * side * _POINTS_PER_MM for side in self.size_m)
        margin = _MARGIN_MM * _POINTS_PER_MM
        line = f"ChArUco {self.text}: print at 100 %, a square must measure {1e3 * self.square_m:g} mm"
        draw = f"q {width:.4f} 0 0 {height:.4f} {margin:.4f} {margin:.4f} cm /Im0 Do Q BT /F1 7 Tf {margin:.4f} {margin / 3:.4f} Td ({line}) Tj ET"
        pixels = zlib.compress(image.tobytes(), 9)
        form = f"/Width {image.shape[1]} /Height {image.shape[0]} /ColorSpace /DeviceGray /BitsPerComponent 8 /Interpolate false /Filter /FlateDecode"
        bodies = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width + 2 * margin:.4f} {height + 2 * margin:.4f}] /Contents 4 0 R "
            "/Resources << /XObject << /Im0 5 0 R >> /Font << /F1 6 0 R >> >> >>".encode(),
            f"<< /Length {len(draw)} >>\nstream\n{draw}\nendstream".encode(),
            f"<< /Type /XObject /Subtype /Image {form} /Length {len(pixels)} >>\nstream\n".encode() + pixels + b"\nendstream",
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
        out, places = bytearray(b"%PDF-1.4\n"), []
        for number, body in enumerate(bodies, 1):
            places.append(len(out))
            out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
        start = len(out)
        out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(bodies) + 1) + b"".join(b"%010d 00000 n \n" % place for place in places)
        out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(bodies) + 1, start)
        return bytes(out)
