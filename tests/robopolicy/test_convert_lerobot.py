"""LeRobot sets rewritten: merged and stripped without changing a number or a pixel, appended to, versions 2 and 3."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies.spec import InputError
from robopolicy.data import layout, rewrite
from robopolicy.data.check import check
from robopolicy.data.convert.conversion import convert
from robopolicy.data.convert.source import SourceOptions
from robopolicy.data.dataset import Dataset
from robopolicy.data.edit import relabel
from robopolicy.data.episodes import write_tasks
from robopolicy.data.writer import DatasetWriter
from tests.require import require
from tests.robopolicy.recording import CAMERA, action, add_episode, check_contents, image, length, observation, record


def names(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in layout.content_files(root))


def same(a: Path, b: Path, but: tuple[str, ...] = ()) -> None:
    first, second = Dataset.open(a), Dataset.open(b)
    assert set(first.arrays) - set(second.arrays) == set(but) and not set(second.arrays) - set(first.arrays)
    for field, array in second.arrays.items():
        np.testing.assert_array_equal(array, first.arrays[field], err_msg=field)
    assert np.array_equal(first.episode_starts, second.episode_starts) and first.tasks == second.tasks


def foreign(root: Path, episodes: int = 3, images: bool = True) -> Path:
    """A set as another program writes it: no file of ours."""
    record(root, episodes, images)
    convert(root, root.with_name(f"{root.name}-plain"), target="lerobot", progress=False)
    return root.with_name(f"{root.name}-plain")


def test_plain_form_is_merged_and_has_nothing_of_ours(tmp_path):
    root = record(tmp_path / "ours", 4, images=True)
    summary = convert(root, tmp_path / "plain", "lerobot", "lerobot", progress=False)
    assert summary.episodes == 4 and summary.notes == ("'capture_ns.top' was left out: capture times are no part of the plain format",)
    assert names(tmp_path / "plain") == [
        f"{p}/chunk-000/file-000.{e}" for p, e in (("data", "parquet"), ("meta/episodes", "parquet"), (f"videos/{CAMERA}", "mp4"))
    ]
    assert not (tmp_path / "plain" / layout.OWN).exists() and check(tmp_path / "plain").ok
    text = (tmp_path / "plain" / layout.INFO).read_text() + (tmp_path / "plain" / layout.STATS).read_text()
    columns = pq.ParquetFile(layout.episodes_file(tmp_path / "plain", (0, 0))).schema_arrow.names
    assert layout.CAPTURE not in text and not any(layout.CAPTURE in c or c in ("success", "seed") for c in columns)
    same(root, tmp_path / "plain", ("capture_ns.top",))
    assert json.loads((root / layout.INFO).read_text())["total_episodes"] == 4  # the source is as it was


def test_our_own_sets_keep_everything(tmp_path):
    root = record(tmp_path / "ours", 4, images=True)
    convert(root, tmp_path / "copy", progress=False)
    same(root, tmp_path / "copy")
    assert Dataset.open(tmp_path / "copy").fingerprint == Dataset.open(root).fingerprint
    check_contents(Dataset.open(tmp_path / "copy"), 4, images=True)
    assert check(tmp_path / "copy").ok and len(names(tmp_path / "copy")) == 3


@pytest.mark.parametrize("images", [False, True])
def test_a_foreign_set_can_be_appended_to_after_conversion(tmp_path, images):
    plain = foreign(tmp_path / "a", images=images)
    convert(plain, tmp_path / "b", progress=False)
    spec = Dataset.open(tmp_path / "b").spec
    with DatasetWriter(tmp_path / "b", spec, 10.0, "none", "reach") as writer:
        for t in range(length(3)):
            writer.add_frame(observation(3, t, images), action(3, t), None, {"next.reward": 0.5 * t, "next.done": t == length(3) - 1})
        writer.save_episode()
    dataset = Dataset.open(tmp_path / "b")
    assert dataset.num_episodes == 4 and check(tmp_path / "b").ok
    assert np.array_equal(dataset.episode(3)["action"], np.stack([action(3, t) for t in range(length(3))]))
    first = Dataset.open(plain)
    assert all(np.array_equal(dataset.arrays[n][: first.num_frames], a) for n, a in first.arrays.items())


def test_leftovers_of_an_interrupted_recording_are_left_behind(tmp_path):
    root = record(tmp_path / "a", 2, images=True)
    before = (root / layout.INFO).read_bytes()
    record(root, 3, images=True)
    (root / layout.INFO).write_bytes(before)
    convert(root, tmp_path / "b", progress=False)
    check_contents(Dataset.open(tmp_path / "b"), 2, images=True)
    assert check(tmp_path / "b").ok


def test_files_are_merged_up_to_the_sizes_of_the_format(tmp_path, monkeypatch):
    root = record(tmp_path / "a", 6, images=True)
    sizes = sorted(p.stat().st_size for p in root.glob("videos/*/*/*.mp4"))
    monkeypatch.setattr(rewrite, "VIDEO_BYTES", 2 * sizes[-1])
    monkeypatch.setattr(rewrite, "DATA_BYTES", 3000)
    convert(root, tmp_path / "b", progress=False)
    videos, frames = (sorted((tmp_path / "b").glob(p)) for p in ("videos/*/*/*.mp4", "data/*/*.parquet"))
    assert 2 <= len(videos) < 6 and 2 <= len(frames) < 6
    same(root, tmp_path / "b")
    assert check(tmp_path / "b").ok


def test_videos_of_several_codecs_are_encoded_again_and_it_is_said(tmp_path):
    root = record(tmp_path / "a", 2, images=True)
    own = json.loads((root / layout.OWN).read_text())
    (root / layout.OWN).write_text(json.dumps(own | {"encoder": "libsvtav1"}))
    record(root, 4, images=True)
    summary = convert(root, tmp_path / "b", progress=False)
    assert summary.notes == ("1 videos had to be encoded again: their parts are of different kinds or not cut at key frames",)
    first, second = Dataset.open(root), Dataset.open(tmp_path / "b")
    assert np.array_equal(first.arrays["action"], second.arrays["action"])
    error = np.abs(second.arrays[CAMERA].astype(int) - first.arrays[CAMERA])
    assert error[:, 2:14, 2:14].max() <= 6 and error[:, 18:30, 18:30].max() <= 6  # lossy, away from edges


def test_several_tasks_and_odd_rates(tmp_path):
    from tests.robopolicy.recording import make_spec

    with DatasetWriter(tmp_path / "a", make_spec(True), 12.5, "none", "reach") as writer:
        for episode in range(5):
            add_episode(writer, episode, True, task=("reach", "push")[episode % 2])
    convert(tmp_path / "a", tmp_path / "b", progress=False)
    same(tmp_path / "a", tmp_path / "b")
    assert Dataset.open(tmp_path / "b").tasks == ["reach", "push"] and Dataset.open(tmp_path / "b").fps == 12.5


def test_columns_that_cannot_be_appended_to_are_left_out(tmp_path):
    plain = foreign(tmp_path / "a", images=False)
    info, file = json.loads((plain / layout.INFO).read_text()), layout.data_file(plain, (0, 0))
    table = pq.ParquetFile(file).read()
    n = table.num_rows
    added = {
        "torque": (pa.array(np.arange(3.0 * n).reshape(n, 3).tolist(), pa.list_(pa.float64())), {"dtype": "float64", "shape": [3], "names": None}),
        "remark": (pa.array(["well"] * n), {"dtype": "string", "shape": [1], "names": None}),
    }
    for name, (column, entry) in added.items():
        table, info["features"][name] = table.append_column(name, column), entry
    where = table.column_names.index("action")
    pq.write_table(table.set_column(where, "action", table["action"].cast(pa.list_(pa.float64(), 2))), file)
    info["features"]["action"]["dtype"] = "float64"
    (plain / layout.INFO).write_text(json.dumps(info))
    summary = convert(plain, tmp_path / "b", progress=False)
    assert summary.notes == (
        "'torque' was left out: float64[3] is not one number a frame",
        "'remark' was left out: text and depth videos are not read",
        "'action' was float64, is float32 now",
    )
    with DatasetWriter(tmp_path / "b", Dataset.open(tmp_path / "b").spec, 10.0) as writer:
        for t in range(3):
            writer.add_frame(observation(9, t), action(9, t), None, {"next.reward": 0.0, "next.done": t == 2})
        writer.save_episode()
    dataset = Dataset.open(tmp_path / "b")
    assert check(tmp_path / "b").ok and dataset.num_episodes == 4
    assert np.array_equal(dataset.episode(1)["action"], np.stack([action(1, t) for t in range(length(1))]))
    convert(plain, tmp_path / "c", target="lerobot", progress=False)
    same(plain, tmp_path / "c")  # the plain form keeps them
    assert {"torque", "remark"} <= set(layout.read_info(tmp_path / "c")["features"])


def declared(root: Path, name: str, **entry) -> Path:
    """Say something else of a feature of a set."""
    info = json.loads((root / layout.INFO).read_text())
    info["features"][name] |= entry
    (root / layout.INFO).write_text(json.dumps(info))
    return root


def test_channels_first_and_single_numbers_take_the_form_of_a_recording(tmp_path):
    plain = declared(foreign(tmp_path / "a"), CAMERA, shape=[3, 32, 32], names=["channels", "height", "width"])
    declared(plain, "observation.environment_state", shape=[])
    convert(plain, tmp_path / "b", progress=False)
    assert check(tmp_path / "b").problems == []
    same(plain, tmp_path / "b")
    with DatasetWriter(tmp_path / "b", Dataset.open(tmp_path / "b").spec, 10.0) as writer:
        writer.add_frame(observation(3, 0, True), action(3, 0), None, {"next.reward": 0.0, "next.done": True})
        writer.save_episode()
    assert check(tmp_path / "b").problems == [] and Dataset.open(tmp_path / "b").num_episodes == 4


@pytest.mark.parametrize("kind", ["action", "image", "number"])
def test_an_edited_set_of_another_program_is_whole_and_stays_one(tmp_path, kind):
    """Where it stores what a recording stores otherwise: to record into it would lose the episode at its end."""
    plain = foreign(tmp_path / "a", images=False)
    if kind == "image":
        require("libgl")
        with_single_images(plain)
    elif kind == "number":
        declared(plain, "observation.environment_state", shape=[])
    else:
        file = layout.data_file(declared(plain, "action", dtype="float64"), (0, 0))
        table = pq.ParquetFile(file).read()
        pq.write_table(table.set_column(table.column_names.index("action"), "action", table["action"].cast(pa.list_(pa.float64(), 2))), file)
    relabel(plain, [1], success=True)
    assert check(plain).problems == [] and Dataset.open(plain).success.tolist() == [-1, 1, -1]
    with pytest.raises(InputError, match=r"was recorded by another program; convert it with `robopolicy data convert`"):
        DatasetWriter(plain, Dataset.open(plain).spec, 10.0)


# ---- images one by one


def png(array: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def with_single_images(root: Path) -> Path:
    """Put the images of a plain set into its parquet file, as LeRobot does with ``use_videos=False``."""
    info = json.loads((root / layout.INFO).read_text())
    file = layout.data_file(root, (0, 0))
    table = pq.ParquetFile(file).read()
    pixels = [{"bytes": png(image(e, t)), "path": f"frame-{t:06d}.png"} for e in range(info["total_episodes"]) for t in range(length(e))]
    column = pa.array(pixels, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(table.append_column(CAMERA, column), file)
    info["features"][CAMERA] = {"dtype": "image", "shape": [32, 32, 3], "names": ["height", "width", "channels"]}
    (root / layout.INFO).write_text(json.dumps(info))
    return root


def test_single_images_become_video(tmp_path):
    require("libgl")
    plain = with_single_images(foreign(tmp_path / "a", images=False))
    summary = convert(plain, tmp_path / "b", progress=False)
    assert summary.notes == (f"images were stored one by one, are video now: {CAMERA}",)
    first, second = Dataset.open(plain), Dataset.open(tmp_path / "b")
    assert np.array_equal(first.arrays[CAMERA], np.stack([image(e, t) for e in range(3) for t in range(length(e))]))
    for field in set(first.arrays) - {CAMERA}:
        np.testing.assert_array_equal(second.arrays[field], first.arrays[field], err_msg=field)
    error = np.abs(second.arrays[CAMERA].astype(int) - first.arrays[CAMERA])
    assert error[:, 2:14, 2:14].max() <= 6 and error[:, 18:30, 18:30].max() <= 6  # lossy, away from edges
    convert(plain, tmp_path / "c", target="lerobot", progress=False)
    same(plain, tmp_path / "c")  # the plain form keeps them as they are


def test_what_single_images_leave_behind_is_named(tmp_path):
    require("libgl")
    plain = with_single_images(foreign(tmp_path / "a", images=False))
    file, info = layout.data_file(plain, (0, 0)), json.loads((plain / layout.INFO).read_text())
    table = pq.ParquetFile(file).read()
    tasks = table["task_index"].to_pylist()
    tasks[2] = 1  # of the first episode
    table = table.set_column(table.column_names.index("task_index"), "task_index", pa.array(tasks, pa.int64()))
    pq.write_table(table.append_column("said", pa.array(["now"] * len(table))), file)
    write_tasks(plain, ["reach", "rest"])
    info["features"]["said"] = {"dtype": "string", "shape": [1], "names": None}
    (plain / layout.INFO).write_text(json.dumps(info | {"total_tasks": 2}))
    notes = convert(plain, tmp_path / "b", progress=False).notes
    assert "'said' was left out: text and depth videos are not read" in notes
    assert "episode 0 has 2 tasks; the first stands for all of it: 'reach'" in notes and len(notes) == 3


# ---- version 2


def version_2(plain: Path, root: Path, version: str = "v2.1") -> Path:
    """Lay a set of ours out as version 2: a parquet and an MP4 an episode, tables as JSON lines."""
    info = json.loads((plain / layout.INFO).read_text())
    table = [r for p in sorted((plain / "meta/episodes").glob("*/*.parquet")) for r in pq.ParquetFile(p).read().to_pylist()]
    for row in table:
        e, number = row["episode_index"], (row["data/chunk_index"], row["data/file_index"])
        for old, new in (
            (layout.data_file(plain, number), root / f"data/chunk-000/episode_{e:06d}.parquet"),
            (layout.video_file(plain, CAMERA, number), root / f"videos/chunk-000/{CAMERA}/episode_{e:06d}.mp4"),
        ):
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(old.read_bytes())
    (root / "meta").mkdir()
    features = dict(info["features"].items())
    features[CAMERA]["video_info"] = features[CAMERA].pop("info")
    info |= {"codebase_version": version, "total_chunks": 1, "total_videos": len(table), "features": features}
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    (root / layout.INFO).write_text(json.dumps(info))

    def lines(name: str, rows: list[dict]) -> None:
        (root / name).write_text("".join(json.dumps(r) + "\n" for r in rows))

    lines("meta/episodes.jsonl", [{"episode_index": r["episode_index"], "tasks": r["tasks"], "length": r["length"]} for r in table])
    lines("meta/tasks.jsonl", [{"task_index": 0, "task": "reach"}])
    if version == "v2.1":
        stats = [{k.removeprefix("stats/"): v for k, v in r.items() if k.startswith("stats/")} for r in table]
        nested = [{f: {k.split("/")[1]: v for k, v in s.items() if k.startswith(f"{f}/") and "/q" not in k} for f in features} for s in stats]
        lines("meta/episodes_stats.jsonl", [{"episode_index": e, "stats": s} for e, s in enumerate(nested)])
    return root


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
@pytest.mark.parametrize("target", ["robopolicy", "lerobot"])
def test_version_2_becomes_version_3(tmp_path, version, target):
    old = version_2(record(tmp_path / "a", 3, images=True), tmp_path / "old", version)
    before = {p: p.read_bytes() for p in old.rglob("*") if p.is_file()}
    convert(old, tmp_path / "new", target=target, progress=False)
    assert {p: p.read_bytes() for p in old.rglob("*") if p.is_file()} == before
    same(tmp_path / "a", tmp_path / "new", ("capture_ns.top",) if target == "lerobot" else ())
    assert layout.read_info(tmp_path / "new")["codebase_version"] == "v3.0" and check(tmp_path / "new").ok
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "new", "old"]
    if target == "robopolicy":
        assert json.loads((tmp_path / "new" / layout.OWN).read_text())["provenance"]["converted_from"] == str(old)


# ---- refusals


def refused(tmp_path: Path, root: Path, **options) -> str:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError) as error:
        convert(root, tmp_path / "out", "lerobot", options=SourceOptions(**options), progress=False)
    assert "\n" not in str(error.value) and sorted(tmp_path.iterdir()) == before
    return str(error.value)


def test_damage_is_named(tmp_path):
    root = record(tmp_path / "a", 2, images=True)
    movie = layout.video_file(root, CAMERA, (0, 1))
    body = movie.read_bytes()
    movie.write_bytes(body[: len(body) // 2])
    assert str(movie) in refused(tmp_path, root)
    movie.unlink()
    assert f"{movie} is missing" in refused(tmp_path, root)
    movie.write_bytes(body)
    data = layout.data_file(root, (0, 0))
    body = data.read_bytes()
    data.write_bytes(body[:-20])
    assert f"{data} (episode 0): not a whole parquet file" in refused(tmp_path, root)
    pq.write_table(pq.ParquetFile(io.BytesIO(body)).read().slice(1), data)
    assert f"{data}: 11 frames of episode 0, expected 12" in refused(tmp_path, root)


def test_damaged_version_2_is_named(tmp_path):
    old = version_2(record(tmp_path / "a", 2, images=True), tmp_path / "old")
    path = old / "data/chunk-000/episode_000001.parquet"
    body = path.read_bytes()
    path.unlink()
    assert f"{path} is missing" in refused(tmp_path, old)
    path.write_bytes(body)
    table = old / "meta/episodes.jsonl"
    text = table.read_text()
    table.write_text(text.splitlines()[0] + "\n{broken\n")
    assert f"{table} line 2: not valid JSON" in refused(tmp_path, old)
    table.write_text(text.splitlines()[0] + "\n")
    assert "info.json counts 2 episodes, meta/episodes.jsonl has 1" in refused(tmp_path, old)


def test_what_a_set_says_itself_cannot_be_given(tmp_path):
    assert "are part of a LeRobot set and cannot be given" in refused(tmp_path, record(tmp_path / "a", 1), fps=20)
    assert "is not a data set" in refused(tmp_path, tmp_path)
