"""kill -9 at random points of a recording: every committed episode is intact, what is left over is told and removed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies.spec import InputError
from robopolicy.data import layout
from robopolicy.data.check import check
from robopolicy.data.dataset import Dataset
from robopolicy.data.episodes import read_tasks, write_tasks
from robopolicy.data.lock import FolderLock
from robopolicy.data.recover import recover
from tests.robopolicy import recording
from tests.robopolicy.recording import CAMERA, record

ROOT = Path(__file__).resolve().parents[2]


def kill_while_recording(root: Path, images: bool, episodes: int, seconds: float) -> int:
    """Record in a subprocess, kill -9 it ``seconds`` after it reported ``episodes``; return how many it had reported."""
    command = [sys.executable, "-m", "tests.robopolicy.recording", str(root), "images" if images else "state"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(1 + episodes)]  # "ready N", "saved N", ...
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines()
    return max(int(line.split()[1]) for line in lines)


def assert_intact(root: Path, reported: int, images: bool) -> int:
    """Assert that all reported episodes (and at most one more) are there, equal to what was recorded; return how many."""
    total = int(layout.read_info(root)["total_episodes"])
    assert reported <= total <= reported + 1
    if total:
        recording.check_contents(Dataset.open(root), total, images)
        report = check(root)
        assert report.ok, report.problems
    else:
        with pytest.raises(InputError, match="no episodes"):
            Dataset.open(root)
    done = recover(root)
    assert done.episodes == total and not list(root.rglob("*.tmp"))
    assert recover(root).removed == ()
    if total:
        report = check(root)
        assert report.ok and not report.notes, report
        stats = json.loads((root / layout.STATS).read_text())
        assert stats["action"]["count"] == [int(layout.read_info(root)["total_frames"])]
    return total


def kills(root: Path, count: int, seed: int) -> None:
    """Kill ``count`` recordings, each continuing the one before; every second set has cameras."""
    rng = random.Random(seed)
    for images in (False, True):
        folder, total = root / f"images-{images}", 0
        for n in range(count // 2):
            moment = 1 if n == 0 else rng.randrange(3), rng.uniform(0, 0.15)  # an episode takes about 0.05 s
            total = assert_intact(folder, kill_while_recording(folder, images, *moment), images)
        assert total > 0
        recording.check_contents(Dataset.open(record(folder, total + 1, images)), total + 1, images)


def test_kill_at_random_points(tmp_path: Path) -> None:
    kills(tmp_path, 8, seed=1)


@pytest.mark.soak
def test_kill_at_fifty_random_points(tmp_path: Path) -> None:
    kills(tmp_path, 50, seed=2)


def test_killed_between_any_two_steps_of_a_commit(tmp_path: Path) -> None:
    """The state after each renaming of a commit, rebuilt from the files: only info.json makes the episode exist."""
    record(tmp_path / "two", 2, images=True)
    record(tmp_path / "three", 3, images=True)
    steps = [
        "data/chunk-000/file-002.parquet",
        f"videos/{CAMERA}/chunk-000/file-002.mp4",
        "meta/episodes/chunk-000/file-002.parquet",
        layout.STATS,
        layout.INFO,
    ]
    for done in range(1, len(steps) + 1):
        root = tmp_path / f"step{done}"
        shutil.copytree(tmp_path / "two", root)
        for step in steps[:done]:
            shutil.copy(tmp_path / "three" / step, root / step)
        (root / "meta/info.json.tmp").write_text("{")
        expected = 3 if done == len(steps) else 2
        dataset = Dataset.open(root)
        recording.check_contents(dataset, expected, images=True)
        assert len(dataset.leftovers) == 1 + (min(done, 3) if expected == 2 else 0)
        assert Dataset.open(root).leftovers == dataset.leftovers  # told again while they are there
        result = recover(root)
        assert len(result.removed) == len(dataset.leftovers) and result.stats_rewritten == (done == 4)
        recording.check_contents(Dataset.open(record(root, 4, images=True)), 4, images=True)


def test_the_next_recording_cleans_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = record(tmp_path / "set", 2)
    shutil.copy(root / "data/chunk-000/file-000.parquet", root / "data/chunk-000/file-002.parquet")
    record(root, 3)
    assert "removed 1 files of an interrupted recording; 2 episodes are intact" in caplog.text
    recording.check_contents(Dataset.open(root), 3)


def test_a_task_of_an_episode_that_was_never_committed_is_removed(tmp_path: Path) -> None:
    """A commit adds its task before info.json counts the episode; a kill in between leaves the task alone."""
    root = record(tmp_path / "set", 2)
    write_tasks(root, [*read_tasks(root), "stack the cubes"])
    before = check(root)
    assert before.ok and "has 1 more than info.json counts" in before.notes[0]
    assert recover(root).tasks_removed == ("stack the cubes",) and recover(root).tasks_removed == ()
    after = check(root)
    assert after.ok and not after.notes
    recording.check_contents(Dataset.open(record(root, 3)), 3)


def test_recover_waits_for_nobody(tmp_path: Path) -> None:
    root = record(tmp_path / "set", 1)
    lock = FolderLock(root)
    with pytest.raises(InputError, match="changed by another process"):
        recover(root)
    lock.release()
    assert recover(root).removed == ()


def _edit(root: Path, episode: int, column: str, change: dict[int, object]) -> None:
    path = root / f"data/chunk-000/file-{episode:03d}.parquet"
    table = pq.ParquetFile(path).read()
    values = table[column].to_pylist()
    for row, value in change.items():
        values[row] = value
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type)), path)


@pytest.mark.parametrize(
    ("column", "change", "said"),
    [
        ("frame_index", {3: 5}, "frame_index is not 0 to"),
        ("index", {0: 99}, "index is not"),
        ("timestamp", {4: 7.5}, "timestamp of frame 4 is 7.5 s, expected 0.4 s"),
        ("task_index", {2: 4}, "task_index lies outside 0 to 0"),
        ("capture_ns.top", {6: 1}, "goes back from"),
        ("action", {5: [np.nan, 0.0]}, "action is not finite in 1 frames, the first is 5"),
        ("episode_index", {1: 0}, "holds frames of episodes [0]"),
    ],
)
def test_check_finds_wrong_values(tmp_path: Path, column: str, change: dict[int, object], said: str) -> None:
    root = record(tmp_path / "set", 3)
    assert check(root).ok
    _edit(root, 1, column, change)
    report = check(root)
    assert not report.ok and any(said in p for p in report.problems) and 1 in report.damaged | {1} and 2 not in report.damaged


def test_check_lists_all_damage(tmp_path: Path) -> None:
    root = record(tmp_path / "set", 4, images=True)
    shutil.copy(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", root / f"videos/{CAMERA}/chunk-000/file-002.mp4")  # 12 images for 15 frames
    path = root / "data/chunk-000/file-001.parquet"
    path.write_bytes(path.read_bytes()[:300])
    (root / f"videos/{CAMERA}/chunk-000/file-003.mp4").unlink()
    report = check(root)
    assert report.damaged == {1, 2, 3} and len(report.problems) == 3
    assert any("not a whole parquet file" in p and "episode 1" in p for p in report.problems)
    assert any("episode 2 lacks 3 images, the first is frame 12 of 15" in p for p in report.problems)
    assert any("is missing; it holds the video of episode 3" in p for p in report.problems)


def test_check_notes_actions_beyond_the_limits_and_wrong_totals(tmp_path: Path) -> None:
    root = record(tmp_path / "set", 2)
    _edit(root, 1, "action", {0: [1.5, 0.0]})
    info = json.loads((root / layout.INFO).read_text())
    (root / layout.INFO).write_text(json.dumps(info | {"total_frames": 7, "total_tasks": 3}))
    report = check(root)
    assert "episode 1: 1 actions lie beyond the limits of the spec" in report.notes
    assert any("counts 7 frames" in p for p in report.problems) and any("counts 3 tasks" in p for p in report.problems)


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robopolicy.cli import main

    root = record(tmp_path / "set", 1)
    (tmp_path / "file").touch()
    for command in ("inspect", "check", "recover"):
        assert main(["data", command, str(root), "--json", str(tmp_path / "file/report.json")]) == 2
        error = capsys.readouterr().err.strip()
        assert "cannot be written" in error and len(error.splitlines()) == 1


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robopolicy.cli import main

    root = record(tmp_path / "set", 3)
    shutil.copy(root / "data/chunk-000/file-000.parquet", root / "data/chunk-000/file-003.parquet")
    assert main(["data", "check", str(root)]) == 0
    assert "1 files of an interrupted recording" in capsys.readouterr().out
    assert main(["data", "recover", str(root)]) == 0
    assert "removed 1 files of an interrupted recording; 3 episodes are intact" in capsys.readouterr().out
    path = root / "data/chunk-000/file-001.parquet"
    path.write_bytes(path.read_bytes()[:100])
    assert main(["data", "check", str(root), "--json", str(tmp_path / "check.json")]) == 2
    printed = capsys.readouterr()
    assert "1 problems in 1 of 3 episodes" in printed.err and "delete --episodes 1" in printed.err and "(episode 1)" in printed.out
    assert json.loads((tmp_path / "check.json").read_text())["damaged"] == [1]
    assert main(["data", "edit", str(root), "delete", "--episodes", "1"]) == 0
    assert main(["data", "check", str(root)]) == 0
