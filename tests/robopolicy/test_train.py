"""What a training run reads, writes and says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from policies import checkpoint
from policies.spec import InputError, SpecMismatch
from robopolicy.cli import main
from robopolicy.config import dump_yaml
from robopolicy.data.collect import collect
from robopolicy.data.dataset import Dataset
from robopolicy.recipe import load_recipe
from robopolicy.training.demonstrations import open_demonstrations
from robopolicy.training.imitation import train
from robopolicy.training.log import TrainingLog, read_log
from robopolicy.training.run_folder import RunFolder, find_checkpoint
from robopolicy.training.session import TrainingDiverged
from tests.robopolicy.small_runs import MLP, demonstrations, outcome, recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of 300 steps."""
    path = tmp_path_factory.mktemp("finished") / "run"
    train(recipe(path, steps=300, batch_size=64, log_every=10, checkpoint_every=100, keep_checkpoints=2), progress=False)
    return path


def note(text: str) -> None:
    pytest.fail(f"unexpected note: {text}")


# What is written ------------------------------------------------------------------------------------------------------


def test_the_run_folder_holds_what_it_says(run):
    assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "last", "log.jsonl", "recipe.yaml", "state", "tensorboard"]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step_000200", "step_000300"], "keep_checkpoints is 2"
    assert (run / "last").read_text() == "checkpoints/step_000300\n"
    assert find_checkpoint(run) == run / "checkpoints" / "step_000300" == find_checkpoint(run / "checkpoints" / "step_000300")


def test_the_loss_falls(run):
    losses = [row["loss"] for row in read_log(run, "train")]
    assert len(losses) == 30 and np.mean(losses[-5:]) < 0.7 * losses[0]


def test_log_rows(run):
    rows = list(read_log(run))
    assert [row["event"] for row in rows if row["event"] != "train"] == ["begin", "checkpoint", "checkpoint", "checkpoint", "end"]
    assert rows[0]["windows"] > 0 and rows[0]["parameters"] == sum(p.numel() for p in checkpoint.load(find_checkpoint(run)).parameters())
    row = next(read_log(run, "train"))
    assert {"step", "time", "loss", "grad_norm", "lr", "steps_per_s", "data_share"} <= row.keys()
    assert row["step"] == 10 and row["lr"] == pytest.approx(1e-3 * 9 / 10) and 0 < row["data_share"] < 1


def test_tensorboard_has_the_same_numbers(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    shown = [(e.step, e.value) for e in events.Scalars("train/loss")]
    logged = [(row["step"], row["loss"]) for row in read_log(run, "train")]
    assert [s for s, _ in shown] == [s for s, _ in logged]
    np.testing.assert_allclose([v for _, v in shown], [v for _, v in logged], rtol=1e-6)


def test_the_checkpoint_says_where_it_comes_from(run):
    manifest = checkpoint.read_manifest(find_checkpoint(run))
    dataset = Dataset.open(demonstrations())
    assert manifest["extra"] == {"step": 300, "dataset": str(demonstrations()), "dataset_fingerprint": dataset.fingerprint, "episodes": 10, "calibration": None}
    assert manifest["recipe"]["training"]["steps"] == 300 and manifest["recipe"]["policy"]["type"] == "flow"


def test_the_checkpoint_holds_the_average_and_not_the_weights(run):
    from safetensors.torch import load_file

    state = load_file(run / "state" / "step_000300.safetensors")
    saved = checkpoint.load(find_checkpoint(run)).state_dict()
    assert all(torch.equal(saved[name], state[f"ema/{name}"]) for name in saved)
    assert any(not torch.equal(saved[name], state[f"policy/{name}"]) for name in saved)


def test_runs_repeat_bit_for_bit_and_seeds_matter(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(recipe(tmp_path / name, steps=15, seed=seed), progress=False)
    a, b, c = (outcome(tmp_path / name) for name in "abc")
    assert a == b and a[0] != c[0]


def test_threads_and_determinism_are_left_as_they_were(tmp_path):
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    train(recipe(tmp_path / "run", steps=2), progress=False)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_evaluation_during_training_changes_no_weight(tmp_path):
    plain, watched = recipe(tmp_path / "a", steps=20), recipe(tmp_path / "b", steps=20, evaluate_every=10, evaluation={"episodes": 6, "block": 4})
    train(plain, progress=False)
    train(watched, progress=False)
    assert (find_checkpoint(tmp_path / "a") / "weights.safetensors").read_bytes() == (find_checkpoint(tmp_path / "b") / "weights.safetensors").read_bytes()
    rows = list(read_log(tmp_path / "b", "evaluation"))
    assert [row["step"] for row in rows] == [10, 20]
    for row in rows:
        assert row["episodes"] == 6 and 0 <= row["low"] <= row["success"] == row["successes"] / 6 <= row["high"] <= 1


def test_a_gpu_without_float64_is_left_alone():
    """Noise is made in float64, which Apple's GPUs do not have. In a process of its own: accelerate chooses a device once."""
    told = (
        "import torch; torch.cuda.device_count = lambda: 0; torch.backends.mps.is_available = torch.backends.mps.is_built = lambda: True\n"
        "from robopolicy.recipe import load_recipe\nfrom robopolicy.training.imitation import _accelerator\n"
        "print(_accelerator(load_recipe('quickstart'), print).device)"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == ["cpu"], done.stderr


def test_a_torn_row_is_left_out(tmp_path):
    log = TrainingLog(tmp_path / "log.jsonl", tmp_path / "tensorboard", 0)
    log.write("train", 1, loss=0.5)
    log.write("train", 2, loss=math.inf)
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "train", "step": 3, "lo')
    assert [(row["step"], row["loss"]) for row in read_log(tmp_path)] == [(1, 0.5), (2, None)]
    log = TrainingLog(tmp_path / "log.jsonl", tmp_path / "tensorboard", 1)
    log.write("train", 2, loss=0.25)
    log.close()
    assert [(row["step"], row["loss"]) for row in read_log(tmp_path)] == [(1, 0.5), (2, 0.25)]


def test_a_run_that_was_killed_before_its_first_state_begins_its_curves_anew(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for attempt in (1.0, 2.0):
        log = TrainingLog(tmp_path / "log.jsonl", tmp_path / "tensorboard", 0)
        log.write("train", 50, loss=attempt)
        log.close()
        for file in (tmp_path / "tensorboard").iterdir():  # files of one second have names in no order
            file.rename(file.with_name(f"events.out.tfevents.{int(attempt):03d}") if "tfevents.00" not in file.name else file)
    assert [row["loss"] for row in read_log(tmp_path)] == [2.0]
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(50, 2.0)]


def test_find_checkpoint_refuses_what_is_none(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint or run"):
        find_checkpoint(tmp_path / "nothing")
    with pytest.raises(InputError, match="neither a checkpoint nor a run"):
        find_checkpoint(tmp_path)
    (tmp_path / "last").write_text("checkpoints/step_000007\n")
    with pytest.raises(InputError, match=r"'last' names step_000007, which is not a checkpoint"):
        find_checkpoint(tmp_path)


# Demonstrations -------------------------------------------------------------------------------------------------------


def test_first_episodes_alone_shape_batches_and_normaliser(tmp_path):
    train(recipe(tmp_path / "run", steps=2, data={"episodes": 3}), progress=False)
    dataset = Dataset.open(demonstrations())
    used = slice(0, dataset.episode_starts[3])
    normalizer = checkpoint.load(find_checkpoint(tmp_path / "run")).normalizer
    for name in ("observation.state", "action"):
        rows = torch.from_numpy(np.array(dataset.arrays[name][used]))
        scaled = normalizer.normalize(name, rows)
        torch.testing.assert_close(scaled.amin(0), -torch.ones(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(scaled.amax(0), torch.ones(2), atol=1e-5, rtol=0)


def test_windows_yields_every_window_once():
    wanted = recipe("unused", batch_size=100)  # type: ignore[arg-type]
    found = open_demonstrations(wanted, False, note)
    sampler, batches = found.sampler(wanted, found.spec), list(found.windows(wanted, found.spec))
    assert [len(b["action"]) for b in batches[:-1]] == [100] * (len(batches) - 1)
    rows = np.concatenate([np.concatenate([b["action"].flatten(1), b["observation.state"].flatten(1)], 1) for b in batches])
    assert len(rows) == sampler.num_windows
    start, length, time = sampler.locate(np.arange(sampler.num_windows))
    frames = start[:, None] + np.clip(time[:, None] - 1 + np.arange(16), 0, length[:, None] - 1)
    expected = np.concatenate(
        [found.dataset.arrays["action"][frames].reshape(len(rows), -1), found.dataset.arrays["observation.state"][frames[:, :2]].reshape(len(rows), -1)], 1
    )
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])


def test_demonstrations_are_collected_when_there_are_none(tmp_path):
    notes: list[str] = []
    wanted = recipe(tmp_path / "run", steps=12, data={"path": str(tmp_path / "{task}"), "collect": 4, "workers": 1})
    train(wanted, progress=False, note=notes.append)
    assert Dataset.open(tmp_path / "two-route").num_episodes == 4
    assert notes == [f"collecting 4 demonstrations of two-route into {tmp_path / 'two-route'}"]


def test_an_interrupted_collection_is_finished(tmp_path):
    collect("two-route", tmp_path / "data", episodes=2, workers=1, progress=False)
    notes: list[str] = []
    found = open_demonstrations(recipe(tmp_path / "run", data={"path": str(tmp_path / "data"), "collect": 5, "workers": 1}), False, notes.append)
    assert found.episodes == 5 and len(notes) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"path": "nowhere"}}, ["data set nowhere does not exist", "data.collect=25"]),
        (
            {"data": {"path": "nowhere", "collect": 3}, "task": "metaworld/peg-insert-sid"},
            ["task 'metaworld/peg-insert-sid' does not exist", "did you mean 'metaworld/peg-insert-side'"],
        ),
        ({"data": {"episodes": 11}}, ["data.episodes=11", "has 10 episodes"]),
        ({"init": "runs/nothing"}, ["runs/nothing: no such checkpoint or run"]),
        ({"task": "my-robot", "evaluate_every": 5}, ["training.evaluate_every needs a simulated task", "'my-robot'"]),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, changes, words):
    wanted = recipe(tmp_path / "run", **changes)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        train(wanted, progress=False, note=lambda text: None)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_mistake_leaves_no_run_behind_that_the_corrected_command_would_trip_over(tmp_path):
    def wanted(horizon):
        return recipe(tmp_path / "run", {**MLP, "horizon": horizon}, steps=12)

    with pytest.raises(InputError, match="every episode is too short for a window"):
        train(wanted(200), progress=False)
    assert not (tmp_path / "run").exists()
    assert train(wanted(16), progress=False).steps == 12
    with pytest.raises(InputError, match="holds a run with another recipe"):
        train(wanted(200), progress=False)
    assert (tmp_path / "run/last").is_file()  # a run that was there already stays


def test_data_of_another_task_is_refused(tmp_path):
    with pytest.raises(SpecMismatch, match=r"'observation.state' of data set .* does not fit task 'metaworld/reach'"):
        train(recipe(tmp_path / "run", task="metaworld/reach"), progress=False)


def test_data_of_a_robot_that_is_not_simulated(tmp_path):
    notes: list[str] = []
    train(recipe(tmp_path / "run", task="my-robot", steps=12), progress=False, note=notes.append)
    assert notes == ["task 'my-robot' is not simulated here; the policy sees what the data set holds: observation.state"]


# Trouble --------------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(tmp_path):
    wild = recipe(tmp_path / "run", checkpoint_every=1, optimizer={"lr": 1e30, "warmup_steps": 0, "gradient_clip": None})
    with pytest.raises(TrainingDiverged) as caught:
        train(wild, progress=False)
    good = find_checkpoint(tmp_path / "run")
    assert str(caught.value).startswith("step ") and f"last good checkpoint: {good}" in str(caught.value) and "\n" not in str(caught.value)
    assert all(bool(torch.isfinite(p).all()) for p in checkpoint.load(good).parameters())


def test_a_warm_up_longer_than_the_run_is_said(tmp_path):
    notes: list[str] = []
    train(recipe(tmp_path / "run", steps=5), progress=False, note=notes.append)
    assert notes == ["training.optimizer.warmup_steps=10 is not over after training.steps=5: the learning rate stays below training.optimizer.lr"]


def test_lower_precision_without_a_gpu_is_said(tmp_path):
    from tests.require import present

    if present("gpu"):
        return
    notes: list[str] = []
    train(recipe(tmp_path / "run", steps=12, mixed_precision="fp16"), progress=False, note=notes.append)
    assert notes == ["training.mixed_precision=fp16 is for GPUs, and there is none: training in float32"]


def test_products_in_bfloat16_on_a_processor(tmp_path):
    """Where the processor has them: the same losses to bfloat16's rounding, and not to float32's; elsewhere float32's bits and a line."""
    notes: list[str] = []
    losses = {}
    for precision in ("no", "bf16"):
        train(recipe(tmp_path / precision, steps=12, mixed_precision=precision, log_every=1), progress=False, note=notes.append)
        rows = map(json.loads, (tmp_path / precision / "log.jsonl").read_text().splitlines())
        losses[precision] = np.array([row["loss"] for row in rows if row["event"] == "train"])
    difference = np.abs(losses["bf16"] / losses["no"] - 1).max()
    if torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert not notes and 1e-7 < difference < 0.03
    else:
        assert "does not multiply" in notes[0] and difference == 0


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    """Before anything is collected for it."""
    (tmp_path / "file").write_text("")
    wanted = recipe(tmp_path / "file" / "run", data={"path": str(tmp_path / "set"), "collect": 3})
    with pytest.raises(InputError, match=r"cannot be written: .*file is no folder"):
        train(wanted, progress=False)
    assert not (tmp_path / "set").exists()


def test_a_kept_checkpoint_is_the_newest_by_number(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (999_999, 1_000_000, 2):
        folder.checkpoint(step).mkdir(parents=True)
        folder.state(step).parent.mkdir(exist_ok=True)
        folder.state(step).write_bytes(b"")
    folder.prune(1)
    assert [p.name for p in folder.checkpoints.iterdir()] == ["step_1000000"]
    assert [step for step, _ in folder.states_newest_first()] == [1_000_000, 999_999]


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe_file(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_yaml(recipe(tmp_path / "run", steps=12).to_dict()))
    return file


def test_command(recipe_file, tmp_path, capsys):
    assert main(["train", str(recipe_file), "seed=5", "training.log_every=4"]) == 0
    out = capsys.readouterr().out
    assert f"checkpoint: {tmp_path / 'run' / 'checkpoints' / 'step_000012'}" in out and "flow on two-route: 10 episodes" in out
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")).seed == 5
    assert main(["train", str(recipe_file), "seed=5", "training.log_every=4", "--quiet"]) == 0
    assert capsys.readouterr().out == f"checkpoint: {tmp_path / 'run' / 'checkpoints' / 'step_000012'}\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["training.stpes=3"], "did you mean 'steps'"),
        (["training.steps=x"], "found 'x' (str)"),
        (["policy=flwo"], "did you mean 'flow'"),
        (["seed"], "expected key=value"),
        (["data.path=nowhere"], "does not exist"),
        (["--connect", "tcp://127.0.0.1:5800"], "--connect: goes with --role actor"),
        (["--actors", "2", "--bind", "tcp://127.0.0.1:5800"], "--bind: goes with --role learner"),
        (["--role", "learner", "--connect", "tcp://127.0.0.1:5800"], "--connect: goes with --role actor"),
        (["--lead", "5"], "or --actors"),
    ],
)
def test_command_with_bad_input(recipe_file, capsys, arguments, word):
    assert main(["train", str(recipe_file), *arguments]) == 2
    error = capsys.readouterr().err
    assert word in error and error.startswith("error: ") and error.count("\n") == 1


def test_help_shows_overrides(capsys):
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("policy=diffusion", "training.steps=5000", "--processes", "--fresh", "init=runs/old"):
        assert word in shown


def test_log_is_json_lines(run):
    for line in (run / "log.jsonl").read_text().splitlines():
        assert {"event", "step", "time"} <= json.loads(line).keys()
