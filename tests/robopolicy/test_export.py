"""Exported policies: the same actions without torch, refused in one line where a graph cannot be had, served from the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies import checkpoint
from policies.base import Execution
from policies.export import example_observations, to_onnx
from policies.noise import Noise, NumpyNoise, row_keys
from policies.spec import InputError, SpecMismatch
from real.onnx import OnnxPolicy
from real.policy import LocalPolicy
from robopolicy.cli import main
from robopolicy.deployed_policy import open_policy
from tests.policies.toy import IMAGE, STATE, build, random_batch

TINY = {"mlp": {"width": 16, "blocks": 1, "clock_features": 8}}
ROOT = Path(__file__).resolve().parents[2]


def saved(folder: Path, name: str, spec=STATE, **config) -> Path:
    return checkpoint.save(folder / name, build(name, spec, random_batch(spec, 8), **{**TINY, **config}), recipe={}, extra={})


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, Path]:
    """A checkpoint and what the command made of it: stochastic, so that every step has random numbers of its own."""
    folder = tmp_path_factory.mktemp("export")
    policy = saved(folder, "diffusion", sampler="ddpm", steps=3)
    assert main(["export", str(policy), "--out", str(folder / "policy.onnx"), "--json", str(folder / "said.json")]) == 0
    return policy, folder / "policy.onnx"


def parity(policy, file: OnnxPolicy, rows: int, seed: int) -> float:
    """Return the largest difference of actions on random observations."""
    obs, keys = example_observations(policy, rows, seed), row_keys(seed, np.arange(rows))
    expected, _ = policy.act(obs, {}, Noise(keys))
    plan, _ = file.act({name: value.numpy() for name, value in obs.items()}, {}, keys)
    for name, value in expected.info.items():
        assert np.abs(plan.info[name] - value.numpy()).max() < 1e-4 and plan.info[name].shape == (rows,)
    assert plan.actions.shape == expected.actions.shape and plan.actions.dtype == np.float32
    return float(np.abs(plan.actions - expected.actions.numpy()).max())


def test_the_file_plans_what_the_checkpoint_plans(exported):
    policy, file = checkpoint.load(exported[0]), OnnxPolicy(exported[1])
    for rows in (1, 2, 5):
        assert parity(policy, file, rows, seed=rows) < 1e-5
    assert file.spec == policy.spec and file.fingerprint == checkpoint.fingerprint(exported[0])
    assert (file.n_obs_steps, file.horizon, file.n_action_steps) == (2, 16, 8)
    said = json.loads((exported[1].parent / "said.json").read_text())
    assert said["network_calls"] == 3 and said["batch"] is None and said["deviation"] < 1e-5
    assert said["inputs"] == {"observation.state": [2, 3], "observation.environment_state": [2, 2], "noise.0": [16, 4], "noise.1": [3, 16, 4]}


def test_the_file_says_what_it_is(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported[1]), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["robopolicy"])
    assert about["spec_fingerprint"] == STATE.fingerprint() and about["network_calls"] == 3
    assert [(d["name"], d["kind"], d["shape"]) for d in about["noise"]] == [("noise.0", "normal", [16, 4]), ("noise.1", "normal", [3, 16, 4])]
    assert {i.name: i.shape[1:] for i in session.get_inputs()}["observation.state"] == [2, 3]
    assert session.get_outputs()[0].name == "actions" and session.get_outputs()[0].shape[1:] == [8, 4]


CASES = {
    "flow, images, chunk-relative": ("flow", IMAGE, {"steps": 2, "actions": "chunk_relative", "action_reference": {"position": "observation.state"}}),
    "flow, heun, unet": ("flow", STATE, {"steps": 1, "solver": "heun", "backbone": "unet"}),
    "diffusion, transformer": ("diffusion", STATE, {"steps": 1, "backbone": "transformer"}),
    "regression": ("regression", STATE, {}),
    "consistency": ("consistency", STATE, {}),
    "consistency, three calls": ("consistency", STATE, {"steps": 3}),
    "meanflow": ("meanflow", STATE, {}),
    "meanflow, three calls, unet": ("meanflow", STATE, {"steps": 3, "backbone": "unet"}),
    "onestep": ("onestep", STATE, {}),
    "act": ("act", STATE, {}),
    "act, images": ("act", IMAGE, {}),
    "energy, which differentiates inside": ("energy", STATE, {"max_steps": 2}),
}


@pytest.mark.parametrize(("name", "spec", "options"), CASES.values(), ids=CASES)
def test_every_backbone_and_images(name, spec, options, tmp_path):
    policy = build(name, spec, random_batch(spec, 8), **{**TINY, **options}).eval()
    (tmp_path / "policy.onnx").write_bytes(to_onnx(policy, {}))
    file = OnnxPolicy(tmp_path / "policy.onnx")
    assert file.batch is None or name == "energy"
    for rows in (1, 3):
        assert parity(policy, file, rows, seed=rows) < 1e-5


def test_it_acts_where_there_is_no_torch(exported):
    policy = checkpoint.load(exported[0])
    plan, _ = policy.act({n: torch.zeros(2, 2, *f.shape) for n, f in STATE.observation.fields.items()}, {}, Noise(row_keys(7, np.arange(2))))
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np
from policies.noise import row_keys
from robopolicy.deployed_policy import load_local
policy, name = load_local({str(exported[1])!r})
obs = {{n: np.zeros((2, 2, *f.shape), f.dtype) for n, f in policy.spec.observation.fields.items()}}
plan, _ = policy.act(obs, policy.initial_state(2), row_keys(7, np.arange(2)))
print(name, "|", repr(plan.actions.tolist()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    name, _, actions = done.stdout.partition(" | ")
    assert name == f"diffusion diffusion {checkpoint.fingerprint(exported[0])}"
    assert np.abs(np.array(json.loads(actions)) - plan.actions.numpy()).max() < 1e-5


def test_the_runtime_takes_the_file(exported):
    policy = open_policy(str(exported[1]))
    assert isinstance(policy, LocalPolicy)
    obs = {n: np.zeros((1, 2, *f.shape), f.dtype) for n, f in STATE.observation.fields.items()}
    policy.request(obs, policy.initial_state(1), row_keys(0, 1), Execution(delay=1), budget_s=30.0)
    answer = policy.poll(30.0)
    policy.close()
    assert answer is not None and answer[0].actions.shape == (1, 8, 4)


def test_a_server_serves_the_file(exported, tmp_path):
    from real.client import PolicyClient

    address = tmp_path / "address"
    command = [sys.executable, "-m", "robopolicy", "serve", str(exported[1]), "--bind", f"ipc://{tmp_path}/s", "--announce", str(address), "--with-parent"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and "ready: diffusion" in process.stdout.readline()
            client = PolicyClient(address.read_text().strip(), connect_s=30)
            obs = {n: np.ones((1, 2, *f.shape), f.dtype) for n, f in STATE.observation.fields.items()}
            plan, _ = client.act(obs, client.initial_state(1), row_keys(3, 1))
            own, _ = OnnxPolicy(exported[1]).act(obs, {}, row_keys(3, 1))
            client.close()
            assert np.array_equal(plan.actions, own.actions)
        finally:
            process.terminate()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4), st.integers(0, 2**40), st.integers(1, 9))
def test_numbers_without_torch_are_those_with_it(keys, draw, count):
    rows = np.array(keys, np.int64)
    with_torch, without = Noise(rows, draw=draw), NumpyNoise(rows, draw)
    assert np.array_equal(without.bits(count).view(np.int64), with_torch._bits(count).numpy())
    assert np.abs(without.normal(count, 2) - with_torch.normal(count, 2).numpy()).max() < 1e-6
    assert np.array_equal(without.uniform(count), with_torch.uniform(count).numpy())
    assert np.array_equal(without.integers(7, count, 1), with_torch.integers(7, count, 1).numpy())
    assert without.draw == with_torch.draw == draw + 4


# --- what is refused -------------------------------------------------------------------------------------------------


def said(capsys, *arguments: object) -> str:
    """Return the one line that a command is refused with."""
    assert main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_mistakes_are_said(exported, tmp_path, capsys):
    assert "no such checkpoint" in said(capsys, "export", "nowhere", "--out", tmp_path / "a.onnx")
    assert "a folder, expected a file" in said(capsys, "export", exported[0], "--out", tmp_path)
    assert "its folder does not exist" in said(capsys, "export", exported[0], "--out", tmp_path / "none" / "a.onnx")
    assert "no such file" in said(capsys, "serve", tmp_path / "a.onnx")
    assert "an exported file runs on the CPU" in said(capsys, "serve", exported[1], "--device", "cuda")
    assert "an exported file runs on the CPU" in said(capsys, "serve", exported[1], "--method", "rti")
    (tmp_path / "broken.onnx").write_bytes(exported[1].read_bytes()[:1000])
    assert "cannot be read as an ONNX file" in said(capsys, "serve", tmp_path / "broken.onnx")
    assert not list(tmp_path.glob("*.tmp"))


def test_a_file_of_others_is_refused(tmp_path):
    import onnx

    tensor = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "other", tensor[:1], tensor[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(InputError, match="not one that robopolicy export wrote"):
        OnnxPolicy(tmp_path / "other.onnx")


def test_a_method_that_carries_a_plan_is_refused(exported, tmp_path, capsys):
    line = said(capsys, "export", exported[0], "--out", tmp_path / "a.onnx", "--method", "rti")
    assert "carries plan, planned from call to call" in line and not list(tmp_path.iterdir())


def test_steps_that_hang_on_values_are_refused():
    class Undecided(type(build("flow", STATE, random_batch(STATE, 8), **TINY))):
        def generate(self, condition, noise):
            chunk, calls = super().generate(condition, noise)
            return (chunk if chunk.sum() > 0 else -chunk), calls

    policy = build("flow", STATE, random_batch(STATE, 8), steps=1, **TINY).eval()
    policy.__class__ = Undecided
    with pytest.raises(InputError, match="Undecided cannot be a fixed graph") as error:
        to_onnx(policy, {})
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_observations_that_do_not_fit_are_refused(exported):
    policy = OnnxPolicy(exported[1])
    with pytest.raises(SpecMismatch, match="lacks field"):
        policy.act({"observation.state": np.zeros((1, 2, 3), np.float32)}, {}, row_keys(0, 1))


def test_help_names_the_extras(capsys):
    assert main(["export", "--help"]) == 0
    assert "pip install 'robopolicy[export,train]'" in capsys.readouterr().out  # square brackets are markup there
