"""What is learnt by trial is an ordinary checkpoint: it does the task, is evaluated, served and exported like any other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from policies import checkpoint, registry
from policies.export import example_observations, to_onnx
from policies.noise import Noise, row_keys
from policies.normalize import limits_normalizer
from policies.spec import InputError
from real.onnx import OnnxPolicy
from robopolicy.cli import main
from robopolicy.evaluation.rollout import evaluate
from robopolicy.recipe import load_recipe
from robopolicy.training.log import read_log
from robopolicy.training.on_policy import train
from sim.registry import make
from tests.real.toy import ROOT
from tests.robopolicy.on_policy_runs import outcome, parts, recipe


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    """A run of the recipe rl/cartpole, whole."""
    wanted = load_recipe("rl/cartpole", [f"output={tmp_path_factory.mktemp('cartpole') / 'run'}", "training.threads=1"])
    return train(wanted, progress=False)


def test_the_recipe_balances_the_pole(cartpole):
    spec, kind = make("classic/cartpole").spec, registry.policy_class("gaussian")
    torch.manual_seed(0)
    untrained = kind(kind.Config(hidden=[32, 32]), spec, limits_normalizer(spec))  # type: ignore[call-arg]
    learnt, before = (evaluate(who, "classic/cartpole", episodes=50, latency_calls=0, progress=False) for who in (cartpole.checkpoint, untrained))
    assert learnt.successes >= 48 and before.successes <= 5
    rows = [row for row in read_log(cartpole.run, "train") if row["return"] is not None]
    assert rows[-1]["return"] > 400 > 100 > rows[0]["return"]  # of 500
    for name in (
        "kl",
        "clip_share",
        "ratio_deviation",
        "ratio_deviation_max",
        "explained_variance",
        "std",
        "lr",
        "env_steps_per_s",
        "cpu_s",
        "wall_s",
        "length",
    ):
        assert np.isfinite(rows[-1][name]), name
    assert sum(rows[-1][f"{part}_share"] for part in ("worlds", "policy", "update")) == pytest.approx(1.0, abs=1e-3)
    assert rows[-1]["env_steps"] == cartpole.steps == rows[-1]["step"] and rows[-1]["explained_variance"] > 0.3


def test_it_is_evaluated_by_the_command(cartpole, tmp_path):
    assert main(["eval", str(cartpole.run), "-n", "10", "--json", str(tmp_path / "said.json"), "--out", str(tmp_path / "out")]) == 0
    assert '"success' in (tmp_path / "said.json").read_text()
    assert len(list((tmp_path / "out").glob("*/evaluation.json"))) == 1


def test_it_is_exported_with_equal_actions(cartpole, tmp_path):
    policy = checkpoint.load(cartpole.checkpoint)
    (tmp_path / "policy.onnx").write_bytes(to_onnx(policy, {}))
    file = OnnxPolicy(tmp_path / "policy.onnx")
    obs, keys = example_observations(policy, 5, 0), row_keys(0, np.arange(5))
    plan, _ = file.act({name: value.numpy() for name, value in obs.items()}, {}, keys)
    expected, _ = policy.act(obs, {}, Noise(keys))
    assert np.abs(plan.actions - expected.actions.numpy()).max() < 1e-5 and float(expected.actions.std()) > 0.01


def test_it_is_served(cartpole, tmp_path):
    from real.client import PolicyClient

    address = tmp_path / "address"
    command = [sys.executable, "-m", "robopolicy", "serve", str(cartpole.run), "--bind", f"ipc://{tmp_path}/s", "--announce", str(address), "--with-parent"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and "ready: gaussian" in process.stdout.readline()
            client, policy = PolicyClient(address.read_text().strip(), connect_s=60), checkpoint.load(cartpole.checkpoint)
            obs = {name: np.full((1, 1, *f.shape), 0.05, f.dtype) for name, f in policy.spec.observation.fields.items()}
            served, _ = client.act(obs, client.initial_state(1), row_keys(3, 1))
            local, _ = policy.act({name: torch.from_numpy(x) for name, x in obs.items()}, {}, Noise(row_keys(3, 1)))
            client.close()
            np.testing.assert_allclose(served.actions, local.actions.numpy(), atol=1e-5)
        finally:
            process.terminate()


def test_it_can_be_gone_on_from(cartpole, tmp_path):
    """``init``: its weights and its normaliser, whose statistics stay what the weights were trained behind."""
    wanted = recipe(tmp_path / "run", init=str(cartpole.run), steps=200, policy={"hidden": [32, 32]})
    result = train(wanted, progress=False, note=lambda text: None)
    was, now = checkpoint.load(cartpole.checkpoint), checkpoint.load(result.checkpoint)
    assert all(torch.equal(x, now.normalizer.tensors()[name]) for name, x in was.normalizer.tensors().items())
    change = max(float((x - now.state_dict()[name]).abs().max()) for name, x in was.state_dict().items())
    assert 0.0 < change < 0.1


# --- other shapes of policies and worlds -----------------------------------------------------------------------------

FIXED = {"normalize_observations": False, "normalize_rewards": False, "random_start": False}
SHAPES = {
    "squashed": {"policy": {"hidden": [8], "squash": True}},
    "observed deviation": {"policy": {"hidden": [8], "deviation": "observed"}},
    "gru": {"policy": {"hidden": [8], "memory": {"type": "gru", "width": 8}}, "minibatches": 3},
    "transformer": {"policy": {"hidden": [8], "memory": {"type": "transformer", "width": 8, "window": 4}}},
    "asymmetric": {"task": "arm/reach", "policy": {"hidden": [8], "observations": ["observation.state"]}, "normalize_rewards": False},
    "plain": {
        "normalize_observations": False,
        "normalize_rewards": False,
        "random_start": False,
        "schedule": "linear",
        "value_clip": 0.2,
        "entropy_weight": 0.01,
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_policy_learns_and_goes_on_exactly(shape, tmp_path):
    wanted = recipe(tmp_path / "run", steps=8 * 16 * 6, checkpoint_every=3, **{"log_every": 3, **SHAPES[shape]})
    train(wanted, progress=False)
    expected = outcome(tmp_path / "run")
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 and row["value_grad_norm"] > 0 for row in expected[3])
    newest = max((tmp_path / "run" / "state").iterdir())
    newest.unlink()
    assert train(wanted, progress=False).resumed_from == 8 * 16 * 3
    assert outcome(tmp_path / "run") == expected
    policy = checkpoint.load(sorted((tmp_path / "run" / "checkpoints").iterdir())[-1])
    plan, _ = policy.act(example_observations(policy, 3, 0), policy.initial_state(3), Noise(row_keys(0, np.arange(3))))
    assert plan.actions.shape[:2] == (3, 1) and torch.isfinite(plan.actions).all()


def test_images_are_learnt_from():
    """Ratios before the first update are one, crops of cameras included; policy and critic train their own encoders."""
    from robopolicy.training.on_policy_config import CriticConfig, OnPolicyTraining
    from tests.robopolicy.point_world import PointWorlds

    env = PointWorlds(4, images=True, steps=5, autoreset=True)
    config = OnPolicyTraining(worlds=4, rollout=6, epochs=1, minibatches=1, critic=CriticConfig(hidden=[8]))
    collector, updater = parts(env, config, {"hidden": [8], "image": {"features": 8}})
    collector.begin(0)
    rollout = collector.collect(0)
    updater.estimate(rollout)
    updater.improve(rollout, 0, 0.0)
    assert updater.metrics()["ratio_deviation_max"] < 1e-4 and rollout.truncated.any()
    assert updater.critic is not None
    for module in (updater.policy.encoder, updater.critic.encoder):
        assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in module.cameras.parameters())


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"minibatches": 200}, r"training\.minibatches=200: there are only 128 samples \(worlds times rollout\)"),
        ({"minibatches": 9, "policy": {"hidden": [8], "memory": {"type": "gru"}}}, r"training\.minibatches=9: there are only 8 worlds .* stay whole"),
        ({"lr_range": [1e-2, 1e-5]}, r"training\.lr_range=\[0\.01, 1e-05\]: expected the lower limit first"),
        ({"lr_range": [1e-2, 1e-5], "reference_worlds": 4096}, r"training\.lr_range=\[0\.01, 1e-05\]: expected the lower limit first"),  # as it was written
        ({"critic": {"observations": ["observation.stat"]}}, r"training\.critic\.observations: .*did you mean 'observation\.state'"),
        ({"minibatch": 4}, r"key 'training\.minibatch'.*did you mean 'minibatches'"),
        ({"schedule": "cosine"}, r"key 'training\.schedule'"),
        ({"policy": {"observations": ["observation.stat"]}}, r"observation\.stat.*did you mean 'observation\.state'"),
        ({"init": "nowhere"}, r"nowhere: no such checkpoint or run"),
    ],
)
def test_mistakes_are_said_in_one_line(changes, said, tmp_path):
    with pytest.raises(InputError, match=said) as error:
        train(recipe(tmp_path / "run", **changes), progress=False)
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "state").exists()


def test_divergence_is_said(tmp_path):
    with pytest.raises(InputError, match=r"environment step \d+: .*(nan|inf|not finite).*no checkpoint was written yet"):
        train(recipe(tmp_path / "run", lr=1e30, schedule="constant", gradient_clip=None), progress=False)
