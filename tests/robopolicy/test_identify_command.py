"""``robopolicy identify``: data sets and .npz files in, table, JSON, plot, recipe section and MJCF out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.data.collect import collect
from robopolicy.identification import read_trajectories, write_mjcf
from robopolicy.randomization import read_section
from sim import registry
from sim.identify import Estimate, Fit
from sim.suites.classic.cartpole import Cartpole

Mj: Any = mujoco
PLANTED = {"model": {"damping:slider": {"set": 2.0}, "mass:pole": {"set": 0.2}}, "actions": {"delay": 0.02}}
SPEC = registry.make("cartpole").spec


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of the expert in a planted world; its feedback from a tilted start is all the excitation."""
    path = tmp_path_factory.mktemp("sets") / "planted"
    collect("cartpole", path, 12, workers=1, progress=False, extra_steps=60, max_episode_steps=60, only_success=False, randomize=PLANTED)
    return path


def test_from_a_data_set_to_a_section_that_the_worlds_follow(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / f"found.{name}" for name in ("yaml", "json", "svg")}
    words = ["identify", str(recorded), "--task", "cartpole", "--fit", "damping:slider=1", "--fit", "mass:pole", "--fit", "delay", "--max-delay", "0.08"]
    words += ["--starts", "1", "--worlds", "256", "--out", str(files["yaml"]), "--json", str(files["json"]), "--plot", str(files["svg"])]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "damping:slider" in printed and "standard error" in printed and "held out" in printed
    found = json.loads(files["json"].read_text())
    values = {one["key"]: one["value"] for one in found["estimates"]}
    np.testing.assert_allclose([values["damping:slider"], values["mass:pole"], values["delay"]], [2.0, 0.2, 0.02], rtol=0.05)
    assert all(a < b for a, b in zip(found["errors"]["after"], found["errors"]["before"], strict=True))
    assert files["svg"].read_text().startswith("<?xml") and "recorded" not in files["json"].read_text()
    section = read_section(str(files["yaml"]))
    assert section == found["randomize"] and "# mass:pole: " in files["yaml"].read_text()
    env = registry.make("cartpole", 1, randomize=section)
    env.reset(np.array([0]))
    drawn = env.randomizer.drawn()  # type: ignore[attr-defined]
    assert drawn["actions.delay"][0, 0] == values["delay"] and drawn["model.mass:pole"][0, 0, 0] == values["mass:pole"]


@pytest.mark.parametrize(
    "wrong",
    [{"actions": np.float64(3)}, {"actions": np.array(["a"] * 50)}, {"episode": np.zeros((50, 1))}, {"time": np.zeros((50, 2))}],
)
def test_arrays_that_are_no_recording_are_named(wrong: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", **{"actions": np.zeros((50, 1)), "observations": np.zeros((50, 4)), **wrong})
    (name,) = wrong
    with pytest.raises(InputError, match=f"log.npz: {name}: expected numbers, one row a frame, found .* of shape"):
        read_trajectories(tmp_path / "log.npz", SPEC)


def test_one_array_is_no_archive(tmp_path: Path) -> None:
    with (tmp_path / "log.npz").open("wb") as file:
        np.save(file, np.zeros((50, 1)))
    with pytest.raises(InputError, match=r"log\.npz: not a readable \.npz file"):
        read_trajectories(tmp_path / "log.npz", SPEC)


def fit_of(**values: float) -> Fit:
    """Return a result with these values, as far as files need one."""
    none = np.zeros(0)
    units = {"damping:slider": "N s/m", "mass:cart": "kg", "delay": "s", "density": "kg/m3", "viscosity": "Pa s", "gravity.z": "m/s2", "kd:v": "1"}
    made = [Estimate(key, units.get(key, "x"), 1.0, value, 0.0, key not in units) for key, value in values.items()]
    windows = np.zeros((1, 2)), np.zeros(1, int), np.zeros((1, 2, 1)), np.zeros((1, 2, 1)), np.zeros((1, 2, 1))
    return Fit("classic/cartpole", made, ("x",), none, none, none, none, none, np.eye(1), 1.0, 1, 1, 1, True, *windows, ("observation.state",))


def test_a_model_is_written_and_read_again(tmp_path: Path) -> None:
    write_mjcf(fit_of(**{"damping:slider": 1.25, "gear:*": 1.5}), Cartpole.xml_path(), tmp_path / "found.xml")
    model = Mj.MjModel.from_xml_path(str(tmp_path / "found.xml"))
    assert model.dof_damping[0] == 1.25 and model.actuator_gear[0, 0] == 15.0
    assert [p.name for p in tmp_path.iterdir()] == ["found.xml"]
    with pytest.raises(InputError, match="MJCF has no place for delay"):
        write_mjcf(fit_of(delay=0.01), Cartpole.xml_path(), tmp_path / "other.xml")


def test_a_number_of_the_whole_world_is_written_and_the_folder_is_made(tmp_path: Path) -> None:
    write_mjcf(fit_of(**{"density": 1.2, "viscosity": 0.01, "gravity.z": -9.5}), Cartpole.xml_path(), tmp_path / "new" / "found.xml")
    options = Mj.MjModel.from_xml_path(str(tmp_path / "new" / "found.xml")).opt
    assert (options.density, options.viscosity) == (1.2, 0.01) and options.gravity.tolist() == [0, 0, -9.5]


def test_a_velocity_servo_keeps_gain_and_bias_together(tmp_path: Path) -> None:
    actuator = "<worldbody><body><joint name='j'/><geom size='.1'/></body></worldbody><actuator><velocity name='v' joint='j' kv='2'/></actuator>"
    (tmp_path / "servo.xml").write_text(f"<mujoco>{actuator}</mujoco>")
    write_mjcf(fit_of(**{"kd:v": 3.0}), tmp_path / "servo.xml", tmp_path / "found.xml")
    model = Mj.MjModel.from_xml_path(str(tmp_path / "found.xml"))
    assert (model.actuator_gainprm[0, 0], model.actuator_biasprm[0, 2]) == (3.0, -3.0)


def test_what_an_mjcf_file_cannot_keep_is_refused(tmp_path: Path) -> None:
    try:
        write_mjcf(fit_of(**{"mass:cart": 1.7}), Cartpole.xml_path(), tmp_path / "found.xml")
    except InputError as error:
        assert "does not survive" in str(error) and list(tmp_path.iterdir()) == []
    else:
        assert Mj.MjModel.from_xml_path(str(tmp_path / "found.xml")).body("cart").mass[0] == pytest.approx(1.7)


def test_npz_files_at_another_rate_are_put_on_the_tasks_grid(tmp_path: Path) -> None:
    time = np.arange(0, 2, 0.005)
    state = np.stack([np.sin(time + k) for k in range(4)], axis=1)
    np.savez(tmp_path / "a.npz", time=time, actions=np.floor(time[:, None] / 0.1 + 1e-6) / 20, observations=state)
    (one,) = read_trajectories(tmp_path / "a.npz", SPEC)
    grid = np.arange(len(one.actions)) * 0.02
    assert len(grid) == 100
    np.testing.assert_allclose(one.observation["observation.state"], np.stack([np.sin(grid + k) for k in range(4)], axis=1), atol=1e-4)
    np.testing.assert_allclose(one.actions[:, 0], np.floor(grid / 0.1 + 1e-6) / 20, atol=1e-12)


def test_npz_files_with_episodes_and_a_last_reading(tmp_path: Path) -> None:
    actions, state = np.arange(7.0)[:, None] / 10, np.arange(32.0).reshape(8, 4)
    arrays: dict[str, Any] = {"actions": actions, "observation.state": state, "episode": np.array([0, 0, 0, 1, 1, 1, 1])}
    np.savez(tmp_path / "a.npz", **arrays)
    first, second = read_trajectories(tmp_path / "a.npz", SPEC)
    np.testing.assert_array_equal(first.observation["observation.state"], state[:3])
    np.testing.assert_array_equal(second.observation["observation.state"], state[3:])
    np.testing.assert_array_equal(second.actions[:, 0], [0.3, 0.4, 0.5, 0.6, 0.6])
    assert len(read_trajectories(tmp_path / "a.npz", SPEC, 1)) == 1


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"action": np.zeros((9, 1))}, "unknown array 'action'; did you mean 'actions'?"),
        ({"observations": np.zeros((9, 4))}, "there is no array 'actions'"),
        ({"actions": np.zeros((9, 1))}, "none of the observation fields"),
        ({"actions": np.zeros((9, 2)), "observations": np.zeros((9, 4))}, "expected shape (T, 1)"),
        ({"actions": np.zeros((9, 1)), "observations": np.zeros((9, 3))}, "expected 4 numbers a frame, found 3"),
        ({"actions": np.zeros((9, 1)), "observations": np.zeros((5, 4))}, "has 5 rows, actions have 9"),
        ({"actions": np.zeros((9, 1)), "observations": np.full((9, 4), np.nan)}, "is not finite"),
        ({"actions": np.zeros((9, 1)), "observations": np.zeros((9, 4)), "time": np.zeros(9)}, "time must rise"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        read_trajectories(tmp_path / "a.npz", SPEC)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_bad_words_are_refused_before_anything_runs(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = ["identify", str(recorded), "--task", "cartpole"]
    (tmp_path / "no.npz").write_bytes(b"no archive")
    for words, told in (
        ([*begin, "--fit", "mass:poel"], "did you mean 'pole'?"),
        ([*begin, "--fit", "mass:pole", "--compare", "observation.stat"], "no field 'observation.stat' of numbers; did you mean 'observation.state'?"),
        ([*begin, "--fit", "mass:pole", "--plot", "a.gif"], "ends in .svg, .png or .pdf"),
        ([*begin, "--fit", "mass:pole", "--out", "a.txt"], "ends in .yaml or .xml"),
        ([*begin, "--fit", "mass:pole", "--window", "9"], "take a shorter window"),
        ([*begin, "--fit", "mass:pole", "--window", "inf"], "window: expected a finite number of seconds from 0, found inf"),
        ([*begin, "--fit", "delay", "--max-delay", "inf"], "longest delay: expected a finite number of seconds from 0, found inf"),
        (["identify", str(tmp_path / "no.npz"), "--task", "cartpole", "--fit", "mass:pole"], "not a readable .npz file"),
        (["identify", str(recorded), "--task", "two-route", "--fit", "mass:pole"], "cannot be identified"),
    ):
        assert main(words) == 2
        assert told in capsys.readouterr().err.replace("\n", " ")


def test_sets_whose_actions_were_disturbed_are_refused(tmp_path: Path) -> None:
    collect("cartpole", tmp_path / "noisy", 1, workers=1, progress=False, max_episode_steps=110, noise=0.1)
    with pytest.raises(InputError, match=r"collected with --noise 0\.1"):
        read_trajectories(tmp_path / "noisy", SPEC)
