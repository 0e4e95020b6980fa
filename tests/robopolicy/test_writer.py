"""The recorder: layout of LeRobot v3, statistics, appending, refusals, a full disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec, SpecMismatch
from robopolicy.data import layout, video
from robopolicy.data.dataset import Dataset
from robopolicy.data.episodes import read_episodes, read_tasks
from robopolicy.data.writer import DatasetWriter
from tests.robopolicy import recording
from tests.robopolicy.recording import CAMERA, action, add_episode, length, make_spec, observation, record

ROOT = Path(__file__).resolve().parents[2]


def test_layout_is_lerobot_v3(tmp_path: Path) -> None:
    root = record(tmp_path / "set", 3, images=True)
    info = json.loads((root / "meta/info.json").read_text())
    frames = sum(length(e) for e in range(3))
    assert info["codebase_version"] == "v3.0" and info["fps"] == 10 and info["splits"] == {"train": "0:3"}
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, frames, 1)
    assert info["features"]["observation.state"] == {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]}
    assert info["features"][CAMERA]["dtype"] == "video" and info["features"][CAMERA]["info"]["video.codec"] in ("h264", "av1")
    assert info["features"]["capture_ns.top"] == {"dtype": "int64", "shape": [1], "names": None}
    table = pq.ParquetFile(root / "data/chunk-000/file-001.parquet").read()
    assert set(table.column_names) == {n for n, f in info["features"].items() if f["dtype"] != "video"}
    assert table["timestamp"].to_pylist() == [np.float32(t / 10) for t in range(length(1))]
    assert table["index"].to_pylist() == list(range(length(0), length(0) + length(1)))
    assert table["episode_index"].to_pylist() == [1] * length(1) and table["frame_index"].to_pylist() == list(range(length(1)))
    assert str(table.schema.field("observation.environment_state").type) == "float"  # one number is a plain column
    row = pq.ParquetFile(root / "meta/episodes/chunk-000/file-002.parquet").read().to_pylist()[0]
    assert (row["dataset_from_index"], row["dataset_to_index"], row["tasks"]) == (length(0) + length(1), frames, ["reach"])
    assert (row[f"videos/{CAMERA}/file_index"], row[f"videos/{CAMERA}/from_timestamp"]) == (2, 0.0)
    assert row[f"videos/{CAMERA}/to_timestamp"] == pytest.approx(length(2) / 10)
    pandas = json.loads(pq.ParquetFile(root / "meta/tasks.parquet").schema_arrow.metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"] and read_tasks(root) == ["reach"]


def test_statistics_agree_with_numpy(tmp_path: Path) -> None:
    root = record(tmp_path / "set", 4, images=True)
    state = np.concatenate([[observation(e, t)["observation.state"] for t in range(length(e))] for e in range(4)]).astype(np.float64)
    stored = json.loads((root / "meta/stats.json").read_text())
    for name, value in {"min": state.min(0), "max": state.max(0), "mean": state.mean(0), "std": state.std(0)}.items():
        np.testing.assert_allclose(stored["observation.state"][name], value, rtol=1e-6, atol=1e-7)
    assert stored["observation.state"]["count"] == [len(state)] and np.shape(stored[CAMERA]["mean"]) == (3, 1, 1)
    row = pq.ParquetFile(root / "meta/episodes/chunk-000/file-003.parquet").read().to_pylist()[0]
    last = state[-length(3) :]
    np.testing.assert_allclose(row["stats/observation.state/q90"], np.quantile(last, 0.9, axis=0), rtol=1e-6)
    assert np.shape(row[f"stats/{CAMERA}/std"]) == (3, 1, 1) and row[f"stats/{CAMERA}/count"] == [length(3)]
    images = np.stack([recording.image(3, t) for t in range(length(3))]) / 255
    np.testing.assert_allclose(np.ravel(row[f"stats/{CAMERA}/mean"]), images.mean((0, 1, 2)), rtol=1e-9)
    exact = Dataset.open(root).stats["observation.state"]
    np.testing.assert_allclose(exact["q10"], np.quantile(state, 0.1, axis=0), rtol=1e-6)


def test_spec_survives_with_units_and_limits(tmp_path: Path) -> None:
    dataset = Dataset.open(record(tmp_path / "set", 1))
    assert dataset.spec == make_spec() and dataset.spec.fingerprint() == make_spec().fingerprint()
    assert dataset.spec.action.fields["action"].kind == "velocity"


def test_appending_equals_recording_in_one_go(tmp_path: Path) -> None:
    record(tmp_path / "parts", 2, images=True)
    record(tmp_path / "parts", 4, images=True)
    parts, whole = Dataset.open(tmp_path / "parts"), Dataset.open(record(tmp_path / "whole", 4, images=True))
    recording.check_contents(parts, 4, images=True)
    assert parts.fingerprint == whole.fingerprint
    for name in ("stats.json", "info.json"):
        a, b = (json.loads((tmp_path / k / "meta" / name).read_text()) for k in ("parts", "whole"))
        assert a == b


def test_discarded_and_unsaved_episodes_leave_nothing(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "set", make_spec(True), 10.0, "none", "reach") as writer:
        add_episode(writer, 0, images=True)
        add_episode(writer, 5, images=True, save=False)
        writer.discard_episode()
        add_episode(writer, 1, images=True)
        add_episode(writer, 6, images=True, save=False)
    recording.check_contents(Dataset.open(tmp_path / "set"), 2, images=True)
    assert not list((tmp_path / "set").rglob("*.tmp")) and len(list((tmp_path / "set").rglob("*.mp4"))) == 2


def test_two_tasks(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "set", make_spec(), 10.0, "none", "reach") as writer:
        for episode, task in enumerate(("reach", "lift", "reach")):
            add_episode(writer, episode, task=task)
    dataset = Dataset.open(tmp_path / "set")
    assert dataset.tasks == ["reach", "lift"]
    assert [int(dataset.arrays["task_index"][s, 0]) for s in dataset.episode_starts[:-1]] == [0, 1, 0]


def test_matrix_fields_and_other_dtypes(tmp_path: Path) -> None:
    fields = {"observation.state": Field((2, 3)), "observation.touch": Field((2,), "bool"), "observation.clock": Field((1,), "int64")}
    spec = Spec(ObservationSpec(fields), ActionSpec({"arm": Field((2,)), "grip": Field((1,), kind="gripper")}))
    values = [np.arange(6, dtype=np.float32).reshape(2, 3) + t for t in range(5)]
    with DatasetWriter(tmp_path / "set", spec, 12.5, "none", "x") as writer:
        for t, value in enumerate(values):
            writer.add_frame({"observation.state": value, "observation.touch": np.array([t > 2, True]), "observation.clock": np.array([2**53 + t])}, np.ones(3))
        writer.save_episode()
    dataset = Dataset.open(tmp_path / "set")
    assert np.array_equal(dataset.arrays["observation.state"], values) and dataset.fps == 12.5
    assert dataset.arrays["observation.touch"][:, 0].tolist() == [False, False, False, True, True]
    assert dataset.arrays["observation.clock"].ravel().tolist() == [2**53 + t for t in range(5)]
    assert dataset.success.tolist() == [-1] and dataset.seeds.tolist() == [-1]


def _frame(**changes: object) -> dict[str, object]:
    return {"observation": observation(0, 0), "action": action(0, 0), "capture_ns": {"top": 5}, "extras": {"next.reward": 0.0}} | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"observation": {"observation.state": np.zeros(3, np.float32)}}, "observation.environment_state"),
        ({"observation": observation(0, 0) | {"observation.state": np.zeros(4, np.float32)}}, "expected shape (3,), found (4,)"),
        ({"observation": observation(0, 0) | {"observation.state": np.array([0, np.nan, 0], np.float32)}}, "observation.state holds nan"),
        ({"action": np.zeros(3)}, "expected shape (2,), found (3,)"),
        ({"action": np.array([np.inf, 0])}, "action holds inf"),
        ({"capture_ns": {"top": 1}}, "goes back from 5 to 1 ns"),
        ({"capture_ns": {"side": 6}}, "capture times of ['side'], expected ['top']"),
        ({"extras": {}}, "extras {}, expected {'next.reward': 'float32'}"),
        ({"extras": {"next.reward": np.nan}}, "next.reward is nan"),
        ({"extras": {"action": 1.0}}, "has a name that is taken"),
    ],
)
def test_bad_frames_are_refused_and_the_episode_goes_on(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with DatasetWriter(tmp_path / "set", make_spec(), 10.0, "none", "reach") as writer:
        writer.add_frame(**_frame())
        with pytest.raises(InputError) as error:
            writer.add_frame(**_frame(**changes))
        assert said in str(error.value) and "\n" not in str(error.value)
        writer.add_frame(**_frame())
        writer.save_episode()
    assert Dataset.open(tmp_path / "set").num_frames == 2


def test_other_specs_rates_and_folders_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "set", 1)
    fields = dict(make_spec().observation.fields) | {"observation.state": Field((4,))}
    with pytest.raises(SpecMismatch, match=r"observation\.state"):
        DatasetWriter(tmp_path / "set", Spec(ObservationSpec(fields, 10.0), make_spec().action), 10.0)
    with pytest.raises(SpecMismatch, match=CAMERA):
        DatasetWriter(tmp_path / "set", make_spec(images=True), 10.0)
    with pytest.raises(SpecMismatch, match="10 frames a second, the recording 20"):
        DatasetWriter(tmp_path / "set", make_spec(), 20.0)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("sun")
    (tmp_path / "file").write_text("not a folder")
    for place, told in (("file", "exists and is not a data set"), ("file/below", "cannot be begun here")):
        with pytest.raises(InputError, match=told):
            DatasetWriter(tmp_path / place, make_spec(), 10)
    with pytest.raises(InputError, match="exists and is not a data set"):
        DatasetWriter(tmp_path / "photos", make_spec(), 10.0)
    with pytest.raises(InputError, match="no frames"), DatasetWriter(tmp_path / "set", make_spec(), 10.0) as writer:
        writer.save_episode()
    assert Dataset.open(tmp_path / "set").num_episodes == 1


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "set", make_spec(), 10.0) as writer:
        add_episode(writer, 0)
        with pytest.raises(InputError, match="changed by another process"):
            DatasetWriter(tmp_path / "set", make_spec(), 10.0)
        add_episode(writer, 1)
    record(tmp_path / "set", 3)
    assert Dataset.open(tmp_path / "set").num_episodes == 3


@pytest.mark.parametrize(("kind", "limit"), [("state", 2500), ("state", 6000), ("images", 1500), ("images", 3000), ("images", 6900)])
def test_full_disk_is_one_line_and_earlier_episodes_are_intact(tmp_path: Path, kind: str, limit: int) -> None:
    """A file size limit makes writes fail as a full disk does, at several places of the recording."""
    root, images = tmp_path / "set", kind == "images"
    record(root, 2, images)
    before = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
    done = subprocess.run(
        [sys.executable, "-m", "tests.robopolicy.recording", str(root), kind, str(limit)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    kept = done.stdout.count("saved")
    assert "the disk is full" in message and f"{2 + kept} earlier episodes are intact" in message
    recording.check_contents(Dataset.open(root), 2 + kept, images)
    after = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file() and ".cache" not in p.parts)
    assert kept or after == before
    assert not read_episodes(root, layout.read_info(root)).rows[2 + kept :]
    record(root, 4 + kept, images)
    recording.check_contents(Dataset.open(root), 4 + kept, images)


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    """Whatever the process did before: memory that was used and freed must not show in a video."""
    encoder, images = video.choose_encoder(), [recording.image(3, t) for t in range(12)]
    rng, seen = np.random.default_rng(0), set()
    for n in range(40):
        junk = [np.full(int(size), n, np.uint8) for size in rng.integers(100, 3_000_000, 20)]
        del junk
        one = video.VideoEncoder(tmp_path / "one.mp4", 10.0, (recording.SIDE, recording.SIDE, 3), encoder)
        for image in images:
            one.put(image)
        one.close()
        seen.add((tmp_path / "one.mp4").read_bytes())
    assert len(seen) == 1
