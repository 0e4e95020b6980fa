"""Checkpoints: what is written comes back, and everything damaged is refused in one line."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import policies
from policies import checkpoint, registry
from policies.learnt import LearntPolicy
from policies.noise import Noise, row_keys
from policies.normalize import Normalizer
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec

SPEC = Spec(ObservationSpec({"observation.state": Field((3,))}), ActionSpec({"action": Field((2,), kind="position")}))


def make(width: int = 4) -> LearntPolicy:
    limits = {"min": np.array([-2.0, 1.0]), "max": np.array([2.0, 1.0])}
    state = {"min": -np.ones(3), "max": np.ones(3)}
    normalizer = Normalizer.fit({"action": limits, "observation.state": state}, {"action": "min_max", "observation.state": "min_max"})
    config = registry.config_class("regression").model_validate({"mlp": {"width": width, "blocks": 1, "clock_features": 4}})
    return registry.create("regression", config, SPEC, normalizer)


def plan(policy: LearntPolicy, state: torch.Tensor) -> torch.Tensor:
    return policy.act({"observation.state": state}, policy.initial_state(len(state)), Noise(row_keys(0, np.arange(len(state)))))[0].actions


@pytest.fixture
def saved(tmp_path) -> Path:
    return checkpoint.save(tmp_path / "last", make(), recipe={"task": "pusht"}, extra={"step": 7})


def rewrite(folder: Path, name: str, body: bytes) -> None:
    """Replace a file and record its new hash, as someone who edits a checkpoint by hand would."""
    (folder / name).write_bytes(body)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        checkpoint.load(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


def test_round_trip(tmp_path):
    policy = make()
    folder = checkpoint.save(tmp_path / "a" / "b", policy, recipe={"task": "pusht"}, extra={"step": 7, "dataset": "abc"})
    loaded = checkpoint.load(folder)
    x = torch.randn(5, 2, 3)
    assert torch.equal(plan(loaded, x), plan(policy, x))
    assert not loaded.training and loaded.config == policy.config and loaded.spec == SPEC
    manifest = checkpoint.read_manifest(folder)
    assert manifest["recipe"] == {"task": "pusht"} and manifest["extra"] == {"step": 7, "dataset": "abc"}
    assert manifest["policy"] == "regression" and manifest["packages"]["torch"] == torch.__version__
    assert checkpoint.read_spec(folder).fingerprint() == SPEC.fingerprint() == manifest["spec_fingerprint"]
    assert sorted(p.name for p in folder.iterdir()) == sorted([*checkpoint.FILES, "manifest.json"])


def test_shared_and_strided_weights_survive(tmp_path):
    policy = make(3)
    layer = policy.network.blocks[0]
    first = next(module for module in layer.modules() if isinstance(module, torch.nn.Linear))
    first.weight = torch.nn.Parameter(torch.randn(2 * first.out_features, first.in_features)[::2])
    first.bias = policy.network.norm.bias
    folder = checkpoint.save(tmp_path / "shared", policy, recipe={}, extra={})
    for name, value in checkpoint.load(folder).state_dict().items():
        assert torch.equal(value, policy.state_dict()[name]), name


def test_fingerprint_depends_on_behaviour_alone(tmp_path):
    policy = make()
    a = checkpoint.save(tmp_path / "a", policy, recipe={"seed": 1}, extra={})
    b = checkpoint.save(tmp_path / "b", policy, recipe={"seed": 2}, extra={"step": 3})
    c = checkpoint.save(tmp_path / "c", make(), recipe={"seed": 1}, extra={})
    assert checkpoint.fingerprint(a) == checkpoint.fingerprint(b) != checkpoint.fingerprint(c)


def test_replacing_leaves_only_the_new_one(saved):
    second = make(5)
    checkpoint.save(saved, second, recipe={}, extra={"step": 8})
    assert checkpoint.load(saved).config.mlp.width == 5
    assert [p.name for p in saved.parent.iterdir()] == ["last"]


def test_replacing_without_exchange(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "_exchange", lambda a, b: False)
    checkpoint.save(saved, make(5), recipe={}, extra={})
    assert checkpoint.load(saved).config.mlp.width == 5
    assert [p.name for p in saved.parent.iterdir()] == ["last"]


def test_leftovers_of_a_killed_save_are_cleared(saved):
    stale = saved.with_name(".last.new")
    stale.mkdir()
    (stale / "weights.safetensors").write_bytes(b"half")
    checkpoint.save(saved, make(5), recipe={}, extra={})
    assert [p.name for p in saved.parent.iterdir()] == ["last"]


KILLED = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
from policies import checkpoint
count = 0
def hook(event, args):
    global count
    if event in ("open", "os.rename", "os.mkdir", "shutil.rmtree", "os.remove", "os.rmdir", "ctypes.dlopen") and str({root!r}) in str(args):
        count += 1
        if count == {at}:
            os._exit(9)
sys.addaudithook(hook)
checkpoint._write_folder(Path({root!r}) / "last", {{name: b"new" for name in (*checkpoint.FILES, "manifest.json")}})
"""


def test_killed_at_any_point_leaves_old_or_new_whole(tmp_path):
    outcomes = set()
    for at in range(1, 40):
        root = tmp_path / str(at)
        checkpoint._write_folder(root / "last", dict.fromkeys((*checkpoint.FILES, "manifest.json"), b"old"))
        script = KILLED.format(path=[str(Path(policies.__file__).parent.parent)], root=str(root), at=at)
        code = subprocess.run([sys.executable, "-c", script], timeout=60).returncode
        contents = {(root / "last" / name).read_bytes() for name in (*checkpoint.FILES, "manifest.json")}
        assert len(contents) == 1, f"mixed after being killed at operation {at}"
        outcomes |= contents
        if code == 0:
            break
        assert code == 9
    assert code == 0 and outcomes == {b"old", b"new"} and at > 8


def test_something_else_in_the_way_is_kept(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    for name in ("notes", "notes/thesis.txt"):
        with pytest.raises(InputError, match="something that is not a checkpoint is in the way"):
            checkpoint.save(tmp_path / name, make(), recipe={}, extra={})
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "mine"


def test_disk_full_is_one_line_and_keeps_the_old_one(saved, monkeypatch):
    before = checkpoint.fingerprint(saved)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        checkpoint.save(saved, make(5), recipe={}, extra={})
    assert checkpoint.fingerprint(saved) == before and [p.name for p in saved.parent.iterdir()] == ["last"]


def test_missing_and_foreign(tmp_path, saved):
    assert "no such folder" in refusal(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "not a checkpoint, it has no manifest.json" in refusal(tmp_path / "empty")
    (tmp_path / "empty" / "manifest.json").write_text('{"name": "web app"}')
    assert "is not of a robopolicy checkpoint" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_every_file_is_checked(saved, name):
    body = (saved / name).read_bytes()
    (saved / name).write_bytes(body[: len(body) // 2])
    assert f"{name} is truncated" in refusal(saved)
    (saved / name).write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    assert f"{name} was altered" in refusal(saved)
    (saved / name).write_bytes(body + b" ")
    assert f"{name} was altered" in refusal(saved)
    (saved / name).unlink()
    assert f"{name} is missing" in refusal(saved)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"format": 99}, "format 99 is newer than this version reads"),
        ({"format": "x"}, "is newer than this version reads"),
        ({"files": {"../../etc/passwd": {}}}, "lists other files"),
        ({"files": {name: {} for name in checkpoint.FILES}}, "lacks the size or hash"),
        ({"spec_fingerprint": "0" * 16}, "spec.json has fingerprint"),
        ({"kind": "other"}, "is not of a robopolicy checkpoint"),
    ],
)
def test_altered_manifests(saved, change, message):
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(manifest | change))
    assert message in refusal(saved)


def test_truncated_manifest(saved):
    body = (saved / "manifest.json").read_bytes()
    (saved / "manifest.json").write_bytes(body[: len(body) // 2])
    assert "manifest.json is truncated or altered" in refusal(saved)


@pytest.mark.parametrize(
    "text,message",
    [
        ("type: regresion\nconfig: {}", "policy 'regresion' is unknown; did you mean 'regression'"),
        ("type: regression\nconfig: {horizon: wide}", "key 'horizon'"),
        ("type: regression\nconfig: {mlp: {widht: 3}}", "key 'mlp.widht'"),
        ("type: regression\nconfig: {horizon: 3}", "horizon 3: expected at least"),
        ("type: regression\nconfig: {observations: [observation.stat]}", "observation field 'observation.stat' does not exist; did you mean"),
        ("type: regression", "expected type and config"),
        ("type: [", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_policy_file_is_validated(saved, text, message):
    rewrite(saved, "policy.yaml", text.encode())
    assert message in refusal(saved)


def test_weights_must_fit_the_config(saved, tmp_path):
    body = (saved / "policy.yaml").read_bytes()
    rewrite(saved, "policy.yaml", body.replace(b"width: 4", b"width: 9"))
    assert "'network.first.weight': its config asks for float32[9, 42], found float32[4, 42]" in refusal(saved)
    rewrite(saved, "policy.yaml", body)
    from safetensors.torch import load_file
    from safetensors.torch import save as to_bytes

    weights = load_file(saved / "weights.safetensors")
    rewrite(saved, "weights.safetensors", to_bytes({k: v for k, v in weights.items() if k != "network.last.bias"}))
    assert "lacks 'network.last.bias'" in refusal(saved)
    rewrite(saved, "weights.safetensors", to_bytes(weights | {"third": torch.zeros(1)}))
    assert "has 'third', which its config does not know" in refusal(saved)
    rewrite(saved, "weights.safetensors", to_bytes(weights | {"network.norm.bias": torch.zeros(4, dtype=torch.float64)}))
    assert "asks for float32[4], found float64[4]" in refusal(saved)


def test_a_pickle_is_never_opened(saved):
    import pickle

    rewrite(saved, "weights.safetensors", pickle.dumps({"first.weight": 1}))
    assert "weights.safetensors is not a safetensors file" in refusal(saved)


def test_normaliser_is_validated(saved):
    from safetensors.torch import save as to_bytes

    rewrite(saved, "normalizer.safetensors", to_bytes({"action.offset": torch.zeros(2)}))
    assert "normalizer.safetensors: normaliser: field 'action' lacks" in refusal(saved)
    rewrite(saved, "normalizer.safetensors", to_bytes({}))
    assert "config, spec and normaliser do not fit: normaliser: field 'observation.state' was not fitted" in refusal(saved)


def test_manifest_and_spec_are_read_without_torch(saved):
    script = f"import sys; from policies import checkpoint as c; c.read_spec({str(saved)!r}); c.fingerprint({str(saved)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(policies.__file__).parent.parent, timeout=60).returncode == 0
