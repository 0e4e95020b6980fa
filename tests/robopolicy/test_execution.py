"""Methods of execution on the command line: chosen by name, saved in the checkpoint, used by eval, serve and run, told in the ledger."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies import checkpoint
from policies.noise import row_keys
from policies.realtime import registry
from policies.realtime.ensemble import Ensemble
from policies.realtime.rti import Rti
from policies.spec import InputError
from real.client import PolicyClient
from real.policy import LocalPolicy
from real.server import PolicyServer
from robopolicy import execution
from robopolicy.cli import main
from robopolicy.data.collect import collect
from robopolicy.deployed_policy import load_local, open_policy
from robopolicy.deployment import load_run_config
from robopolicy.evaluation import ledger
from robopolicy.evaluation.rollout import evaluate
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.imitation import train
from tests.policies.toy import STATE, build, random_batch

SIZE = {"mlp": {"width": 32, "blocks": 1, "clock_features": 8}, "n_obs_steps": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of two-route, trained for a moment; not to be changed."""
    root = tmp_path_factory.mktemp("runs")
    collect("two-route", root / "data", 10, workers=1, progress=False)
    training = {"steps": 60, "batch_size": 64, "optimizer": {"lr": 3e-3, "warmup_steps": 5}, "checkpoint_every": 60, "log_every": 10}
    values = {"task": "two-route", "data": {"path": str(root / "data")}, "output": str(root / "diffusion"), "training": training}
    evaluation = {"episodes": 6, "block": 4}
    train(recipe_from_dict({**values, "policy": {"type": "diffusion", **SIZE}, "evaluation": evaluation}, "test"), progress=False)
    return root / "diffusion"


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A copy of its last checkpoint."""
    return Path(shutil.copytree(run / (run / "last").read_text().strip(), tmp_path / "step_000060"))


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must refuse; return its one line."""
    capsys.readouterr()
    code = main([str(a) for a in arguments])
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    return error


def result(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """Run a command that must succeed; return its JSON."""
    file = tmp_path / "result.json"
    assert main([*(str(a) for a in arguments), "--json", str(file), "--quiet"]) == 0
    return json.loads(file.read_text())


# --- names and texts -------------------------------------------------------------------------------------------------


def test_methods_are_the_files_of_their_folder() -> None:
    names = registry.method_names()
    assert {"rti", "ensemble"} <= set(names) and not {"method", "registry", "overlap"} & set(names)
    for name in names:
        kind = registry.method_class(name)
        assert kind.__module__ == kind.Config.__module__ == f"policies.realtime.{name}" and len(registry.description(name)) > 20
        assert registry.config_of({"type": name}) == kind.Config()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rti", {"type": "rti"}),
        (" rti : steps = 3 , level=15", {"type": "rti", "steps": 3, "level": 15}),
        ("ensemble:m=0.5", {"type": "ensemble", "m": 0.5}),
        ("bid:weak=runs/a b/last", {"type": "bid", "weak": "runs/a b/last"}),
        ("rti:level=null", {"type": "rti", "level": None}),
        ("none", None),
    ],
)
def test_texts_are_read(text: str, expected: dict[str, Any] | None) -> None:
    assert registry.parse(text) == expected
    again = registry.parse(registry.to_text(expected))
    assert again == (expected and {k: v for k, v in expected.items() if v is not None})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rtii", "method 'rtii' is unknown; did you mean 'rti'"),
        ("ensembel:m=1", "did you mean 'ensemble'"),
        ("nonne", "did you mean 'none'"),
        ("none:steps=3", "method 'none' is unknown"),
        ("rti:stepz=3", "method 'rti': key 'stepz' is unknown; did you mean 'steps'"),
        ("rti:steps", "expected NAME:KEY=VALUE,KEY=VALUE, found 'steps'"),
        ("rti:", "expected NAME:KEY=VALUE,KEY=VALUE, found ''"),
        ("rti:steps=3,steps=4", "key 'steps' is given twice"),
        ("rti:type=flow", "expected NAME:KEY=VALUE"),
        ("rti:steps=three", "method 'rti': key 'steps': Input should be a valid integer"),
        ("rti:level=100", "key 'level': Input should be less than 100, found 100"),
        ("bid:samples=3,keep=4", "method 'bid': keep 4: expected at most samples, 3"),
    ],
)
def test_mistakes_in_texts_are_one_line_before_anything_runs(text: str, words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, "eval", run, "--method", text, "--out", tmp_path / "e")
    assert words in line and not (tmp_path / "e").exists()


def test_what_a_policy_or_the_expert_cannot_do_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "e")
    assert "level 2, steps 4" in said(capsys, "eval", run, "--method", "rti:level=2,steps=4", *out)
    assert "expert plans one action at a time" in said(capsys, "eval", "expert", "--task", "two-route", "--method", "rti", *out)
    assert "rti" in said(capsys, "serve", run, "--method", "rtj")
    assert "give it to robopolicy serve --method" in said(
        capsys, "run", "policy=tcp://127.0.0.1:1", "method=rti", "robot=twin", f"robot.address=ipc://{tmp_path}/x"
    )
    assert not (tmp_path / "e").exists()


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_eval_tells_the_method_and_counts_its_calls(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = result(tmp_path, "eval", run, "--method", "rti:steps=3,level=15", "--compare", run, "--out", tmp_path / "e")
    ours, plain = out["evaluations"]
    assert [e["label"] for e in out["evaluations"]] == ["diffusion+rti", "diffusion"] and out["comparisons"][0]["n"] == 6
    assert registry.parse(ours["execution"]) == {"type": "rti", "steps": 3, "level": 15, "n_action_steps": 1} and plain["execution"] is None
    for e, calls in ((ours, lambda n: 10 + 3 * (n - 1)), (plain, lambda n: 10 * -(-n // 8))):
        assert all(x["network_calls"] == calls(x["length"]) for x in e["episodes"])
        steps = sum(x["length"] for x in e["episodes"])
        assert e["summary"]["network_calls_per_step"] == pytest.approx(sum(x["network_calls"] for x in e["episodes"]) / steps)
    assert (ours["n_action_steps"], plain["n_action_steps"], ours["horizon"]) == (1, 8, 16)
    lines = list(ledger.read(tmp_path / "e" / "ledger.jsonl"))
    assert [(x["policy"], x["execution"]) for x in lines] == [("diffusion+rti", ours["execution"]), ("diffusion", None)]
    printed = capsys.readouterr().out
    assert "diffusion+rti: executed by rti:level=15,steps=3" in printed and "control step" in printed


def test_workers_and_blocks_change_nothing(run: Path, tmp_path: Path) -> None:
    one = result(tmp_path, "eval", run, "--method", "rti:level=15", "--out", tmp_path / "e")["evaluations"][0]
    two = result(tmp_path, "eval", run, "--method", "rti:level=15", "--workers", 2, "--out", tmp_path / "e")["evaluations"][0]
    assert one["episodes"] == two["episodes"]


@pytest.mark.parametrize("method", ["rti:level=15", "ensemble"])
def test_an_episode_does_not_know_the_one_before(method: str, folder: Path) -> None:
    def episodes(first: int, count: int, block: int) -> dict[int, Any]:
        found = evaluate(folder, "two-route", episodes=count, seed0=2_000_000 + first, block=block, latency_calls=0, progress=False, method=method).episodes
        return {e.seed: (e.success, e.return_, e.length, e.network_calls) for e in found}

    after_others = episodes(0, 4, 1)  # one row: each episode follows the one before it
    alone = {seed: outcome for i in (1, 3) for seed, outcome in episodes(i, 1, 1).items()}
    assert all(after_others[seed] == outcome for seed, outcome in alone.items())  # bit for bit
    together = episodes(0, 4, 4)
    assert all(together[seed][0::2] == outcome[0::2] and together[seed][1] == pytest.approx(outcome[1], abs=1e-3) for seed, outcome in after_others.items())


def test_policies_in_memory_take_methods_too(folder: Path) -> None:
    def outcome(policy, **options):
        found = evaluate(policy, "two-route", episodes=3, block=3, latency_calls=0, progress=False, **options)
        return found.label, found.execution, found.episodes

    named = outcome(folder, method="rti:level=15")
    loaded = checkpoint.load(folder)
    assert outcome(loaded, method="rti:level=15") == named
    wrapped = execution.load_policy(folder, method="rti:level=15")
    assert isinstance(wrapped, Rti) and outcome(wrapped) == named and outcome(wrapped, workers=2) == named
    assert outcome(wrapped, method="none") == outcome(loaded) and outcome(loaded)[0] == "diffusion"


# --- saved in the checkpoint -----------------------------------------------------------------------------------------


def test_a_method_is_saved_and_nothing_else_changes(folder: Path) -> None:
    before, weights, policy = checkpoint.fingerprint(folder), (folder / "weights.safetensors").read_bytes(), (folder / "policy.yaml").read_bytes()
    assert checkpoint.read_execution(folder) is None
    checkpoint.save_execution(folder, {"type": "rti", "level": 20, "steps": 2})
    assert checkpoint.read_execution(folder) == {"type": "rti", "level": 20, "steps": 2}
    assert checkpoint.fingerprint(folder) != before and (folder / "weights.safetensors").read_bytes() == weights
    assert type(checkpoint.load(folder)).__name__ == "DiffusionPolicy"  # to train on, or to execute in another way
    method = execution.load_policy(folder)
    assert isinstance(method, Rti) and (method.level, len(method.levels) - 1) == (20, 2) and not method.training
    assert isinstance(execution.load_policy(folder, method="ensemble"), Ensemble)
    assert not isinstance(execution.load_policy(folder, method="none"), Rti)
    checkpoint.save_execution(folder, None)
    assert checkpoint.fingerprint(folder) == before and (folder / "policy.yaml").read_bytes() == policy


def test_a_method_that_cannot_be_is_never_saved_and_one_that_was_altered_is_refused(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(InputError, match="key 'level'"):
        checkpoint.save_execution(folder, {"type": "rti", "level": 1000})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before and len(list(folder.parent.iterdir())) == 1
    (folder / "policy.yaml").write_bytes(before["policy.yaml"] + b"execution: {type: rti}\n")
    with pytest.raises(InputError, match=r"policy.yaml was altered"):
        execution.load_policy(folder)


def test_readers_see_the_checkpoint_before_or_after(folder: Path) -> None:
    stop, seen, failed = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            try:
                seen.add(registry.to_text(checkpoint.read_execution(folder)))
            except InputError as error:  # the folder was changed between its manifest and its file
                if "altered" not in str(error) and "truncated" not in str(error):
                    failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for level in range(2, 10):
        checkpoint.save_execution(folder, {"type": "rti", "level": level})
    stop.set()
    thread.join()
    assert not failed and seen <= {"none", *(f"rti:level={level}" for level in range(2, 10))}
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_tune_chooses_on_selection_seeds_and_what_it_saves_is_used(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "e", "-n", 4, "--block", 4)
    tuned = result(tmp_path, "tune", folder, "rti:steps=2", "level=5,40", *out)
    assert {t["method"]["level"] for t in tuned["trials"]} == {5, 40} and all(t["method"]["steps"] == 2 for t in tuned["trials"])
    assert tuned["trials"][0]["successes"] == max(t["successes"] for t in tuned["trials"]) and tuned["chosen"] == tuned["trials"][0]["method"]
    assert checkpoint.read_execution(folder) == tuned["chosen"]
    rows = list(ledger.read(tmp_path / "e" / "ledger.jsonl"))
    assert {r["purpose"] for r in rows} == {"selection"} and {r["seed0"] for r in rows} == {1_000_000}
    printed = capsys.readouterr().out
    assert "chosen: rti:level=" in printed and "95% interval" in printed
    used = result(tmp_path, "eval", folder, *out)["evaluations"][0]
    assert registry.parse(used["execution"])["level"] == tuned["chosen"]["level"] and used["label"] == "diffusion+rti"
    assert [(c["what"], c["seed0"], c["trials"]) for c in used["chosen"]] == [("execution", 1_000_000, 2)], "the ledger knows on which seeds"
    assert result(tmp_path, "eval", folder, "--method", "none", *out)["evaluations"][0]["execution"] is None
    assert main(["tune", str(folder), "none"]) == 0 and checkpoint.read_execution(folder) is None


def test_tune_tries_what_the_method_says_and_refuses_the_rest(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [c["level"] for c in execution.candidates(folder, "rti")] == [2, 5, 10, 20, 40]
    assert execution.remark(folder, "rti") == ""  # two-route has no gripper
    gripped = checkpoint.save(tmp_path / "gripped", build("diffusion", STATE, random_batch(STATE, 8)), recipe={}, extra={})
    assert [c["level"] for c in execution.candidates(gripped, "rti")] == [2, 5, 10, 20, 39, 40]
    assert "from level 39 on" in execution.remark(gripped, "rti") and execution.remark(gripped, "ensemble") == ""
    assert "leaves nothing to choose" in said(capsys, "tune", folder, "rti:level=5")
    assert "leaves nothing to choose" in said(capsys, "tune", folder, "ensemble")
    assert "'levl' is unknown; did you mean 'level'" in said(capsys, "tune", folder, "rti", "levl=5,6")
    assert "expected KEY=VALUE1,VALUE2" in said(capsys, "tune", folder, "rti", "level")
    assert "expected 1 to 2" in said(capsys, "tune", folder, "rti", "level=10,1", "--out", tmp_path / "e") and not (tmp_path / "e").exists()
    assert "steps 50" in said(capsys, "tune", folder, "rti:steps=50")  # more than any level has
    assert "takes nothing else" in said(capsys, "tune", folder, "none", "level=3")
    assert "takes nothing else" in said(capsys, "tune", folder, "none", "--json", "-")


# --- serving and driving ---------------------------------------------------------------------------------------------


def test_a_local_policy_and_a_server_execute_alike(folder: Path) -> None:
    checkpoint.save_execution(folder, {"type": "rti", "level": 15})
    policy, name = load_local(folder)
    assert isinstance(policy, Rti) and "diffusion+rti" in name and "diffusion step" in load_local(folder, method="none")[1]
    generator, calls, stop = np.random.default_rng(0), [], threading.Event()
    for call in range(4):
        obs = {n: generator.normal(size=(3, 1, *f.shape)).astype(np.float32) for n, f in policy.spec.observation.fields.items()}
        calls.append((obs, row_keys(0, np.arange(3), call), np.array([False, call == 2, False])))

    def plans(one: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        state, out = one.initial_state(3), []
        for obs, keys, restarts in calls:
            plan, state = one.act(obs, one.reset(state, restarts), keys)
            out.append((plan.actions, plan.info["network_calls"]))
        return out

    server = PolicyServer(policy, "tcp://127.0.0.1:0", stats_s=0, log=lambda line: None)
    thread = threading.Thread(target=server.serve, args=(stop.is_set, 0.02), daemon=True)
    thread.start()
    local, client = LocalPolicy(load_local(folder)[0]), PolicyClient(server.address, streams=3)
    try:
        assert client.n_action_steps == local.n_action_steps == 1
        for (a, n), (b, m) in zip(plans(local), plans(client), strict=True):
            assert np.array_equal(a, b) and np.array_equal(n, m)
        assert [n.tolist() for _, n in plans(local)] == [[10] * 3, [3] * 3, [3, 10, 3], [3] * 3]
    finally:
        local.close()
        client.close()
        stop.set()
        thread.join(5)


def test_a_run_in_one_process_takes_a_method(folder: Path) -> None:
    assert load_run_config([f"policy={folder}", "method=rti:level=5"]).method == "rti:level=5"
    for method, actions in (("rti:n_action_steps=4", 4), ("none", 8), (None, 8)):
        policy = open_policy(str(folder), method=method)
        assert policy.n_action_steps == actions
        policy.close()
