"""``--weights``: a checkpoint laid out for the CPU in a number format, evaluated, served, told in the records, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies import checkpoint
from policies.inference import PackedLinear
from policies.noise import Noise, row_keys
from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.data.collect import collect
from robopolicy.deployed_policy import load_local
from robopolicy.evaluation import ledger
from robopolicy.evaluation.rollout import evaluate
from robopolicy.execution import load_policy
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.imitation import train
from tests.policies.toy import STATE, build, random_batch

WIDE = {"mlp": {"width": 256, "blocks": 1, "clock_features": 8}, "n_obs_steps": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two-route, trained for a moment, whose middle matrices are just large enough to be packed."""
    root = tmp_path_factory.mktemp("runs")
    collect("two-route", root / "data", 10, workers=1, progress=False)
    training = {"steps": 20, "batch_size": 32, "optimizer": {"lr": 1e-3, "warmup_steps": 5}, "checkpoint_every": 20, "log_every": 10}
    values = {"task": "two-route", "data": {"path": str(root / "data")}, "output": str(root / "flow"), "training": training}
    train(recipe_from_dict({**values, "policy": {"type": "flow", **WIDE}, "evaluation": {"episodes": 4, "block": 2}}, "test"), progress=False)
    return root / "flow"


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must refuse; return its one line."""
    capsys.readouterr()
    code = main([str(a) for a in arguments])
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_eval_acts_with_the_format_and_says_so(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    arguments = ["eval", run, "--weights", "int8", "--compare", run, "--out", tmp_path / "e", "--json", file, "--quiet"]
    assert main([str(a) for a in arguments]) == 0
    rounded, trained = json.loads(file.read_text())["evaluations"]
    assert (rounded["label"], trained["label"]) == ("flow int8", "flow") and (rounded["weights"], trained["weights"]) == ("int8", None)
    assert rounded["checkpoint_hash"] == trained["checkpoint_hash"]
    assert [row["weights"] for row in ledger.read(tmp_path / "e" / "ledger.jsonl")] == ["int8", None]
    assert "flow int8" in capsys.readouterr().out


def test_workers_change_nothing(run: Path) -> None:
    folder = str(run / "checkpoints" / "step_000020")
    one, two = (evaluate(folder, "two-route", episodes=4, block=2, workers=n, latency_calls=0, progress=False, weights="int8") for n in (1, 2))
    assert one.episodes == two.episodes and one.weights == two.weights == "int8"
    with pytest.raises(InputError, match="weights 'int9': no such format"):  # what evaluates is what reads the format
        evaluate(folder, "two-route", episodes=1, latency_calls=0, progress=False, weights="int9")


@pytest.mark.parametrize(("weights", "bound"), [("float32", 1e-4), ("int8", 0.1)])
def test_what_is_served_is_packed_and_acts_alike(run: Path, weights: str, bound: float) -> None:
    (packed, name), (trained, plain) = load_local(run, weights=weights), load_local(run)
    assert name == f"{plain} {weights}"
    assert any(isinstance(m, PackedLinear) for m in packed.modules()) and not any(isinstance(m, PackedLinear) for m in trained.modules())  # type: ignore[attr-defined]
    obs = {n: Noise(row_keys(1, np.arange(8))).normal(1, *f.shape) for n, f in trained.spec.observation.fields.items()}
    (a, _), (b, _) = (one.act(obs, {}, Noise(row_keys(0, np.arange(8)))) for one in (packed, trained))
    assert 0.0 < float((a.actions - b.actions).abs().max() / (b.actions.max() - b.actions.min())) < bound


def test_mistakes_are_one_line_before_anything_runs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "e")
    assert "weights 'int9': no such format; did you mean 'int8'" in said(capsys, "eval", run, "--weights", "int9", *out)
    assert "weights 'int9'" in said(capsys, "serve", run, "--weights", "int9")
    assert "--weights int8: the expert" in said(capsys, "eval", "expert", "--task", "two-route", "--weights", "int8", *out)
    assert "goes with one CHECKPOINT" in said(capsys, "eval", "--compose", f"{run}:0.5", f"{run}:0.5", "--weights", "int8", *out)
    assert "weights int8; serve its checkpoint" in said(capsys, "serve", tmp_path / "policy.onnx", "--weights", "int8")
    assert not (tmp_path / "e").exists()
    with pytest.raises(InputError, match="expected the folder of one checkpoint, found FlowPolicy"):
        evaluate(load_policy(run / "checkpoints" / "step_000020"), "two-route", episodes=1, latency_calls=0, progress=False, weights="int8")


@pytest.mark.parametrize(
    ("name", "options", "method", "words"),
    [
        ("energy", {"mlp": {"width": 256, "blocks": 1}}, None, "weights=float32: an accelerated policy has no gradients"),
        ("flow", {"mlp": {"width": 256, "blocks": 1}}, "rtc:form=vjp", "weights=float32: an accelerated policy has no gradients"),
        ("flow", {"mlp": {"width": 32, "blocks": 1}}, None, "FlowPolicy has no matrix of 65,536 numbers or more"),
    ],
)
def test_what_a_format_cannot_do_is_said_when_it_is_loaded(name: str, options: dict[str, Any], method: str | None, words: str, tmp_path: Path) -> None:
    policy = build(name, STATE, random_batch(STATE, 8), **options)
    folder = checkpoint.save(tmp_path / "policy", policy, recipe={}, extra={})
    with pytest.raises(InputError, match=words) as error:
        load_policy(folder, method=method, weights="float32")
    assert "\n" not in str(error.value)


def test_methods_that_need_no_gradient_take_a_format(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "policy", build("diffusion", STATE, random_batch(STATE, 8), mlp={"width": 256, "blocks": 1}), recipe={}, extra={})
    for method in ("rti", "rtc:form=identity", "bid", "ensemble"):
        assert load_policy(folder, method=method, weights="int8").spec == STATE
