"""Recordings with contents that follow from (episode, frame), so that any of them can be checked after the fact.

As a program it records without end, for tests that kill it: ``python recording.py PATH images|state [FILE_SIZE_LIMIT]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from robopolicy.data.writer import DatasetWriter

CAMERA = "observation.images.top"
SIDE = 32


def make_spec(images: bool = False) -> Spec:
    fields = {"observation.state": Field((3,), unit="m", names=("x", "y", "z")), "observation.environment_state": Field((1,))}
    if images:
        fields[CAMERA] = Field((SIDE, SIDE, 3), "uint8", "px", kind="image")
    action = Field((2,), unit="m/s", low=(-1, -1), high=(1, 1), kind="velocity", names=("vx", "vy"))
    return Spec(ObservationSpec(fields, 10.0), ActionSpec({"action": action}, 10.0), {"robot": "none"})


def length(episode: int) -> int:
    return 12 + (episode * 7) % 11


def image(episode: int, t: int) -> np.ndarray:
    out = np.full((SIDE, SIDE, 3), 40, np.uint8)
    out[:16, :16] = 10 * (t % 24)
    out[16:, 16:] = 30 + (episode * 37) % 200
    return out


def observation(episode: int, t: int, images: bool = False) -> dict[str, np.ndarray]:
    out = {
        "observation.state": np.array([episode, t, np.sin(episode + 0.1 * t)], np.float32),
        "observation.environment_state": np.array([episode * 1000 + t], np.float32),
    }
    return out | ({CAMERA: image(episode, t)} if images else {})


def action(episode: int, t: int) -> np.ndarray:
    return np.array([np.cos(0.3 * t), (episode % 7) / 7 - 0.01 * t], np.float32)


def stamp(episode: int, t: int) -> int:
    return 1_000_000_007 * (episode + 1) + 100_000_003 * t


def add_episode(writer: DatasetWriter, episode: int, images: bool = False, save: bool = True, task: str | None = None) -> None:
    for t in range(length(episode)):
        extras = {"next.reward": 0.5 * t, "next.done": t == length(episode) - 1}
        writer.add_frame(observation(episode, t, images), action(episode, t), {"top": stamp(episode, t)}, extras)
    if save:
        writer.save_episode(success=episode % 3 != 0, seed=100 + episode, task=task)


def record(path: Path, episodes: int, images: bool = False) -> Path:
    with DatasetWriter(path, make_spec(images), 10.0, "none", "reach") as writer:
        for episode in range(writer.num_episodes, episodes):
            add_episode(writer, episode, images)
    return path


def check_contents(dataset: object, episodes: int, images: bool = False) -> None:
    """Assert that every frame of the first ``episodes`` episodes is what :func:`observation` and the others say."""
    assert dataset.num_episodes == episodes
    assert dataset.episode_starts.tolist() == [0, *np.cumsum([length(e) for e in range(episodes)])]
    for e in range(episodes):
        frames = dataset.episode(e)
        steps = range(length(e))
        for name in ("observation.state", "observation.environment_state"):
            assert np.array_equal(frames[name], np.stack([observation(e, t)[name] for t in steps]))
        assert np.array_equal(frames["action"], np.stack([action(e, t) for t in steps]))
        assert frames["capture_ns.top"].ravel().tolist() == [stamp(e, t) for t in steps]
        assert frames["next.reward"].ravel().tolist() == [0.5 * t for t in steps]
        if images:
            error = frames[CAMERA].astype(int) - np.stack([image(e, t) for t in steps])
            assert np.abs(error[:, 2:14, 2:14]).max() <= 6 and np.abs(error[:, 18:30, 18:30]).max() <= 6  # lossy, away from edges
    assert dataset.success.tolist() == [int(e % 3 != 0) for e in range(episodes)]
    assert dataset.seeds.tolist() == [100 + e for e in range(episodes)]


def main() -> None:
    path, images = Path(sys.argv[1]), sys.argv[2] == "images"
    if len(sys.argv) > 3:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    with DatasetWriter(path, make_spec(images), 10.0, "none", "reach") as writer:
        print("ready", writer.num_episodes, flush=True)
        while True:
            add_episode(writer, writer.num_episodes, images)
            print("saved", writer.num_episodes, flush=True)


if __name__ == "__main__":
    main()
