"""Delete, split, merge, relabel, compact: the episodes that remain are the same frames, and the set checks out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies.spec import ActionSpec, InputError, Spec, SpecMismatch
from robopolicy.data import layout, rewrite, video
from robopolicy.data.atomic import exchange
from robopolicy.data.check import check
from robopolicy.data.collect import collect
from robopolicy.data.convert.conversion import convert
from robopolicy.data.dataset import Dataset
from robopolicy.data.edit import compact, delete, merge, parse_episodes, relabel, split
from robopolicy.data.episodes import read_parquet, write_episodes
from robopolicy.data.recording import REPORT, EpisodeReport, keep_report, read_reports
from robopolicy.data.writer import DatasetWriter
from tests.robopolicy import recording
from tests.robopolicy.recording import CAMERA, record

FIELDS = ("observation.state", "observation.environment_state", "action", "capture_ns.top", "next.reward")


def assert_episodes(found: Dataset, source: Dataset, episodes: list[int], images: bool = False) -> None:
    assert found.num_episodes == len(episodes) and found.spec == source.spec
    for new, old in enumerate(episodes):
        a, b = found.episode(new), source.episode(old)
        for name in (*FIELDS, *([CAMERA] if images else [])):
            assert np.array_equal(a[name], b[name]), (new, name)
    assert found.seeds.tolist() == source.seeds[episodes].tolist()
    report = check(found.path)
    assert report.ok and not report.notes, report


def test_an_edit_in_place_leaves_a_set_of_a_like_name_alone(tmp_path: Path) -> None:
    record(tmp_path / "set", 3)
    own = Dataset.open(record(tmp_path / "set.edited", 2))
    delete(tmp_path / "set", [0])
    assert_episodes(Dataset.open(tmp_path / "set.edited"), own, [0, 1])


def test_shares_that_add_up_to_one_leave_no_episode_out(tmp_path: Path) -> None:
    source = Dataset.open(record(tmp_path / "set", 5))
    halves = split(tmp_path / "set", {"a": "0.5", "b": "0.5"}, tmp_path / "halves")
    assert [r.episodes for r in halves] == [3, 2]
    assert_episodes(Dataset.open(halves[1].path), source, [3, 4])
    assert [r.episodes for r in split(tmp_path / "set", {"a": "0.3", "b": "0.3", "c": "0.4"}, tmp_path / "thirds")] == [2, 1, 2]


def test_a_share_takes_no_episode_that_another_part_names(tmp_path: Path) -> None:
    """A test episode that is trained on makes every result worthless, and nobody would see it."""
    root = record(tmp_path / "set", 5)
    with pytest.raises(InputError, match=r"part 'train' \(0\.8\) would hold episode 0, which is in 'test'"):
        split(root, {"test": "0-1", "train": "0.8"}, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
    assert [r.episodes for r in split(root, {"train": "0.6", "test": "3-4"}, tmp_path / "parts")] == [3, 2]


@pytest.mark.parametrize("images", [False, True])
def test_delete_in_place_keeps_a_backup(tmp_path: Path, images: bool) -> None:
    source = Dataset.open(record(tmp_path / "set", 6, images))
    result = delete(tmp_path / "set", [0, 3])
    assert result.backup == tmp_path / "set.backup" and result.encoded_again == 0
    assert_episodes(Dataset.open(tmp_path / "set"), source, [1, 2, 4, 5], images)
    recording.check_contents(Dataset.open(result.backup), 6, images)
    again = delete(tmp_path / "set", [0])
    assert again.backup == tmp_path / "set.backup-2"
    assert delete(tmp_path / "set", [0], backup=False).backup is None
    assert_episodes(Dataset.open(tmp_path / "set"), source, [4, 5], images)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set", "set.backup", "set.backup-2"]


def test_an_episode_that_is_recorded_between_reading_and_editing_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record(tmp_path / "set", 2)
    read = rewrite.Source.open

    def late(root: str | Path) -> rewrite.Source:
        found = read(root)
        monkeypatch.setattr(rewrite.Source, "open", read)
        record(path, 3)
        return found

    monkeypatch.setattr(rewrite.Source, "open", late)
    with pytest.raises(InputError, match="was recorded into meanwhile, 3 episodes instead of 2; give the command again"):
        delete(path, [0])
    assert Dataset.open(path).num_episodes == 3 and [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("at_once", [True, False])
def test_an_edited_set_takes_its_name_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    if not at_once:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    renamed = []
    monkeypatch.setattr(Path, "replace", lambda old, new, replace=Path.replace: renamed.append(old) or replace(old, new))
    exchange(a, b)
    assert (a / "name").read_text() == "b" and (b / "name").read_text() == "a"
    assert len(renamed) == (0 if at_once else 3)


def test_statistics_follow(tmp_path: Path) -> None:
    source = Dataset.open(record(tmp_path / "set", 5, images=True))
    delete(tmp_path / "set", [4], out=tmp_path / "four")
    whole = record(tmp_path / "recorded", 4, images=True)
    a, b = (json.loads((root / layout.STATS).read_text()) for root in (tmp_path / "four", whole))
    assert a.keys() == b.keys()
    for name in a:
        for key in a[name]:
            np.testing.assert_allclose(a[name][key], b[name][key], rtol=1e-9, atol=1e-12)
    assert Dataset.open(tmp_path / "four").fingerprint == Dataset.open(whole).fingerprint != source.fingerprint


@pytest.mark.parametrize("images", [False, True])
def test_split_and_merge_again(tmp_path: Path, images: bool) -> None:
    source = Dataset.open(record(tmp_path / "set", 7, images))
    parts = split(tmp_path / "set", {"train": "0.7", "test": "0.3"}, tmp_path / "parts")
    assert [p.episodes for p in parts] == [5, 2]
    odd = split(tmp_path / "set", {"odd": "1,3,5", "late": "4-6"}, tmp_path / "more")
    assert_episodes(Dataset.open(odd[0].path), source, [1, 3, 5], images)
    assert_episodes(Dataset.open(odd[1].path), source, [4, 5, 6], images)
    merged = merge([p.path for p in parts], tmp_path / "whole")
    assert merged.encoded_again == 0
    assert_episodes(Dataset.open(tmp_path / "whole"), source, list(range(7)), images)
    assert Dataset.open(tmp_path / "whole").fingerprint == source.fingerprint


@pytest.mark.parametrize("images", [False, True])
def test_compact_changes_files_and_nothing_else(tmp_path: Path, images: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Dataset.open(record(tmp_path / "set", 6, images))
    compact(tmp_path / "set", out=tmp_path / "one")
    assert len(layout.content_files(tmp_path / "one")) == 2 + images and len(layout.content_files(tmp_path / "set")) == 6 * (2 + images)
    monkeypatch.setattr(rewrite, "DATA_BYTES", 2000)
    monkeypatch.setattr(rewrite, "VIDEO_BYTES", 3000)
    monkeypatch.setattr(rewrite, "ROWS", 4)
    assert compact(tmp_path / "set").backup is None
    assert 2 < len(layout.content_files(tmp_path / "set")) < 6 * (2 + images)
    for name in ("one", "set"):
        dataset = Dataset.open(tmp_path / name)
        recording.check_contents(dataset, 6, images)
        assert dataset.fingerprint == source.fingerprint and check(tmp_path / name).ok
        recording.check_contents(Dataset.open(record(tmp_path / name, 8, images)), 8, images)  # recording goes on
        compact(tmp_path / name)
        recording.check_contents(Dataset.open(tmp_path / name), 8, images)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "set"]


def test_relabel(tmp_path: Path) -> None:
    source = Dataset.open(record(tmp_path / "set", 4))
    relabel(tmp_path / "set", [1, 2], task="lift", success=False)
    found = Dataset.open(tmp_path / "set")
    assert found.tasks == ["reach", "lift"] and found.success.tolist() == [0, 0, 0, 0]
    assert [int(found.episode(e)["task_index"][0, 0]) for e in range(4)] == [0, 1, 1, 0]
    assert_episodes(found, source, [0, 1, 2, 3])
    relabel(tmp_path / "set", [0, 1, 2, 3], task="all", out=tmp_path / "all")
    assert Dataset.open(tmp_path / "all").tasks == ["all"]
    with pytest.raises(InputError, match="a task, a success mark, or both"):
        relabel(tmp_path / "set", [1])


def test_merge_of_two_tasks_and_of_unlike_sets(tmp_path: Path) -> None:
    record(tmp_path / "a", 2)
    relabel(tmp_path / "a", [0, 1], task="lift", out=tmp_path / "b")
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
    found = Dataset.open(tmp_path / "ab")
    assert found.tasks == ["reach", "lift"] and [int(found.episode(e)["task_index"][0, 0]) for e in range(4)] == [0, 0, 1, 1]
    with pytest.raises(SpecMismatch, match=CAMERA):
        merge([tmp_path / "a", record(tmp_path / "c", 1, images=True)], tmp_path / "ac")
    spec = recording.make_spec()
    with DatasetWriter(tmp_path / "d", Spec(spec.observation, ActionSpec(spec.action.fields, 10.0)), 10.0) as writer:
        writer.add_frame(recording.observation(0, 0), recording.action(0, 0))
        writer.save_episode()
    with pytest.raises(SpecMismatch, match="differ in the columns"):
        merge([tmp_path / "a", tmp_path / "d"], tmp_path / "ad")
    assert not (tmp_path / "ac").exists() and not (tmp_path / "ad").exists() and not list(tmp_path.glob(".*"))


def test_damage_and_nonsense_leave_everything_as_it_was(tmp_path: Path) -> None:
    root = record(tmp_path / "set", 3)
    for call, said in (
        (lambda: delete(root, [0, 1, 2]), "no episodes are left"),
        (lambda: delete(root, [3]), "has episodes 0 to 2, not 3"),
        (lambda: delete(root, []), "no episodes were given"),
        (lambda: split(root, {"a": "0.1"}, tmp_path / "parts"), "is empty"),
        (lambda: split(root, {"a": "1.5"}, tmp_path / "parts"), r"must lie in \(0, 1\]"),
        (lambda: split(root, {"a": "0.8", "b": "0.4"}, tmp_path / "parts"), "add up to 1.2"),
        (lambda: delete(root, [0], out=root), "exists already"),
    ):
        with pytest.raises(InputError, match=said):
            call()
    path = root / "data/chunk-000/file-001.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"file-001.parquet \(episode 1\)"):
        delete(root, [0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]
    assert delete(root, [1]).episodes == 2  # the damaged one can be removed
    assert check(root).ok


@pytest.mark.parametrize(("text", "expected"), [("3", [3]), ("1,4-6", [1, 4, 5, 6]), ("2-3, 3", [2, 3])])
def test_parse_episodes(text: str, expected: list[int]) -> None:
    assert parse_episodes(text, 7) == expected


@pytest.mark.parametrize("text", ["x", "1-", "5-3", "7", "-1", "1;2", ""])
def test_parse_episodes_refuses(text: str) -> None:
    with pytest.raises(InputError, match="episodes"):
        parse_episodes(text, 7)


def test_edited_collections_are_not_continued(tmp_path: Path) -> None:
    collect("two-route", tmp_path / "set", 3, workers=1, progress=False)
    compact(tmp_path / "set")
    assert collect("two-route", tmp_path / "set", 4, workers=1, progress=False).episodes == 4
    delete(tmp_path / "set", [1])
    with pytest.raises(InputError, match="not made by `robopolicy collect`"):
        collect("two-route", tmp_path / "set", 5, workers=1, progress=False)
    assert layout.read_own(tmp_path / "set")["provenance"]["edits"] == [{"operation": "delete", "episodes": [1]}]


def test_videos_that_cannot_be_cut_are_encoded_again(tmp_path: Path) -> None:
    """One long group of pictures: an episode that begins inside it depends on frames before it."""
    import av

    root = record(tmp_path / "set", 3, images=True)
    files = [layout.video_file(root, CAMERA, (0, n)) for n in range(3)]
    images = [image for f in files for _, image in video.decode(f, 10.0)]
    with av.open(str(tmp_path / "long.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "1000", "crf": "10", "sc_threshold": "0"})
        stream.height = stream.width = recording.SIDE
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    start = recording.length(0)
    pieces = [(tmp_path / "long.mp4", start, recording.length(1))]
    assert not video.join(pieces, tmp_path / "cut.mp4", 10.0)
    cut = [image for _, image in video.decode(tmp_path / "cut.mp4", 10.0)]
    error = np.stack(cut).astype(int) - np.stack(images[start : start + len(cut)])
    assert len(cut) == recording.length(1) and np.abs(error[:, 2:14, 2:14]).max() <= 8
    assert video.join([(tmp_path / "long.mp4", 0, len(images))], tmp_path / "copy.mp4", 10.0)  # the whole is copied
    shutil.rmtree(root)
    with pytest.raises(InputError, match="expected 99"):
        video.join([(tmp_path / "long.mp4", 0, 99)], tmp_path / "short.mp4", 10.0)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robopolicy.cli import main

    root = str(record(tmp_path / "set", 6))

    def refused(*arguments: str) -> str:
        assert main(["data", "edit", *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1
        return error

    assert main(["data", "edit", root, "split", "train=0.5", "test=3-5", "--out", str(tmp_path / "parts")]) == 0
    assert main(["data", "edit", str(tmp_path / "parts/train"), "merge", str(tmp_path / "parts/test"), "--out", str(tmp_path / "all")]) == 0
    assert Dataset.open(tmp_path / "all").num_episodes == 6
    assert main(["data", "edit", root, "delete", "--episodes", "0,2-3"]) == 0
    assert "deleted 3; 3 episodes; the old set is kept as" in capsys.readouterr().out
    assert main(["data", "edit", root, "relabel", "--episodes", "1", "--task", "lift", "--failure", "--no-backup"]) == 0
    assert Dataset.open(root).tasks == ["reach", "lift"] and Dataset.open(root).success.tolist()[1] == 0
    assert main(["data", "compact", str(tmp_path / "set.backup")]) == 0
    assert "12 files became 2" in capsys.readouterr().out
    assert "did you mean 'delete'" in refused(root, "delet", "--episodes", "0")
    assert "is not within 0-2" in refused(root, "delete", "--episodes", "9")
    assert "give the episodes as --episodes" in refused(root, "delete", "0,2")
    assert "--no-backup is for a set that is replaced" in refused(root, "delete", "--episodes", "0", "--no-backup", "--out", str(tmp_path / "more"))
    assert "--out and other sets" in refused(root, "merge")
    assert "part 'a' is given twice" in refused(root, "split", "a=0", "a=1", "--out", str(tmp_path / "more"))
    assert "'²' is neither a number nor a range" in refused(root, "delete", "--episodes", "²")
    assert "is not NAME=EPISODES" in refused(root, "split", "train", "--out", str(tmp_path / "more"))
    more = ("--out", str(tmp_path / "more"))
    assert "delete: --task is for relabel" in refused(root, "delete", "--episodes", "1", "--task", "lift", *more)
    assert "merge: --episodes is for delete and relabel" in refused(root, "merge", root, "--episodes", "1", *more)
    assert "split: --failure is for relabel" in refused(root, "split", "train=0.5", "--failure", *more)
    assert not (tmp_path / "more").exists()


def test_tasks_that_no_row_of_an_episode_names_are_kept(tmp_path: Path) -> None:
    """As other programs may leave them out: the frames know their task all the same."""
    root = record(tmp_path / "set", 2)
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        write_episodes(path, [row | {"tasks": []} for row in read_parquet(path).to_pylist()])
    before = Dataset.open(root).tasks
    assert before and compact(root, tmp_path / "fresh").episodes == 2
    fresh = Dataset.open(tmp_path / "fresh")
    assert fresh.tasks == before and (fresh.arrays["task_index"] == 0).all()


def test_columns_of_episodes_that_another_program_has_added_are_kept(tmp_path: Path) -> None:
    root = record(tmp_path / "set", 3)
    added = {"operator": ["anna", None, "otto"], "tags": [["dark"], [], ["dark", "wet"]], "score": [1, 2.5, None], "rated": [True, False, None]}
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        (row,) = read_parquet(path).to_pylist()
        table = pa.Table.from_pylist([row | {name: values[row["episode_index"]] for name, values in added.items()}])
        pq.write_table(table, path)
    delete(root, [1])
    rows = [row for path in sorted((root / "meta/episodes").glob("*/*.parquet")) for row in read_parquet(path).to_pylist()]
    for name, values in added.items():
        assert [row[name] for row in rows] == [values[0], values[2]], name
    assert check(root).ok


def test_what_was_counted_while_recording_goes_with_its_episode(tmp_path: Path) -> None:
    root = record(tmp_path / "set", 3)
    for episode in (0, 2):
        keep_report(root, EpisodeReport(episode, 5, 0.1, lag_max_s=float(episode)))
    compact(root)
    assert [(r["episode"], r["lag_max_s"]) for r in read_reports(root)] == [(0, 0.0), (2, 2.0)]
    delete(root, [0])
    assert [(r["episode"], r["lag_max_s"]) for r in read_reports(root)] == [(1, 2.0)]
    merged = merge([root, root], tmp_path / "twice")
    assert [r["episode"] for r in read_reports(merged.path)] == [1, 3]
    convert(root, tmp_path / "plain", target="lerobot", progress=False)
    assert not (tmp_path / "plain" / REPORT).exists() and not (record(tmp_path / "other", 1) / REPORT).exists()
