"""robomimic's HDF5 layout: every frame comes over, the action means what its controller says, damage is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.data.convert.conversion import convert
from robopolicy.data.convert.source import SourceOptions
from robopolicy.data.dataset import Dataset
from tests.robopolicy import forked, recording

LENGTHS = {"demo_0": 9, "demo_2": 5, "demo_10": 7}  # the order of numbers, not of letters


def env_args(controller: dict | None = None, **kwargs) -> dict:
    env = {"robots": ["Panda"], "control_freq": 20, "controller_configs": controller or {"type": "OSC_POSE", "control_delta": True}}
    return {"env_name": "Lift", "type": 1, "env_kwargs": env | kwargs}


def demo(name: str, action_dim: int, images: bool) -> dict[str, np.ndarray]:
    random, t = np.random.default_rng(list(LENGTHS).index(name)), LENGTHS[name]
    out = {
        "actions": random.uniform(-1, 1, (t, action_dim)),
        "rewards": np.eye(t)[-1] * (name != "demo_2"),
        "dones": np.eye(t)[-1].astype(np.int64),
        "states": random.normal(size=(t, 32)),
        "obs/object": random.normal(size=(t, 10)),
        "obs/robot0_eef_pos": random.normal(size=(t, 3)),
        "obs/robot0_eef_quat": random.normal(size=(t, 4)),
        "obs/robot0_gripper_qpos": random.normal(size=(t, 2)),
        "next_obs/object": random.normal(size=(t, 10)),
    }
    if images:
        out["obs/agentview_image"] = np.stack([recording.image(1, i) for i in range(t)])
        out["obs/agentview_depth"] = random.uniform(size=(t, 32, 32, 1)).astype(np.float32)
    return out


def make(path: Path, args: dict | None = None, action_dim: int = 7, images: bool = False) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(env_args() if args is None else args)
        data.attrs["total"] = sum(LENGTHS.values())
        for name in LENGTHS:
            group = data.create_group(name)
            group.attrs["num_samples"] = LENGTHS[name]
            group.attrs["model_file"] = "<mujoco/>"
            for key, array in demo(name, action_dim, images).items():
                group.create_dataset(key, data=array, compression="gzip" if "image" in key else None)
        file.create_dataset("mask/valid", data=np.array([b"demo_10", b"demo_0"]))
    return path


def test_every_frame_comes_over(tmp_path):
    summary = convert(make(tmp_path / "low_dim.hdf5"), tmp_path / "out", "robomimic", progress=False)
    assert (summary.episodes, summary.frames, summary.fps, summary.notes) == (3, 21, 20.0, ())
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.episode_starts.tolist() == [0, 9, 14, 21] and dataset.tasks == ["Lift"]
    assert dataset.success.tolist() == [1, 0, 1]
    for index, name in enumerate(LENGTHS):
        truth, found = demo(name, 7, False), dataset.episode(index)
        state = np.concatenate([truth[f"obs/robot0_{k}"] for k in ("eef_pos", "eef_quat", "gripper_qpos")], 1)
        assert np.array_equal(found["observation.state"], state.astype(np.float32))
        assert np.array_equal(found["observation.environment_state"], truth["obs/object"].astype(np.float32))
        assert np.array_equal(found["action"], truth["actions"].astype(np.float32))
        assert np.array_equal(found["next.reward"].ravel(), truth["rewards"].astype(np.float32))
        assert np.array_equal(found["next.done"].ravel(), truth["dones"].astype(bool))
    names = dataset.spec.observation.fields["observation.state"].names
    assert names[:4] == ("robot0_eef_pos.0", "robot0_eef_pos.1", "robot0_eef_pos.2", "robot0_eef_quat.0")


def test_images_and_what_is_left_out(tmp_path):
    summary = convert(make(tmp_path / "image.hdf5", images=True), tmp_path / "out", progress=False)
    assert summary.notes == ("observation 'agentview_depth' with shape [32, 32, 1] was left out: neither a vector nor a colour image",)
    dataset = Dataset.open(tmp_path / "out")
    truth = np.concatenate([demo(n, 7, True)["obs/agentview_image"] for n in LENGTHS]).astype(int)
    error = np.abs(dataset.arrays["observation.images.agentview"] - truth)
    assert error[:, 2:14, 2:14].max() <= 6 and error[:, 18:30, 18:30].max() <= 6  # lossy, away from edges


def test_keys_subset_rate_and_task_can_be_chosen(tmp_path):
    options = SourceOptions(fps=10, task="pick up the cube", keys=["robot0_gripper_qpos", "robot0_eef_pos"], subset="valid")
    convert(make(tmp_path / "a.hdf5"), tmp_path / "out", options=options, progress=False)
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.fps == 10 and dataset.tasks == ["pick up the cube"] and dataset.episode_starts.tolist() == [0, 9, 16]
    truth = demo("demo_10", 7, False)
    state = np.concatenate([truth["obs/robot0_gripper_qpos"], truth["obs/robot0_eef_pos"]], 1)
    assert np.array_equal(dataset.episode(1)["observation.state"], state.astype(np.float32))
    assert list(dataset.spec.observation.fields) == ["observation.state"]


ABSOLUTE = {"type": "OSC_POSE", "control_delta": False}
ROBOSUITE_15 = {"type": "BASIC", "body_parts": {"right": {"type": "OSC_POSE", "input_type": "delta"}}}


@pytest.mark.parametrize(
    "controller,robots,dim,kinds",
    [
        (None, ["Panda"], 7, {"position": "delta", "rotation": "delta", "gripper": "gripper"}),
        (ABSOLUTE, ["Panda"], 7, {"position": "position", "rotation": "rotation_axis_angle", "gripper": "gripper"}),
        (ROBOSUITE_15, "Panda", 7, {"position": "delta", "rotation": "delta", "gripper": "gripper"}),
        ({"type": "OSC_POSITION"}, ["Panda"], 4, {"position": "delta", "gripper": "gripper"}),
        ({"type": "JOINT_VELOCITY"}, ["Panda"], 8, {"joints": "velocity", "gripper": "gripper"}),
        (None, ["Panda", "Sawyer"], 14, {f"arm{i}.{n}": k for i in (0, 1) for n, k in (("position", "delta"), ("rotation", "delta"), ("gripper", "gripper"))}),
        (None, ["Panda"], 10, {"action": "position"}),  # does not fit the controller: nothing is claimed
        ({"type": "WHOLE_BODY_IK"}, ["Panda"], 7, {"action": "position"}),
    ],
)
def test_action_fields_follow_the_controller(tmp_path, controller, robots, dim, kinds):
    convert(make(tmp_path / "a.hdf5", env_args(controller, robots=robots), dim), tmp_path / "out", progress=False)
    spec = Dataset.open(tmp_path / "out").spec
    assert {name: field.kind for name, field in spec.action.fields.items()} == kinds
    assert spec.action.dim == dim


def refused(tmp_path: Path, path: Path, *args, **options) -> str:
    with pytest.raises(InputError) as error:
        convert(path, tmp_path / "out", *args, options=SourceOptions(**options), progress=False)
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir() if p != path) == []  # nothing half-written
    return str(error.value)


def test_damage_is_named(tmp_path):
    path = make(tmp_path / "a.hdf5")
    body = path.read_bytes()
    path.write_bytes(body[: len(body) // 2])
    assert "cannot be read as HDF5" in refused(tmp_path, path)
    path.write_text("not hdf5")
    assert "cannot be read as HDF5" in refused(tmp_path, path)
    path.unlink()
    assert "no such file or folder" in refused(tmp_path, path, "robomimic")


def change(path: Path, edit) -> Path:
    make(path)
    with h5py.File(path, "a") as file:
        edit(file)
    return path


def replace(key: str, array: np.ndarray):
    def edit(file: h5py.File) -> None:
        del file[key]
        file[key] = array

    return edit


@pytest.mark.parametrize(
    "edit,message",
    [
        (lambda f: f.move("data", "date"), "expected groups data/demo_0"),
        (lambda f: [f.__delitem__(f"data/{n}/obs") for n in LENGTHS], "demo_0 has no 'obs'; extract observations"),
        (lambda f: f.__delitem__("data/demo_2/obs/object"), "demo_2: 'obs/object' is missing"),
        (replace("data/demo_10/obs/object", np.zeros((6, 10))), "demo_10: 'object' has 6 frames, actions have 7"),
        (replace("data/demo_10/obs/object", np.zeros((7, 11))), "demo_10: "),
        (replace("data/demo_2/actions", np.full((5, 7), np.nan)), "demo_2: frame 0 of episode 1: action holds nan"),
        (lambda f: f["data"].attrs.__setitem__("env_args", "{"), "env_args is not valid JSON"),
        (lambda f: f["data"].attrs.__setitem__("env_args", "{}"), "does not say its rate; give --fps"),
    ],
)
def test_damaged_contents_are_named(tmp_path, edit, message):
    assert message in refused(tmp_path, change(tmp_path / "a.hdf5", edit))


def test_wrong_choices_are_named(tmp_path):
    path = make(tmp_path / "a.hdf5")
    assert "no observation 'robot0_eef_pose'; did you mean 'robot0_eef_pos'" in refused(tmp_path, path, keys=["robot0_eef_pose"])
    assert "no subset 'vaild' in 'mask'; did you mean 'valid'" in refused(tmp_path, path, subset="vaild")
    assert "format 'robomimc' is unknown; did you mean 'robomimic'" in refused(tmp_path, path, "robomimc")
    assert "target format 'lerobto' is unknown; did you mean 'lerobot'" in refused(tmp_path, path, "robomimic", "lerobto")
    assert "expected a positive number" in refused(tmp_path, path, fps=0)


def test_an_existing_folder_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        convert(make(tmp_path / "a.hdf5"), tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_straight_to_plain_lerobot(tmp_path):
    convert(make(tmp_path / "a.hdf5"), tmp_path / "out", "robomimic", "lerobot", progress=False)
    assert not (tmp_path / "out/meta/robopolicy.json").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5", "out"]
    actions = np.concatenate([demo(n, 7, False)["actions"] for n in LENGTHS]).astype(np.float32)
    assert np.array_equal(Dataset.open(tmp_path / "out").arrays["action"], actions)


def run(*arguments: object) -> tuple[int, str]:
    done = forked.command(["data", "convert", *map(str, arguments)], Path.cwd(), timeout=120)
    return done.returncode, (done.stdout + done.stderr).strip()


def test_command(tmp_path):
    source = make(tmp_path / "a.hdf5", images=True)
    code, said = run(source, tmp_path / "out", "--from", "robomimic", "--keys", "robot0_eef_pos,agentview_depth", "--fps", 10)
    assert code == 0 and f"{tmp_path / 'out'}: 3 episodes, 21 frames at 10 Hz" in said
    assert "note: observation 'agentview_depth' with shape [32, 32, 1] was left out" in said
    assert list(Dataset.open(tmp_path / "out").spec.observation.fields) == ["observation.state"]
    code, said = run(source, tmp_path / "other", "--from", "robomimc")
    assert (code, said) == (2, "error: format 'robomimc' is unknown; did you mean 'robomimic'?")


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    source = make(tmp_path / "a.hdf5", images=True)
    command = f"ulimit -f 4; exec {sys.executable} -m robopolicy data convert {source} {tmp_path / 'out'}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 2 and "the disk is full" in done.stderr and str(tmp_path / "out") in done.stderr
    assert done.stderr.strip().count("\n") == 0 and [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]
