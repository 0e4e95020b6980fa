"""``robopolicy compare``: what it takes, evaluates, says, and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.evaluation import chain, ledger, outcomes
from robopolicy.evaluation.comparison import judge
from robopolicy.evaluation.earlier import of_entrant
from robopolicy.evaluation.outcomes import Outcomes
from robopolicy.evaluation.seeds import Purpose
from robopolicy.evaluation.statistics import mcnemar, paired_difference
from robopolicy.evaluation.versus import prepare
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.imitation import train
from tests.robopolicy import small_runs
from tests.robopolicy.test_eval_command import die
from tests.robopolicy.test_report import made


def side(label: str, success: np.ndarray, task: str = "pusht", first: int = 2_000_000, **more: Any) -> Outcomes:
    """Return outcomes of as many states as ``success`` (n,) has."""
    n = len(success)
    values = {"score": success * 0.5, "returns": success * 10.0, **more}
    return Outcomes(label, task, outcomes.world_of(task, "1", 100, {}), "report", np.arange(n) + first, np.asarray(success, bool), **values, source="test")


def test_the_sentence_says_what_the_tests_say() -> None:
    a, b = np.arange(100) < 80, (np.arange(100) >= 5) & (np.arange(100) < 65)
    found = judge([side("flow", a)], [side("regression", b)])
    difference, low, _ = paired_difference(100, 20, 0)
    assert found.whole.p_value == mcnemar(20, 0) and found.significant
    expected = f"flow solves 80.0% and regression 60.0% on the same 100 initial states of pusht: a difference of +20.0 points, 95% interval {100 * low:+.1f} to"
    assert found.sentence().startswith(expected) and found.sentence().endswith("flow is better.") and difference == 0.2
    other = judge([side("regression", b)], [side("flow", a)])
    assert "-20.0 points" in other.sentence() and other.sentence().endswith("flow is better.")
    assert other.whole.p_value == found.whole.p_value
    none = judge([side("flow", a)], [side("twin", np.roll(a, 1))], tell=0.1)
    assert "no difference could be told" in none.sentence() and list(none.episodes) == [0.1] and "for 10.0 points" in none.hint()


def test_only_shared_states_of_the_same_world_are_paired() -> None:
    a = side("flow", np.ones(10, bool))
    assert judge([a], [side("other", np.zeros(10, bool), first=2_000_006)]).whole.n == 4
    for wrong in (side("other", np.ones(10, bool), first=2_000_010), side("other", np.ones(10, bool), task="two-route")):
        with pytest.raises(InputError, match="cannot be paired"):
            judge([a], [wrong])
    assert outcomes.world_of("t", "1", 5, {"engine": "mujoco", "observations": "image", "randomize": None}) == outcomes.world_of("t", "1", 5, {})
    assert outcomes.world_of("t", "1", 5, {"perturb": {"mass": 2}}) != outcomes.world_of("t", "1", 5, {})


def test_several_tasks_weigh_the_same() -> None:
    rng = np.random.default_rng(0)
    sizes = {"a": 30, "b": 60, "c": 30}
    first = [side("flow", rng.random(n) < 0.7, task) for task, n in sizes.items()]
    second = [side("regression", rng.random(n) < 0.5, task) for task, n in sizes.items()]
    found = judge([*first, side("flow", np.ones(3, bool), "alone")], second)
    assert [task for task, _, _ in found.tasks] == ["a", "b", "c"] and found.whole.n == 120
    assert found.whole.difference == pytest.approx(np.mean([d.difference for _, d, _ in found.tasks]))
    assert "only flow was run on alone" in found.notes[0] and "3 tasks" in found.sentence()
    assert json.loads(json.dumps(found.to_dict()))["by_task"][1]["n"] == 60
    with pytest.raises(InputError, match="cannot be averaged"):
        judge(first, second, "return")


def test_scores_and_returns_where_success_says_nothing() -> None:
    rng = np.random.default_rng(1)
    never, base = np.zeros(40, bool), rng.random(40)
    one = side("flow", never, score=base + 0.1, returns=base)
    other = side("regression", never, score=base + rng.normal(0, 0.02, 40), returns=base)
    assert judge([one], [other]).quantity == "score"
    plain = [side(name, never, score=None, returns=base + shift) for name, shift in (("x", 0.3), ("y", 0.0))]
    found = judge([plain[0]], [plain[1]])
    assert found.quantity == "return" and found.whole.difference == pytest.approx(0.3) and found.whole.p_value < 1e-3
    with pytest.raises(InputError, match="no score of single episodes"):
        judge([one], [side("bare", never, score=None)], "score")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of two-route."""
    folder = tmp_path_factory.mktemp("compare") / "run"
    train(small_runs.recipe(folder, evaluation={"episodes": 6, "block": 3}), progress=False)
    return folder


def said(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    file = tmp_path / "result.json"
    assert main(["compare", *map(str, arguments), "--json", str(file), "--quiet"]) == 0
    return json.loads(file.read_text())


def test_a_run_against_the_expert_from_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "e"
    found = said(tmp_path, run, "expert", "--out", out)
    assert (found["first"], found["second"], found["n"], found["tasks"]) == ("flow", "expert", 6, 1) and found["power"]
    assert found["sentence"] in capsys.readouterr().out
    rows = chain.merged([out / ledger.FILE])
    assert [r["label"] for r in rows] == ["flow", "expert"] and rows[0]["training"]["seed"] == 3 and rows[0]["training"]["step"] == 60
    again = said(tmp_path, run, "expert", "--out", out)
    assert again == found and len(chain.merged([out / ledger.FILE])) == 2, "what the ledger has is not evaluated again"
    more = said(tmp_path, "expert", run, "-n", 4, "--out", out, "--task", "two-route")
    assert more["n"] == 4 and more["first"] == "expert" and len(chain.merged([out / ledger.FILE])) == 4

    # the same from what was written: folders, the ledger's labels, and the ledger alone
    folders = {r["label"]: out / Path(r["results"]).parent for r in rows}
    assert said(tmp_path, folders["flow"], folders["expert"]) == found
    labels = [f"{out / ledger.FILE}:{label}" for label in ("flow", "expert")]
    assert said(tmp_path, *labels)["n"] == 4  # the newest
    alone = tmp_path / "alone.jsonl"
    assert main(["ledger", "merge", str(alone), str(out / ledger.FILE)]) == 0
    assert said(tmp_path, f"{alone}:flow", f"{alone}:expert")["n"] == 4
    beside = said(tmp_path, run, folders["expert"], "--out", tmp_path / "new")
    assert beside == found, "a checkpoint is evaluated in the world and on the states of the other side"


def test_a_policy_without_a_hash_is_not_taken_for_the_expert(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    said(tmp_path, run, "expert", "--out", out)
    rows = [{**row, "policy": "flow"} for row in ledger.read(out / ledger.FILE)]  # the second as of a policy in memory
    (out / ledger.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    said(tmp_path, run, "expert", "--out", out)
    assert [row["policy"] for row in ledger.read(out / ledger.FILE)] == ["flow", "flow", "expert"]


def test_what_was_executed_otherwise_is_not_taken_from_the_ledger(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    assert main(["eval", str(run), "--method", "rti:level=2,steps=1", "--out", str(out), "--videos", "0", "--quiet"]) == 0
    said(tmp_path, run, "expert", "--out", out)
    assert [str(row["execution"]).partition(",")[0] for row in chain.merged([out / ledger.FILE])] == ["rti:level=2", "None", "None"]
    contest = prepare([str(run)], None, {}, Purpose.REPORT, out)
    rows = list(ledger.read(out / ledger.FILE))
    found = of_entrant(contest, contest.entrants[0], rows[1]["env"], "cpu")
    assert found is not None and found.execution is None
    (out / ledger.FILE).write_text(json.dumps(rows[0]) + "\n")
    assert of_entrant(contest, contest.entrants[0], rows[0]["env"], "cpu") is None


def test_an_evaluation_of_another_world_is_refused_before_the_first_episode(run: Path, tmp_path: Path) -> None:
    made("flow", "flow", 50, 10, 1.0, task="two-route").save(tmp_path / "plain")
    names, out = [str(run), str(tmp_path / "plain")], tmp_path / "e"
    assert len(prepare(names, None, {}, Purpose.REPORT, out).entrants) == 2
    with pytest.raises(InputError, match="is of two-route: another world"):
        prepare(names, None, {}, Purpose.REPORT, out, perturb=["latency:100"])


def test_others_are_run_in_the_world_of_the_first_checkpoint(tmp_path: Path) -> None:
    """A policy of randomised worlds could be paired neither with the expert nor with one of plain worlds, which was said when all had been run."""
    varied = {"randomize": {"model": {"mass:*": {"scale": [0.9, 1.1]}}}, "max_episode_steps": 40}
    for name, env in (("varied", varied), ("plain", {})):
        training = {"steps": 2, "batch_size": 8, "optimizer": {"warmup_steps": 1}}
        data = {"collect": 2, "path": str(tmp_path / f"{name}-data")}
        values = {"task": "cartpole", "output": str(tmp_path / name), "data": data, "policy": {"type": "flow", **small_runs.MLP}, "training": training}
        train(recipe_from_dict({**values, "env": env, "evaluation": {"episodes": 4, "block": 2}}, "test"), progress=False)
    for names in ([tmp_path / "varied", "expert", tmp_path / "plain"], ["expert", tmp_path / "varied", tmp_path / "plain"]):
        contest = prepare([str(name) for name in names], None, {}, Purpose.REPORT, tmp_path / "e")
        worlds = {json.dumps([e.env.get("randomize"), e.env["max_episode_steps"]]) for e in contest.entrants}
        assert len(worlds) == 1 and "mass" in worlds.pop() and contest.config.episodes == 4
    assert said(tmp_path, "expert", tmp_path / "varied", "--out", tmp_path / "e")["n"] == 4
    words = ["eval", tmp_path / "varied", "--compare", "expert", "--compare", tmp_path / "plain", "--out", tmp_path / "f", "--quiet"]
    assert main([str(word) for word in words]) == 0


def test_one_label_of_several_checkpoints_is_refused(tmp_path: Path) -> None:
    file = tmp_path / ledger.FILE
    for seed in (1, 2):
        e = made("flow", "flow", 50 + seed, 10, 1.0)
        e.checkpoint_hash = f"{seed}" * 16
        ledger.enter(file, ledger.row(e, ""))
    with pytest.raises(InputError, match="2 checkpoints of flow were run on metaworld/peg-insert-side"):
        outcomes.read(f"{file}:flow")
    assert [o.success.sum() for o in outcomes.read(f"{file}:{'1' * 16}")] == [51]


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "e"
    said(tmp_path, run, "expert", "--out", out, "-n", 2)
    for arguments, expected in (
        ((f"{out / ledger.FILE}:flaw", "expert"), "did you mean 'flow'?"),
        ((out, "expert"), "found those of 2"),
        ((run, tmp_path / "none"), "no such checkpoint or run"),
        ((run, "expert", "--by", "sucess"), "did you mean 'success'?"),
        ((run, "expert", "--tell", "5"), "at most 1"),
        ((run, "expert", "--tell", "nan"), "at most 1"),
        ((f"{tmp_path}/no.jsonl:flow", "expert"), "cannot be read"),
    ):
        assert main(["compare", *map(str, arguments), "--quiet"]) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1, error


def test_what_is_compared_with_itself_has_one_name_wherever_it_is_called(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The expert had the name of the folder in which the command was called, in the ledger too."""
    monkeypatch.chdir(tmp_path)
    twice = said(tmp_path, "expert", "expert", "--task", "two-route", "--task", "cartpole", "-n", 2, "--out", "e")
    assert (twice["first"], twice["second"]) == ("expert", "expert")
    found = said(tmp_path, run, run / "checkpoints" / "step_000060", "-n", 2, "--out", "e")
    assert (found["first"], found["second"], found["p_value"]) == ("flow", "flow", 1.0)
    record = next((tmp_path / "e").glob("expert-two-route-*"))
    assert main(["eval", "expert", "--task", "two-route", "-n", "2", "--compare", str(record), "--out", "e", "--quiet"]) == 0
    assert {r["label"] for r in ledger.read(tmp_path / "e" / ledger.FILE)} == {"expert", "flow"}


def test_two_policies_of_one_label_are_told_apart(tmp_path: Path) -> None:
    """Two training seeds, each evaluated for itself: "flow is better" said nothing."""
    for seed, rate in ((1, 50), (2, 90)):
        made("flow", "flow", rate, 10, 1.0).save(tmp_path / f"seed{seed}")
        made("peer: theirs", "peer", rate, 10, 1.0).save(tmp_path / f"peer{seed}")
        made("expert", "expert", rate, 0, 1.0).save(tmp_path / f"expert{seed}")
    a, b = tmp_path / "seed1", tmp_path / "seed2"
    found = said(tmp_path, a, b)
    assert (found["first"], found["second"]) == (f"flow ({a})", f"flow ({b})") and found["sentence"].endswith(f"flow ({b}) is better.")
    assert said(tmp_path, a, a)["first"] == "flow" and said(tmp_path, tmp_path / "expert1", tmp_path / "expert2")["second"] == "expert"
    for file in (tmp_path / "peer1" / "evaluation.json", tmp_path / "peer2" / "evaluation.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "checkpoint_hash": None, "checkpoint": None}))
    assert said(tmp_path, tmp_path / "peer1", tmp_path / "peer2")["first"] == f"peer: theirs ({tmp_path / 'peer1'})"


@pytest.mark.parametrize(("option", "value"), [("--episodes", 40), ("--seed", 5)])
def test_states_that_a_side_was_not_evaluated_on_are_refused(option: str, value: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They were asked for in vain: what had been evaluated was compared, without a word."""
    made("flow", "flow", 50, 10, 1.0).save(tmp_path / "a")
    made("regression", "regression", 90, 10, 1.0).save(tmp_path / "b")
    sides = [tmp_path / "a", tmp_path / "b"]
    assert said(tmp_path, *sides, "--episodes", 100, "--seed", 0)["n"] == 100
    for words in (sides, [sides[0], "expert"], ["expert", sides[0]]):
        assert main(["compare", *map(str, words), option, str(value), "--out", str(tmp_path / "e"), "--quiet"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {option} {value}: {tmp_path / 'a'} was evaluated on") and error.count("\n") == 1, error
    assert not (tmp_path / "e").exists()


def test_a_task_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    found = said(tmp_path, "expert", "expert", "--task", "two-route", "--task", "two_route", "-n", 2, "--out", tmp_path / "e")
    assert (found["n"], found["tasks"]) == (2, 1)


@pytest.mark.parametrize("words", [["compare", "expert", "expert"], ["robustness", "expert", "--kinds", "action_noise"]])
def test_a_worker_that_dies_is_one_line_and_code_1(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robopolicy.evaluation.workers._work", die)
    code = main([*words, "--task", "two-route", "-n", "2", "--block", "1", "--workers", "2", "--out", str(tmp_path / "e"), "--quiet"])
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 1 and len(error) == 1 and "worker died" in error[0]


def test_a_record_on_selection_seeds_is_compared_on_them_and_says_so(run: Path, tmp_path: Path) -> None:
    assert main(["eval", "expert", "--task", "two-route", "-n", "4", "--selection", "--out", str(tmp_path / "s"), "--quiet"]) == 0
    record, out = next((tmp_path / "s").glob("*/")), tmp_path / "e"
    found = said(tmp_path, run, record, "--out", out)
    assert any("selection seeds" in note for note in found["notes"])
    assert said(tmp_path, run, record, "--selection", "--out", out) == found
    rows = chain.merged([out / ledger.FILE])
    assert [(r["purpose"], r["seed0"], r["noise_seed"]) for r in rows] == [("selection", 1_000_000, 0)], "the policy's noise is that of any other evaluation"
    assert not said(tmp_path, run, "expert", "--out", out)["notes"]
