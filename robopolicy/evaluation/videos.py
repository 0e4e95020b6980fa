"""Videos of the best and the worst episodes, made by replaying their actions with rendering on.

An episode is a pure function of (task, seed, actions), so no policy runs here and what is shown is what was counted;
a replay that ends otherwise is an error of the world, and is said.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.evaluation.records import Episode
from sim.env import BatchEnv

NO_RENDERING = "no videos: this machine cannot render this task (robopolicy doctor says what it lacks)"


def choose(episodes: Sequence[Episode], count: int) -> list[tuple[str, Episode]]:
    """Return up to ``count`` best (best first) and ``count`` worst episodes (worst first) as (kind, episode), none twice."""
    ranked = sorted(episodes, key=lambda e: e.rank)
    count = min(count, (len(ranked) + 1) // 2)
    best = ranked[::-1][:count]
    worst = [e for e in ranked[:count] if e not in best]
    return [("best", e) for e in best] + [("worst", e) for e in worst]


def replay(make_env: Callable[[int], BatchEnv], episode: Episode, actions: np.ndarray) -> tuple[Iterator[np.ndarray], Callable[[], bool]]:
    """Return a stream of pictures (H, W, 3) uint8 of one episode, and what says afterwards whether it went as recorded.

    Args:
        make_env: (num_worlds) -> BatchEnv.
        episode: The record.
        actions: (length, Da) as executed.
    """
    reached: list[bool] = []

    def frames() -> Iterator[np.ndarray]:
        with contextlib.closing(make_env(1)) as env:
            env.reset(np.array([episode.seed], np.int64))
            picture = env.render()
            if picture is None:
                return
            yield picture[0].copy()
            for action in actions:
                result = env.step(action[None])
                reached.append(bool(result.info["success"][0]))
                picture = env.render()
                if picture is not None:
                    yield picture[0].copy()

    return frames(), lambda: any(reached) == episode.success


def write_mp4(path: Path, frames: Iterator[np.ndarray], rate_hz: float) -> int:
    """Encode pictures (H, W, 3) uint8 as H.264 in an MP4 that browsers start at once; returns the number of frames.

    Nothing is left at ``path`` unless the whole video was written. No file is made when there is no frame.
    """
    import av

    first = next(frames, None)
    if first is None:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    height, width = (n - n % 2 for n in first.shape[:2])  # 4:2:0 needs even sides
    count = 0
    try:
        with av.open(str(fresh), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1000), options={"crf": "26", "preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for picture in _with_first(first, frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
                container.mux(stream.encode(frame))
                count += 1
            container.mux(stream.encode())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return count


def _with_first(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def record(
    folder: Path, make_env: Callable[[int], BatchEnv], chosen: Sequence[tuple[str, Episode]], actions: Sequence[np.ndarray], rate_hz: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Write the chosen episodes to ``folder/videos``.

    Args:
        folder: The evaluation's folder.
        make_env: (num_worlds) -> BatchEnv.
        chosen: From :func:`choose`.
        actions: By episode index, (length, Da) each.
        rate_hz: Control rate, which becomes the frame rate: real time.

    Returns:
        Entries for ``Evaluation.videos``, and one line for every thing that went otherwise than asked.
    """
    videos: list[dict[str, Any]] = []
    for place, (kind, episode) in enumerate(chosen):
        file = Path("videos") / f"{place:02d}-{kind}-seed{episode.seed}.mp4"
        try:
            frames, went_as_recorded = replay(make_env, episode, actions[episode.index])
            count = write_mp4(folder / file, frames, rate_hz)
        except (OSError, RuntimeError, ImportError) as error:  # rendering and encoding are extras: the numbers stand without them
            return videos, [f"no videos: {type(error).__name__}: {' '.join(str(error).split())}"]
        if not count:
            return videos, [NO_RENDERING]
        if not went_as_recorded():
            return videos, [f"video of seed {episode.seed}: the replay did not end as the episode did; the world is not a function of seed and actions"]
        entry = {"file": file.as_posix(), "kind": kind, "index": episode.index, "seed": episode.seed, "success": episode.success}
        videos.append({**entry, "length": episode.length, "score": episode.score, "frames": count, "rate_hz": rate_hz})
    return videos, []
