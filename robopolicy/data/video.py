"""Camera streams as MP4 files: encoded in a background thread while recording, decoded once for training.

H.264 (libx264) by default, a key frame every second frame so that any frame is found quickly. Two encoders are known;
AV1 (libsvtav1, LeRobot's default) makes smaller files and takes about twice as long. One encoder thread, so that
equal frames give equal bytes on every machine with the same encoder.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError, suggest
from policies.statistics import RunningStats, Stats

#: Encoder -> (codec name in info.json, options).
ENCODERS = {
    # mbtree looks ahead over many frames, which two-frame groups have no use for; its vector code reads memory it never
    # set when images are small, so equal frames would give other bytes now and then
    "libx264": ("h264", {"crf": "18", "preset": "veryfast", "g": "2", "x264-params": "mbtree=0"}),
    "libsvtav1": ("av1", {"crf": "30", "preset": "12", "g": "2", "svtav1-params": "lp=1"}),
}
_OPTIONS = ("crf", "preset", "g", "tune")  # what a recording may choose
_QUEUE = 64  # frames that may wait for the encoder
_STATS_SIDE = 160  # px: larger images are strided down to about this for their statistics


def choose_encoder(wanted: str | None = None) -> str:
    """Return ``wanted``, or the first encoder that the installed ffmpeg has.

    Raises:
        InputError: if there is none, or ``wanted`` is unknown or missing.
    """
    import av

    if wanted is not None and wanted not in ENCODERS:
        raise InputError(f"video encoder {wanted!r} is unknown{suggest(wanted, ENCODERS)}")
    for name in [wanted] if wanted else ENCODERS:
        try:
            av.Codec(name, "w")
        except ValueError:
            continue
        return name
    raise InputError(f"the installed av package has no encoder {wanted or ' or '.join(ENCODERS)}: install its wheel from PyPI (pip install av)")


def codec_options(encoder: str, chosen: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the options of ``encoder`` with those ``chosen`` in the place of its own.

    Args:
        encoder: One of ``ENCODERS``.
        chosen: crf (quality: less is better), preset, g (frames from one key frame to the next), tune.

    Raises:
        InputError: for an option that cannot be chosen, or that the encoder does not take.
    """
    import av
    import av.error

    options = dict(ENCODERS[encoder][1])
    for name, value in (chosen or {}).items():
        if name not in _OPTIONS:
            raise InputError(f"codec option {name!r} cannot be chosen{suggest(name, _OPTIONS)}")
        if name in ("crf", "g") and not str(value).isdigit():
            raise InputError(f"codec option {name}: expected a whole number, found {value!r}")
        options[name] = str(value)
    if chosen:
        try:
            trial: Any = av.CodecContext.create(encoder, "w")
            trial.width, trial.height, trial.pix_fmt, trial.time_base, trial.options = 64, 64, "yuv420p", Fraction(1, 30), options
            trial.open()
        except (av.error.FFmpegError, ValueError) as error:
            told = ", ".join(f"{k} {v}" for k, v in chosen.items())
            raise InputError(f"video encoder {encoder} does not take {told}") from error
    return options


def pixel_format(height: int, width: int) -> str:
    """Return yuv420p, or yuv444p for odd sizes, which have no half-size colour planes."""
    return "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"


def describe(encoder: str, height: int, width: int, options: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what ``info.json`` says about a video made by ``encoder`` with ``options`` (its own if not given)."""
    codec, own = ENCODERS[encoder]
    options = options or own
    return {"video.codec": codec, "video.pix_fmt": pixel_format(height, width), "video.g": int(options["g"]), "video.crf": int(options["crf"])}


class VideoEncoder:
    """Encodes one camera of one episode in a thread of its own.

    Args:
        path: File to write; whole only after :meth:`close`.
        fps: Frames a second.
        shape: (H, W, 3).
        encoder: One of ``ENCODERS``.
        options: See :func:`codec_options`; None: the encoder's own.

    Attributes:
        frames: Queued so far.
        encoded: Of these, those that are encoded.
    """

    def __init__(self, path: Path, fps: float, shape: tuple[int, ...], encoder: str, options: Mapping[str, str] | None = None) -> None:
        """Start the thread."""
        self.path, self.frames, self.encoded = path, 0, 0
        self._options = dict(options or ENCODERS[encoder][1])
        self._fps, self._shape, self._encoder = fps, shape, encoder
        self._stride = max(1, min(shape[:2]) // _STATS_SIDE)
        self._stats = RunningStats((len(range(0, shape[0], self._stride)), len(range(0, shape[1], self._stride)), 3), image=True)
        self._queue: queue.Queue[np.ndarray | None] = queue.Queue(_QUEUE)
        self._error: BaseException | None = None
        self._ended = False  # the thread has taken the None that ends the stream
        self._thread = threading.Thread(target=self._work, name=f"encode {path.name}", daemon=True)
        self._thread.start()

    def put(self, frame: np.ndarray) -> None:
        """Queue a copy of ``frame`` (H, W, 3) uint8; waits while the queue is full. Raises the encoder's OSError."""
        if self._error:
            raise self._error
        self._queue.put(np.array(frame, np.uint8, order="C"))
        self.frames += 1

    def close(self) -> Stats:
        """Finish the file and return the statistics of its images. Raises the encoder's OSError."""
        self._queue.put(None)
        self._thread.join()
        if self._error:
            raise self._error
        return self._stats.result()

    def abort(self) -> None:
        """Stop and remove the file; never raises."""
        if self._thread.is_alive():
            self._error = self._error or InterruptedError()
            self._queue.put(None)
            self._thread.join()
        self.path.unlink(missing_ok=True)

    def _work(self) -> None:
        try:
            self._encode()
        except BaseException as error:  # handed to the recording thread, which raises it
            self._error = error
            while not self._ended:  # so that put() never blocks for good
                self._ended = self._queue.get() is None

    def _encode(self) -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        # buffering=0: an error of the file system appears here, not when the object is collected
        with self.path.open("wb", buffering=0) as handle:
            container = av.open(_WholeWrites(handle), "w", format="mp4")
            stream: Any = container.add_stream(self._encoder, rate=Fraction(self._fps).limit_denominator(10000), options=dict(self._options))
            stream.height, stream.width = self._shape[:2]
            stream.pix_fmt = pixel_format(*self._shape[:2])
            stream.codec_context.thread_count = 1
            while (frame := self._queue.get()) is not None:
                if self._error:
                    raise self._error
                self._stats.update(frame[None, :: self._stride, :: self._stride])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                self.encoded += 1
            self._ended = True
            container.mux(stream.encode(None))
            container.close()


class _WholeWrites:
    """A raw file whose write() takes everything or raises, as ffmpeg expects; seekable, because MP4 needs it."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.seek, self.tell = handle.seek, handle.tell

    def write(self, contents: bytes) -> int:
        view = memoryview(contents)
        done = 0
        while done < len(view):
            done += self._handle.write(view[done:])
        return done

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True


def decode(path: Path, fps: float, digest: Any = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (frame number, image (H, W, 3) uint8) of a video in order; number = round(time * fps).

    Args:
        path: The video.
        fps: Frames a second of the data set.
        digest: A ``hashlib`` object that is fed the compressed frames, which survive a change of container.

    Raises:
        InputError: if the file cannot be decoded; names it.
    """
    import av
    import av.error

    digest = digest or hashlib.sha256()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if packet.size:
                    digest.update(bytes(packet))
                frame: Any
                for frame in packet.decode():
                    yield round(float((frame.pts or 0) * frame.time_base) * fps), frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, IndexError) as error:
        raise InputError(f"{path}: cannot be decoded as video: {type(error).__name__}: {error}") from error


def count_frames(path: Path) -> int:
    """Return the number of frames of a video without decoding it. Raises InputError if it is not a whole video."""
    import av
    import av.error

    try:
        with av.open(str(path)) as container:
            return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)
    except (av.error.FFmpegError, IndexError) as error:
        raise InputError(f"{path}: cannot be read as video: {type(error).__name__}: {error}") from error


Piece = tuple[Path, int, int]  # file, first frame, number of frames


def join(pieces: Sequence[Piece], path: Path, fps: float, encoder: str | None = None) -> bool:
    """Write a video made of pieces of others, copying compressed frames as they are where that is possible.

    Args:
        pieces: What it is made of, in order; all of one size.
        path: What is written; its folder must exist.
        fps: Frames a second.
        encoder: What encodes if a piece does not begin at a key frame or the codecs differ; None: the first installed.

    Returns:
        Whether all frames were copied (False: all were encoded again).

    Raises:
        InputError: if a piece is damaged or shorter than it should be.
    """
    if _copy_packets(pieces, path, fps):
        return True
    shape: tuple[int, ...] | None = None
    writer: VideoEncoder | None = None
    try:
        for file, first, count in pieces:
            for image in _images(file, first, count, fps):
                if writer is None:
                    shape = image.shape
                    writer = VideoEncoder(path, fps, shape, choose_encoder(encoder))
                if image.shape != shape:
                    raise InputError(f"{file}: images of shape {image.shape}, expected {shape} as in the pieces before")
                writer.put(image)
        if writer is not None:
            writer.close()
    except BaseException:
        if writer is not None:
            writer.abort()
        raise
    return False


def _images(file: Path, first: int, count: int, fps: float) -> Iterator[np.ndarray]:
    found = 0
    for position, image in decode(file, fps):
        if first <= position < first + count:
            found += 1
            yield image
    if found != count:
        raise InputError(f"{file}: {found} images from frame {first} on, expected {count}")


def _copy_packets(pieces: Sequence[Piece], path: Path, fps: float) -> bool:
    import av
    import av.error

    try:
        with av.open(str(path), "w", format="mp4") as out:
            target, begin = None, 0
            for file, first, count in pieces:
                with av.open(str(file)) as source:
                    stream: Any = source.streams.video[0]
                    target = target or out.add_stream_from_template(stream)
                    if bytes(target.codec_context.extradata or b"") != bytes(stream.codec_context.extradata or b""):
                        return False
                    packets = _cut(file, [p for p in source.demux(stream) if p.size], first, count, fps)
                    if packets is None:
                        return False
                    shift = round(Fraction(begin - first) / Fraction(fps).limit_denominator(10000) / stream.time_base)
                    for packet in packets:
                        packet.stream, packet.pts, packet.dts = target, packet.pts + shift, packet.dts + shift
                        out.mux(packet)
                begin += count
    except (av.error.FFmpegError, IndexError) as error:
        raise InputError(f"{path}: the videos cannot be joined: {type(error).__name__}: {error}") from error
    return True


def _cut(file: Path, packets: list[Any], first: int, count: int, fps: float) -> list[Any] | None:
    """Return the packets of frames ``first`` to ``first + count - 1``, or None if they depend on others."""
    numbers = [round(float(p.pts * p.time_base) * fps) for p in packets]
    inside = [i for i, n in enumerate(numbers) if first <= n < first + count]
    if sorted(numbers[i] for i in inside) != list(range(first, first + count)):
        raise InputError(f"{file}: {len(inside)} images from frame {first} on, expected {count}")
    alone = inside[-1] - inside[0] + 1 == count and numbers[inside[0]] == first and packets[inside[0]].is_keyframe
    return packets[inside[0] : inside[-1] + 1] if alone else None
