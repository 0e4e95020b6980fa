"""LeRobot's own reader on what we write, and ours on what LeRobot writes: every frame, every field."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robopolicy.data import layout
from robopolicy.data.convert.conversion import convert
from robopolicy.data.dataset import Dataset
from robopolicy.data.edit import compact
from robopolicy.data.recover import recover
from tests.parity import lerobot_reader
from tests.require import require
from tests.robopolicy import recording
from tests.robopolicy.recording import CAMERA, check_contents, length, record

SCRIPT = Path(lerobot_reader.__file__)


def lerobot(*arguments: object) -> None:
    if not lerobot_reader.is_made(lerobot_reader.environment()):
        require("network")
    done = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def killed(root: Path) -> Path:
    """Record until three episodes are committed, and end the process with kill -9 inside the fourth."""
    process = subprocess.Popen(
        [sys.executable, recording.__file__, root, "images"], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(SCRIPT.parents[2])}
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == ["saved", "3"]:
            break
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return root


def killed_before_the_commit(root: Path) -> Path:
    """The worst moment: all files of the third episode have their names, info.json still counts two."""
    record(root, 2, images=True)
    before = (root / layout.INFO).read_bytes()
    record(root, 3, images=True)
    (root / layout.INFO).write_bytes(before)
    return root


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
    """Data sets that we wrote, and all that LeRobot reads from each."""
    folder = tmp_path_factory.mktemp("sets")
    roots = [record(folder / "state", 3), record(folder / "video", 3, images=True), killed(folder / "killed"), killed_before_the_commit(folder / "uncommitted")]
    repaired = Path(shutil.copytree(folder / "uncommitted", folder / "repaired"))
    recover(repaired)
    roots.append(repaired)
    compact(folder / "video", out=folder / "compact")
    convert(folder / "video", folder / "plain", target="lerobot", progress=False)
    roots += [folder / "compact", folder / "plain"]
    lerobot("read", folder, *roots)
    return {root.name: (root, dict(np.load(folder / f"{root.name}.npz", allow_pickle=False))) for root in roots}


@pytest.mark.parametrize("name,episodes", [("state", 3), ("video", 3), ("killed", None), ("uncommitted", 2), ("repaired", 2), ("compact", 3)])
def test_lerobot_reads_every_frame_that_we_wrote(ours, name, episodes):
    root, theirs = ours[name]
    dataset = Dataset.open(root)
    episodes = episodes or dataset.num_episodes
    check_contents(dataset, episodes, images=name != "state")
    assert theirs["meta.num_episodes"] == episodes and theirs["meta.num_frames"] == dataset.num_frames
    assert theirs["meta.version"] == "3.0" and theirs["meta.fps"] == 10 and theirs["meta.robot_type"] == "none"
    for field, array in dataset.arrays.items():
        found = theirs[f"frame.{field}"]
        assert found.dtype == array.dtype, field
        np.testing.assert_array_equal(found.reshape(array.shape), array, err_msg=field)
    steps = np.concatenate([np.arange(length(e)) for e in range(episodes)])
    assert np.array_equal(theirs["frame.frame_index"], steps) and np.array_equal(theirs["frame.timestamp"], (steps / 10).astype(np.float32))
    assert np.array_equal(theirs["frame.index"], np.arange(dataset.num_frames))
    assert set(theirs["frame.task"]) == {"reach"}


def test_lerobot_reads_the_plain_form(ours):
    (root, theirs), dataset = ours["plain"], Dataset.open(ours["video"][0])
    assert len(list(root.glob("data/*/*.parquet"))) == len(list(root.glob("videos/*/*/*.mp4"))) == 1
    assert not any("capture_ns" in name for name in theirs)
    for field in set(dataset.arrays) - {"capture_ns.top"}:
        np.testing.assert_array_equal(theirs[f"frame.{field}"].reshape(dataset.arrays[field].shape), dataset.arrays[field], err_msg=field)


@pytest.mark.parametrize("name", ["video", "uncommitted", "compact", "plain"])
def test_lerobot_makes_the_same_windows(ours, name):
    root, theirs = ours[name]
    dataset = Dataset.open(root)
    episode = np.searchsorted(dataset.episode_starts, np.arange(dataset.num_frames), side="right") - 1
    first, last = dataset.episode_starts[episode], dataset.episode_starts[episode + 1] - 1
    for field, offsets in (("observation.state", (-1, 0)), (CAMERA, (-1, 0)), ("action", (0, 1, 2, 3))):
        rows = np.arange(dataset.num_frames)[:, None] + np.array(offsets)
        clamped = np.clip(rows, first[:, None], last[:, None])  # edge replication, as in Diffusion Policy
        np.testing.assert_array_equal(theirs[f"frame.delta.{field}"], dataset.arrays[field][clamped], err_msg=field)
        np.testing.assert_array_equal(theirs[f"frame.delta.{field}_is_pad"], rows != clamped, err_msg=field)


def test_lerobot_reads_our_statistics(ours):
    _, theirs = ours["video"]
    stats = Dataset.open(ours["video"][0]).stats
    for field in ("observation.state", "action", CAMERA, "capture_ns.top"):
        for name in ("min", "max", "mean", "std", "count"):
            found, expected = theirs[f"meta.stats.{field}.{name}"], stats[field][name]
            assert found.shape == expected.shape, (field, name)
            if field != CAMERA:  # of a video: taken before it was compressed
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=f"{field} {name}")
    assert np.abs(theirs[f"meta.stats.{CAMERA}.mean"] - stats[CAMERA]["mean"]).max() < 0.02


def test_we_read_every_frame_that_lerobot_wrote(tmp_path):
    random = np.random.default_rng(0)
    lengths, tasks = [6, 9, 7], ["pick up", "put down", "pick up"]
    frames = sum(lengths)
    images = np.stack([recording.image(e, t) for e, n in enumerate(lengths) for t in range(n)])
    arrays = {
        "observation.state": random.normal(size=(frames, 3)).astype(np.float32),
        "observation.environment_state": random.normal(size=(frames, 2)).astype(np.float32),
        CAMERA: images,
        "action": random.normal(size=(frames, 2)).astype(np.float32),
    }
    np.savez(tmp_path / "in.npz", fps=10, lengths=lengths, tasks=tasks, **arrays)
    lerobot("write", tmp_path / "theirs", tmp_path / "in.npz")
    dataset = Dataset.open(tmp_path / "theirs")
    assert dataset.episode_starts.tolist() == [0, 6, 15, 22] and dataset.fps == 10
    for field in ("observation.state", "observation.environment_state", "action"):
        np.testing.assert_array_equal(dataset.arrays[field], arrays[field], err_msg=field)
    assert [dataset.tasks[i] for i in dataset.arrays["task_index"].ravel()] == [t for t, n in zip(tasks, lengths, strict=True) for _ in range(n)]
    convert(tmp_path / "theirs", tmp_path / "adopted", progress=False)
    lerobot("read", tmp_path, tmp_path / "theirs", tmp_path / "adopted")
    theirs, adopted = (np.load(tmp_path / f"{name}.npz", allow_pickle=False) for name in ("theirs", "adopted"))
    for name in (n for n in theirs.files if n.startswith("frame.")):
        np.testing.assert_array_equal(adopted[name], theirs[name], err_msg=name)
    np.testing.assert_array_equal(dataset.arrays[CAMERA], theirs[f"frame.{CAMERA}"])
    assert np.abs(dataset.arrays[CAMERA].astype(int) - images)[:, 2:14, 2:14].max() <= 8  # lossy, away from edges
    assert dataset.spec.action.dim == 2 and dataset.spec.observation.fields[CAMERA].is_image
    assert json.loads((tmp_path / "theirs" / layout.INFO).read_text())["codebase_version"] == "v3.0"
