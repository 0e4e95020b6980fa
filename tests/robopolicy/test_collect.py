"""Collecting with scripted experts: the same set for any number of workers, success filter, noise, continuing."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.data import layout
from robopolicy.data.check import check
from robopolicy.data.collect import collect, summary
from robopolicy.data.dataset import Dataset
from sim import registry
from tests.require import require

ROOT = Path(__file__).resolve().parents[2]


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and ".cache" not in p.parts}


def replay(dataset: Dataset, episode: int, task: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Step a fresh world with the recorded actions; return its observations (T, 2) and success (T,)."""
    env = registry.make(task, 1, max_episode_steps=steps)
    obs = env.reset(dataset.seeds[episode : episode + 1])
    states, successes = [], []
    for action in dataset.episode(episode)["action"]:
        states.append(obs["observation.state"][0].copy())
        result = env.step(action[None])
        successes.append(bool(result.info["success"][0]))
        obs = result.obs
    env.close()
    return np.stack(states), np.array(successes)


def test_any_number_of_workers_gives_the_same_files(tmp_path: Path) -> None:
    done = [collect("two-route", tmp_path / str(w), 20, workers=w, progress=False) for w in (1, 2, 3)]
    assert [(d.episodes, d.frames, d.attempts, d.failures) for d in done] == [(20, done[0].frames, 20, 0)] * 3
    files = [bytes_of(tmp_path / str(w)) for w in (1, 2, 3)]
    assert files[0] == files[1] == files[2] and len(files[0]) > 40
    assert check(tmp_path / "1").ok


def test_frames_are_what_the_simulator_does(tmp_path: Path) -> None:
    collect("two-route", tmp_path / "set", 4, seed0=7, workers=1, progress=False)
    dataset = Dataset.open(tmp_path / "set")
    assert dataset.seeds.tolist() == [7, 8, 9, 10] and dataset.success.tolist() == [1] * 4
    assert dataset.spec == registry.make("two-route").spec and dataset.tasks == ["two-route"] and dataset.fps == 10
    for e in range(4):
        frames = dataset.episode(e)
        states, successes = replay(dataset, e, "two-route", 100)
        assert np.array_equal(frames["observation.state"], states)
        assert np.array_equal(frames["next.success"].ravel(), successes)
        assert frames["next.done"].ravel().tolist() == [False] * (len(states) - 1) + [True]
        assert frames["capture_ns.observation"].ravel().tolist() == [t * 10**8 for t in range(len(states))]


def test_recording_ends_a_few_steps_after_success(tmp_path: Path) -> None:
    """Meta-World's tasks do not end at success."""
    lengths = {}
    for extra in (0, 10):
        collect("metaworld/reach", tmp_path / str(extra), 2, workers=1, progress=False, extra_steps=extra)
        dataset = Dataset.open(tmp_path / str(extra))
        for e in range(2):
            reached = dataset.episode(e)["next.success"].ravel()
            assert int(reached.argmax()) == len(reached) - 1 - extra
        lengths[extra] = np.diff(dataset.episode_starts)
    assert np.array_equal(lengths[10] - lengths[0], [10, 10])


def test_failures_are_dropped_or_kept(tmp_path: Path) -> None:
    """A time limit that only the shorter episodes meet."""
    lengths = np.diff(Dataset.open(collect("two-route", tmp_path / "all", 16, workers=1, progress=False).path).episode_starts)
    limit = int(np.median(lengths))
    assert lengths.min() < limit < lengths.max()
    kept = collect("two-route", tmp_path / "kept", 16, workers=1, progress=False, max_episode_steps=limit, only_success=False)
    dropped = collect("two-route", tmp_path / "dropped", 5, workers=1, progress=False, max_episode_steps=limit)
    good = np.flatnonzero(lengths <= limit)
    a, b = Dataset.open(kept.path), Dataset.open(dropped.path)
    assert np.flatnonzero(a.success).tolist() == good.tolist() and kept.failures == 16 - len(good) and kept.attempts == 16
    assert b.seeds.tolist() == good[:5].tolist() and b.success.all() and dropped.attempts == good[4] + 1 and dropped.failures == dropped.attempts - 5
    assert np.array_equal(b.episode(1)["action"], a.episode(int(good[1]))["action"])
    with pytest.raises(InputError, match="failed 100 times in a row"):
        collect("two-route", tmp_path / "never", 5, workers=1, progress=False, max_episode_steps=3)


def test_noise_moves_the_world_and_not_the_label(tmp_path: Path) -> None:
    for name, noise in (("clean", 0.0), ("noisy", 0.3), ("again", 0.3)):
        collect("two-route", tmp_path / name, 3, workers=1, progress=False, noise=noise)
    clean, noisy, again = (Dataset.open(tmp_path / n) for n in ("clean", "noisy", "again"))
    assert noisy.fingerprint == again.fingerprint != clean.fingerprint
    states = noisy.episode(0)["observation.state"]
    assert np.array_equal(states[0], clean.episode(0)["observation.state"][0])
    moved = np.diff(states, axis=0) * 10 - noisy.episode(0)["action"][:-1]  # what was executed beyond the label, m/s
    assert 0.15 < moved.std() < 0.45
    calm = np.diff(clean.episode(0)["observation.state"], axis=0) * 10 - clean.episode(0)["action"][:-1]
    assert calm.std() < 0.1


def test_continuing_equals_collecting_in_one_go(tmp_path: Path) -> None:
    for target in (3, 5, 5, 12):
        done = collect("two-route", tmp_path / "parts", target, workers=2, progress=False)
        assert done.episodes == target
    collect("two-route", tmp_path / "whole", 12, workers=1, progress=False)
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_killed_and_continued(tmp_path: Path) -> None:
    code = "import sys; from robopolicy.data.collect import collect; collect('two-route', sys.argv[1], 400, workers=1, progress=False)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "set")], cwd=ROOT) as process:
        while not (tmp_path / "set/data/chunk-000/file-005.parquet").exists():
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    had = int(layout.read_info(tmp_path / "set")["total_episodes"])
    assert had >= 5
    collect("two-route", tmp_path / "set", had + 3, workers=1, progress=False)
    collect("two-route", tmp_path / "whole", had + 3, workers=1, progress=False)
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "whole")


def test_other_settings_and_places_are_refused(tmp_path: Path) -> None:
    collect("two-route", tmp_path / "set", 1, workers=1, progress=False)
    with pytest.raises(InputError, match=r"collected with noise 0\.0, not 0\.5"):
        collect("two-route", tmp_path / "set", 2, workers=1, progress=False, noise=0.5)
    for value in (math.inf, math.nan):
        with pytest.raises(InputError, match=f"noise and extra steps at least 0, found 2, 1, {value}"):
            collect("two-route", tmp_path / "other", 2, workers=1, progress=False, noise=value)
    for value in (-math.inf, math.nan):
        with pytest.raises(InputError, match=f"min return: expected a finite number, found {value}"):
            collect("two-route", tmp_path / "other", 2, workers=1, progress=False, min_return=value)
    with pytest.raises(InputError, match=r"does not exist; did you mean 'two-route'"):
        collect("two-rout", tmp_path / "other", 1, workers=1, progress=False)
    for seed in (1_000_000, 2_000_000, -1):  # states that policies are chosen and reported on are not demonstrated
        with pytest.raises(InputError, match=f"seed {seed}: demonstrations have seeds 0 to 999999"):
            collect("two-route", tmp_path / "other", 1, seed0=seed, workers=1, progress=False)
    with pytest.raises(InputError, match="seed 1000000: "):
        collect("two-route", tmp_path / "last", 2, seed0=999_999, workers=1, progress=False)
    with pytest.raises(InputError, match="at least 1"):
        collect("two-route", tmp_path / "other", 0, workers=1, progress=False)
    assert not (tmp_path / "other").exists() and summary(tmp_path / "set").episodes == 1


def test_cameras(tmp_path: Path) -> None:
    require("libgl")
    settings = {"observations": "state+image", "image_size": 48, "only_success": False, "max_episode_steps": 12, "progress": False}
    one = collect("pusht", tmp_path / "one", 3, workers=1, **settings)
    two = collect("pusht", tmp_path / "two", 3, workers=2, **settings)
    a, b = Dataset.open(one.path), Dataset.open(two.path)
    assert a.fingerprint == b.fingerprint and check(one.path).ok
    env = registry.make("pusht", 1, "state+image", 48)
    first = env.reset(np.array([0]))
    camera = next(iter(a.spec.observation.image_names))
    error = a.arrays[camera][0].astype(float) - first[camera][0]
    env.close()
    assert a.arrays[camera].shape == (36, 48, 48, 3) and np.abs(error).mean() < 4


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robopolicy.cli import main

    assert main(["collect", "two-route", "-n", "2", "--out", str(tmp_path / "set"), "--workers", "1"]) == 0
    assert "2 episodes" in capsys.readouterr().out
    assert main(["collect", "two-route", "-n", "2", "--out", str(tmp_path / "set"), "--workers", "1", "--noise", "0.1"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_collection_that_kept_nothing_does_not_bind_the_next_one(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="reached a return of 100 in 100"):
            collect("two-route", tmp_path / "set", 1, workers=1, progress=False, min_return=100.0, noise=0.1)
    done = collect("classic/cartpole", tmp_path / "set", 1, workers=1, progress=False, max_episode_steps=120)  # with other fields, too
    assert done.episodes == 1 and Dataset.open(tmp_path / "set").tasks == ["classic/cartpole"]
    collect("classic/cartpole", tmp_path / "fresh", 1, workers=1, progress=False, max_episode_steps=120)
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "fresh")


@pytest.mark.parametrize("sign", ["meta", "data/chunk-000"])
def test_ctrl_c_is_one_word_whatever_the_workers_are_doing(sign: str, tmp_path: Path) -> None:
    """A terminal sends it to all processes of a command: to the server of forks, here still importing, and to the workers."""
    words = ("collect", "two-route", "--episodes", "100000", "--workers", "2", "--out", "set")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen([sys.executable, "-m", "robopolicy", *words], cwd=tmp_path, env=environment, stderr=said, start_new_session=True)
        while process.poll() is None and not (tmp_path / "set" / sign).exists():
            time.sleep(0.01)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        try:
            assert process.wait(60) == 130
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "said").read_text() == "interrupted\n"
