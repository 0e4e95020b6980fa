"""Diffusion Policy's zarr layout, as its replay buffers write it: folders and zips, formats 2 and 3."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, ZipStore

from policies.spec import InputError
from robopolicy.data.convert.conversion import convert, detect
from robopolicy.data.convert.source import SourceOptions
from robopolicy.data.dataset import Dataset
from tests.robopolicy import recording

ENDS = np.array([6, 10, 19])
TEN = SourceOptions(fps=10)


def arrays(images: str = "uint8") -> dict[str, np.ndarray]:
    random, n = np.random.default_rng(0), int(ENDS[-1])
    out = {
        "state": random.normal(size=(n, 5)).astype(np.float32),
        "action": random.uniform(0, 512, (n, 2)).astype(np.float32),
        "keypoint": random.normal(size=(n, 9, 2)).astype(np.float32),
        "n_contacts": random.integers(0, 3, (n, 1)).astype(np.float32),
    }
    if images:
        img = np.stack([recording.image(1, t) for t in range(n)])
        out["img"] = {"uint8": img, "float32": img.astype(np.float32), "unit": img / np.float32(255)}[images]
    return out


def make(path: Path, contents: dict[str, np.ndarray] | None = None, version: int = 2, ends: np.ndarray = ENDS) -> Path:
    store = ZipStore(path, mode="w") if path.suffix == ".zip" else LocalStore(path)
    root = zarr.open_group(store, mode="w", zarr_format=version)
    for key, array in (contents or arrays("")).items():
        made = root.create_array(f"data/{key}", shape=array.shape, dtype=array.dtype, chunks=(7, *array.shape[1:]))
        made[:] = array
    made = root.create_array("meta/episode_ends", shape=ends.shape, dtype=np.int64, chunks=(3,))
    made[:] = ends
    store.close()
    return path


@pytest.mark.parametrize("name,version", [("pusht.zarr", 2), ("pusht.zarr", 3), ("pusht.zarr.zip", 2)])
def test_every_frame_comes_over(tmp_path, name, version):
    path = make(tmp_path / name, version=version)
    assert detect(path) == "dp-zarr"
    summary = convert(path, tmp_path / "out", "dp-zarr", options=TEN, progress=False)
    assert (summary.episodes, summary.frames, summary.fps) == (3, 19, 10.0)
    dataset, truth = Dataset.open(tmp_path / "out"), arrays("")
    assert dataset.episode_starts.tolist() == [0, *ENDS] and dataset.tasks == ["pusht"]
    for field, key in (("observation.state", "state"), ("action", "action"), ("observation.keypoint", "keypoint"), ("observation.n_contacts", "n_contacts")):
        assert np.array_equal(dataset.arrays[field], truth[key]), field
    assert dataset.spec.observation.fields["observation.keypoint"].shape == (9, 2)


@pytest.mark.parametrize("kind", ["uint8", "float32", "unit"])
def test_images_of_every_form(tmp_path, kind):
    convert(make(tmp_path / "a.zarr", arrays(kind)), tmp_path / "out", options=TEN, progress=False)
    error = np.abs(Dataset.open(tmp_path / "out").arrays["observation.images.img"].astype(int) - arrays()["img"])
    assert error[:, 2:14, 2:14].max() <= 6 and error[:, 18:30, 18:30].max() <= 6  # lossy, away from edges


def test_timestamps_become_capture_times(tmp_path):
    stamps = 1_700_000_000 + np.arange(19) * 0.1 + np.random.default_rng(0).uniform(0, 0.01, 19)
    convert(make(tmp_path / "real.zarr", arrays("") | {"timestamp": stamps}), tmp_path / "out", options=TEN, progress=False)
    dataset = Dataset.open(tmp_path / "out")
    assert np.abs(dataset.arrays["capture_ns.observation"].ravel() / 1e9 - stamps).max() < 1e-6
    assert "observation.timestamp" not in dataset.arrays


def test_keys_are_chosen(tmp_path):
    convert(make(tmp_path / "a.zarr", arrays()), tmp_path / "out", options=SourceOptions(fps=10, keys=["keypoint"]), progress=False)
    assert list(Dataset.open(tmp_path / "out").spec.observation.fields) == ["observation.keypoint"]


def test_absent_chunks_are_said(tmp_path):
    path = make(tmp_path / "a.zarr")
    (path / "data/state/1.0").unlink()
    summary = convert(path, tmp_path / "out", options=TEN, progress=False)
    assert summary.notes == ("'state': 1 of 3 chunks are not stored; by the format they read as 0.0",)


def refused(tmp_path: Path, path: Path, options: SourceOptions = TEN, source_format: str | None = "dp-zarr") -> str:
    with pytest.raises(InputError) as error:
        convert(path, tmp_path / "out", source_format, options=options, progress=False)
    assert "\n" not in str(error.value) and sorted(tmp_path.iterdir()) == [path]
    return str(error.value)


def test_rate_must_be_given(tmp_path):
    assert "does not say its rate; give --fps, e.g. --fps 10 for PushT" in refused(tmp_path, make(tmp_path / "a.zarr"), SourceOptions())


@pytest.mark.parametrize(
    "contents,ends,message",
    [
        ({"state": np.zeros((19, 2))}, ENDS, "'data/action' is missing"),
        (arrays("") | {"state": np.zeros((18, 5))}, ENDS, "'state' has 18 frames, actions have 19"),
        (arrays(""), np.array([6, 10, 18]), "episodes end at frame 18 but actions have 19"),
        (arrays(""), np.array([10, 6, 19]), "must rise from one episode to the next"),
        (arrays("") | {"img": np.full((19, 32, 32, 3), -1.0)}, ENDS, "episode 0: images hold numbers from -1 to 0, expected [0, 255] or [0, 1]"),
        (arrays("") | {"state": np.full((19, 5), np.inf)}, ENDS, "episode 0: frame 0 of episode 0: observation.state holds inf"),
    ],
)
def test_damaged_contents_are_named(tmp_path, contents, ends, message):
    assert message in refused(tmp_path, make(tmp_path / "a.zarr", contents, ends=ends))


def test_damaged_files_are_named(tmp_path):
    path = make(tmp_path / "a.zarr")
    chunk = path / "data/action/1.0"
    chunk.write_bytes(chunk.read_bytes()[:10])
    assert "episode 1: 'action' cannot be read" in refused(tmp_path, path)
    (path / "meta/episode_ends/0").write_bytes(b"")
    assert "meta/episode_ends cannot be read" in refused(tmp_path, path)


def test_a_truncated_zip_is_named(tmp_path):
    path = make(tmp_path / "a.zarr.zip")
    path.write_bytes(path.read_bytes()[:2000])
    assert "neither a folder nor a whole zip file" in refused(tmp_path, path, source_format=None)


def test_unknown_files_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert "its format is not recognised; say it with --from" in refused(tmp_path, tmp_path / "a.txt", source_format=None)
    assert "cannot be read as a zarr store" in refused(tmp_path, tmp_path / "a.txt")
