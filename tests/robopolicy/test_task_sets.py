"""One policy for several tasks: who is told what, how often each task comes, exact resuming, and that telling is what makes it work."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from policies import checkpoint
from policies.spec import InputError, SpecMismatch
from robopolicy.cli import main
from robopolicy.conditioning import (
    ONE_HOT,
    TEXT,
    ConditionConfig,
    condition_rows,
    conditioned,
    encoded,
    shares,
    task_set,
)
from robopolicy.data.collect import collect
from robopolicy.data.dataset import Dataset
from robopolicy.data.joined import join
from robopolicy.evaluation.rollout import evaluate
from robopolicy.evaluation.suite import evaluate_suite
from robopolicy.instructions import instructions, phrases
from robopolicy.recipe import load_recipe, recipe_from_dict
from robopolicy.sweep import Cell
from robopolicy.sweep_cell import _evaluated
from robopolicy.training.demonstrations import open_demonstrations
from robopolicy.training.imitation import train
from robopolicy.training.log import read_log
from robopolicy.training.run_folder import RunFolder, find_checkpoint
from robopolicy.training.task_sets import TaskDemonstrations
from sim import registry
from tests.robopolicy.small_runs import outcome
from tests.robopolicy.two_sides import LIMIT, SAID, TASKS, register

PAIR = ("metaworld/drawer-close", "metaworld/reach")


@pytest.fixture(scope="module", autouse=True)
def _tasks():
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Demonstrations of both sides: twelve of left, four of right."""
    root = tmp_path_factory.mktemp("sides")
    for task, episodes in zip(TASKS, (12, 4), strict=True):
        collect(task, root / task.replace("/", "-"), episodes=episodes, workers=1, progress=False, extra_steps=2)
    return root


def silent(text: str) -> None:
    """A note that nobody reads."""


def recipe(data, output, condition=None, task="sides", balance="tasks", path="{root}/{{task}}", **training):
    values = {
        "task": task,
        "seed": 3,
        "output": str(output),
        "data": {"path": path.format(root=data), "balance": balance},
        "env": {"condition": condition},
        "policy": {
            "type": "regression",
            "mlp": {"width": 32, "blocks": 1},
            "text": {"width": 16, "features": 8},
            "n_obs_steps": 1,
            "horizon": 4,
            "n_action_steps": 2,
        },
        "training": {"steps": 250, "batch_size": 32, "log_every": 50, "optimizer": {"lr": 3e-3, "warmup_steps": 10}, **training},
    }
    return recipe_from_dict(values, "test")


def opened(wanted) -> TaskDemonstrations:
    found = open_demonstrations(wanted, False, silent)
    assert isinstance(found, TaskDemonstrations)
    return found


def success(run, tasks=TASKS, **condition):
    env = checkpoint.read_manifest(find_checkpoint(run))["recipe"]["env"]
    shown = None if env["condition"] is None else {**env["condition"], **condition}
    found = evaluate_suite(str(find_checkpoint(run)), tasks, name="sides", episodes=20, block=10, env={"condition": shown} if shown else {}, progress=False)
    return [e.success_rate for e in found.evaluations]


def told_in_reverse(run):
    env = {"condition": {"type": "one_hot", "tasks": list(TASKS[::-1])}}
    evaluate_suite(str(find_checkpoint(run)), TASKS, name="sides", episodes=2, env=env, progress=False)


def test_only_a_policy_that_is_told_can_do_both(data, tmp_path):
    """Whatever acts on the observation alone solves at most one half: there is no time for both sides."""
    rates = {}
    for condition in (None, "one_hot", "text"):
        run = tmp_path / str(condition)
        train(recipe(data, run, condition), progress=False, note=silent)
        rates[condition] = success(run)
    assert np.mean(rates[None]) <= 0.5
    assert min(rates["one_hot"]) >= 0.9 and min(rates["text"]) >= 0.9
    unheard = success(tmp_path / "text", wording="held_out")
    assert np.mean(unheard) > 0.5, "words that it knows, in a sentence that it does not"
    logged = list(read_log(tmp_path / "one_hot", "train"))[-1]
    assert 0 < logged["loss/toy/left"] < 1 and 0 < logged["loss/toy/right"] < 1
    spec = checkpoint.read_spec(find_checkpoint(tmp_path / "one_hot"))
    assert spec.observation.fields[ONE_HOT].names == TASKS
    with pytest.raises(SpecMismatch, match=r"observation\.task.*names"):  # told in another order is told wrong
        told_in_reverse(tmp_path / "one_hot")


@pytest.mark.parametrize(("balance", "expected"), [("tasks", (0.5, 0.5)), ("frames", None), ({"alpha": 0.5}, "root")])
def test_tasks_come_as_often_as_their_balance_says(data, balance, expected):
    wanted = recipe(data, "unused", "one_hot", balance=balance)
    found = opened(wanted)
    sampler = found.sampler(wanted, found.spec)
    own = np.array([s.sampler(wanted, s.spec).num_windows for s in found.sets])
    share = own / own.sum() if expected is None else np.sqrt(own) / np.sqrt(own).sum() if expected == "root" else np.array(expected)
    np.testing.assert_allclose(sampler.counts / sampler.num_windows, share, atol=1 / own.sum())
    assert sampler.num_windows == pytest.approx(own.sum(), abs=1)
    epochs = 5
    drawn = [sampler.at(np.arange(e * sampler.num_windows, (e + 1) * sampler.num_windows)) for e in range(epochs)]
    for windows in drawn:
        assert np.bincount(sampler.task_of(windows), minlength=2).tolist() == sampler.counts.tolist(), "exactly, in every epoch"
    visits = np.bincount(np.concatenate(drawn), minlength=int(own.sum()))
    for task, seen in enumerate(np.split(visits, [own[0]])):
        assert seen.max() - seen.min() <= 1 and seen.sum() == epochs * sampler.counts[task], "a task's own windows evenly"
    assert any((a != b).any() for a, b in itertools.pairwise(drawn)), "another order in the next epoch"


def test_shares_are_those_computed_by_hand():
    assert shares([300, 100], 0.0).tolist() == [200, 200]
    assert shares([300, 100], 1.0).tolist() == [300, 100]
    assert shares([900, 100], 0.5).tolist() == [750, 250]
    assert shares([10**6, 1], 1.0).tolist() == [10**6, 1]


@pytest.mark.parametrize("condition", ["one_hot", "text", None])
def test_a_row_shows_its_own_task_and_its_own_data(data, condition):
    wanted = recipe(data, "unused", condition)
    found = opened(wanted)
    sampler, other = (found.sampler(wanted, found.spec) for _ in range(2))
    told: list[set[bytes]] = [set(), set()]
    for step in (0, 7, 3):
        whole, keys = sampler.batch(step)
        whole = {name: rows.clone() for name, rows in whole.items()}
        parts = [other.batch(step, rank, 2) for rank in range(2)]
        assert np.array_equal(np.concatenate([k for _, k in parts]), keys)
        for name, rows in whole.items():
            assert np.array_equal(np.concatenate([p[name].numpy() for p, _ in parts]), rows.numpy()), name
        task = whole["task_index"].numpy()
        direction = np.sign(whole["action"].numpy()[:, 0, 0] + 1e-9 * (2 * task - 1))
        x = whole["observation.state"].numpy()[:, -1, 0]
        assert ((direction == 2 * task - 1) | (np.abs(x) > 0.35)).all(), "right is task 1; near the goal it may turn"
        if condition == "one_hot":
            assert np.array_equal(whole[ONE_HOT].numpy(), np.repeat(np.eye(2, dtype=np.float32)[task][:, None], 1, 1))
        for row, k in enumerate(task):
            told[k] |= {whole[TEXT].numpy()[row, -1].tobytes()} if condition == "text" else set()
    for k, name in enumerate(TASKS):
        assert told[k] == ({encoded(said, 64).tobytes() for said in SAID[name].training} if condition == "text" else set())


def test_joined_arrays_are_those_of_the_sets_and_are_made_once(data, tmp_path):
    sets = [Dataset.open(data / task.replace("/", "-")) for task in TASKS]
    one = join(sets, tmp_path)
    assert one.num_episodes == 16 and one.num_frames == sum(s.num_frames for s in sets)
    for name in ("observation.state", "action"):
        assert np.array_equal(one.field(name), np.concatenate([s.field(name) for s in sets]))
        assert one.field(name).base is not None, "memory-mapped"
    assert np.array_equal(one.seeds, np.concatenate([s.seeds for s in sets]))
    (folder,) = tmp_path.glob("*/joined-*")
    before = (folder / "action.npy").stat().st_mtime_ns
    again = join([Dataset.open(s.path) for s in sets], tmp_path)
    assert again.fingerprint == one.fingerprint and (folder / "action.npy").stat().st_mtime_ns == before
    assert join(sets[::-1], tmp_path).fingerprint != one.fingerprint
    assert [p.name for p in folder.parent.glob("*.tmp")] == []


def test_a_stopped_run_goes_on_exactly(data, tmp_path):
    wanted = recipe(data, tmp_path / "run", "text", steps=30, checkpoint_every=7, log_every=5)
    train(wanted, progress=False, note=silent)
    expected = outcome(tmp_path / "run")
    RunFolder(wanted.output).states_newest_first()[0][1].unlink()  # as if it had been stopped there
    went_on = train(wanted, progress=False, note=silent)
    assert 0 < went_on.resumed_from < 30 and outcome(tmp_path / "run") == expected
    extra = checkpoint.read_manifest(find_checkpoint(tmp_path / "run"))["extra"]
    assert [d["task"] for d in extra["datasets"]] == list(TASKS) and extra["episodes"] == 16


def test_the_normaliser_is_of_all_tasks_and_leaves_one_hot_alone(data, tmp_path):
    wanted = recipe(data, tmp_path, "one_hot")
    found = opened(wanted)
    normalizer = found.fit_normalizer(wanted, found.spec)
    x = found.joined.field("observation.state")
    low, high = normalizer.trained_range("observation.state")
    assert low[0] == pytest.approx(x.min()) and high[0] == pytest.approx(x.max()) and low[0] < -0.3 and high[0] > 0.3
    import torch

    for mode in ("min_max", "mean_std", "quantile"):
        values = wanted.to_dict()
        again = recipe_from_dict({**values, "policy": {**values["policy"], "state_normalization": mode}}, "test")
        assert torch.equal(found.fit_normalizer(again, found.spec).normalize(ONE_HOT, torch.eye(2)), torch.eye(2))


def test_a_set_is_evaluated_as_its_tasks_are_one_by_one_and_not_twice(data, tmp_path):
    train(recipe(data, tmp_path / "run", "one_hot", steps=5), progress=False, note=silent)
    found, out = str(find_checkpoint(tmp_path / "run")), tmp_path / "out"
    env = {"condition": {"type": "one_hot", "tasks": list(TASKS)}}
    how = {"episodes": 7, "block": 3, "env": env, "progress": False, "latency_calls": 0}
    suite = evaluate_suite(found, TASKS, name="sides", out=out, **how)
    for task, e in zip(TASKS, suite.evaluations, strict=True):
        assert e.task == task and e.episodes == evaluate(found, task, **how).episodes and e.set_name == "sides"
    assert suite.reused == 0 and len((out / "ledger.jsonl").read_text().splitlines()) == 2
    again = evaluate_suite(found, TASKS, name="sides", out=out, **how)
    assert again.reused == 2 and [e.episodes for e in again.evaluations] == [e.episodes for e in suite.evaluations]
    other = evaluate_suite(found, TASKS[:1], name="sides", out=out, **{**how, "episodes": 8})
    assert other.reused == 0, "of more episodes it is another evaluation"
    late = {**how, "env": {**env, "perturb": "delay:100"}}
    assert [evaluate_suite(found, TASKS, name="sides", out=out, **late).reused for _ in range(2)] == [0, 2], "however it is written"
    counts = [(e.successes, 7) for e in suite.evaluations]
    mean, low, high = suite.mean
    assert mean == pytest.approx(np.mean([k / n for k, n in counts])) and low <= mean <= high
    assert set(suite.to_dict()["tasks"]) == set(TASKS)
    expert = {**how, "env": {"max_episode_steps": None}}
    assert [evaluate_suite("expert", TASKS, name="sides", out=out, **expert).reused for _ in range(2)] == [0, 2], "the expert goes on where it was, too"


def test_policies_of_a_set_are_compared_on_all_of_its_tasks(data, tmp_path):
    train(recipe(data, tmp_path / "run", "one_hot", steps=5), progress=False, note=silent)
    out, file = tmp_path / "run" / "evaluations", tmp_path / "found.json"
    assert main(["eval", str(tmp_path / "run"), "-n", "4", "--block", "4", "--quiet"]) == 0
    how = ["-n", "4", "--block", "4", "--by", "success", "--json", str(file), "--quiet"]
    assert main(["compare", str(tmp_path / "run"), "expert", *how]) == 0
    found = json.loads(file.read_text())
    assert [one["task"] for one in found["by_task"]] == list(TASKS) and found["n"] == 8
    assert len((out / "ledger.jsonl").read_text().splitlines()) == 4, "what the set's evaluation wrote is not run again"


def untrained(folder):
    """A checkpoint of a policy for two of Meta-World's tasks, whose weights nobody trained."""
    import torch

    from policies.normalize import Normalizer
    from policies.registry import config_class, create
    from robopolicy.conditioning import unscaled, with_condition
    from sim.registry import Options
    from sim.suites.metaworld import make_spec

    condition = ConditionConfig(type="one_hot", tasks=list(PAIR))
    spec = with_condition(make_spec(Options()), condition)
    flat = {name: {"mean": np.zeros(f.shape), "std": np.ones(f.shape)} for name, f in spec.observation.fields.items()}
    stats = {**flat, **unscaled(condition), "action": {"min": -np.ones(4), "max": np.ones(4)}}
    modes = {name: "min_max" if name == "action" else "mean_std" for name in stats}
    torch.manual_seed(0)
    policy = create("flow", config_class("flow").model_validate({"steps": 1, "mlp": {"width": 33, "blocks": 1}}), spec, Normalizer.fit(stats, modes))
    checkpoint.save(folder, policy, recipe={}, extra={})
    return str(folder), {"max_episode_steps": 12, "condition": condition.model_dump()}


def test_how_many_workers_share_a_set_changes_no_bit(tmp_path):
    found, env = untrained(tmp_path / "checkpoint")
    how = {"name": "pair", "episodes": 5, "block": 2, "env": env, "progress": False, "latency_calls": 0}
    results = [evaluate_suite(found, PAIR, workers=workers, **how) for workers in (1, 2)]
    records = [[e.episodes for e in result.evaluations] for result in results]
    assert records[0] == records[1] and [len(r) for r in records[0]] == [5, 5]
    assert len({e.return_ for task in records[0] for e in task}) == 10, "different states, different returns"


def test_training_watches_every_task(data, tmp_path):
    wanted = recipe(data, tmp_path / "run", "one_hot", steps=4, evaluate_every=4)
    wanted.evaluation.episodes = wanted.evaluation.block = 3
    train(wanted, progress=False, note=silent)
    (row,) = read_log(tmp_path / "run", "evaluation")
    assert row["tasks"] == 2 and row["success"] == pytest.approx((row["success/toy/left"] + row["success/toy/right"]) / 2)


def test_a_sweep_evaluates_every_task(data, tmp_path):
    wanted = recipe(data, tmp_path / "run", "one_hot", steps=4)
    trained = train(wanted, progress=False, note=silent)
    row = _evaluated(Cell("sides", (), evaluate=3), wanted, trained.checkpoint)
    assert row["episodes"] == 6 and 0 <= row["low"] <= row["success"] <= row["high"] <= 1 and np.isfinite(row["evaluated_return"])


def test_worlds_say_which_task_they_are_of():
    config = {"type": "text", "wording": "training", "length": 32}
    with_text = conditioned(registry.make("toy/left", 40), config)
    seeds = np.arange(40)
    said = with_text.reset(seeds)[TEXT]
    assert said.dtype == np.uint8 and {row.tobytes() for row in said} == {encoded(text, 32).tobytes() for text in SAID["toy/left"].training}
    alone = conditioned(registry.make("toy/left", 1), config)
    assert all(np.array_equal(alone.reset(seeds[k : k + 1])[TEXT][0], said[k]) for k in (0, 5, 39)), "a function of the seed alone"
    result = with_text.step(np.zeros((40, 1), np.float32))
    assert np.array_equal(result.next_obs[TEXT], said) and result.obs is result.next_obs
    mask = np.arange(40) < 3
    later = with_text.reset(seeds + 1, mask)[TEXT]
    assert np.array_equal(later[3:], said[3:]) and np.array_equal(later[:3], said[1:4])
    hot = conditioned(registry.make("toy/right", 2), ConditionConfig(type="one_hot", tasks=list(TASKS)))
    assert hot.reset(np.arange(2))[ONE_HOT].tolist() == [[0.0, 1.0]] * 2 and hot.max_episode_steps == LIMIT
    hot.spec.observation.validate(hot.reset(np.arange(2)), (2,))


def test_what_cannot_be_said_is_refused(data, tmp_path):
    for give, said in (
        (lambda: conditioned(registry.make("toy/left", 1), {"type": "one_hot", "tasks": ["toy/right"]}), "'toy/left' is none of those"),
        (lambda: conditioned(registry.make("toy/left", 1), "one_hot"), "needs its tasks"),
        (lambda: conditioned(registry.make("toy/left", 1), {"type": "onehot"}), "did you mean 'one_hot'"),
        (lambda: conditioned(registry.make("toy/left", 1), {"type": "text", "length": 4}), "expected 1 to 4 bytes, found 7"),
        (lambda: conditioned(registry.make("toy/left", 1), {"type": "text", "tasks": ["toy/left"]}), "condition text has no tasks"),
        (lambda: load_recipe("imitation/mt10", ["env.condition={type: one_hot, wording: training}"]), "condition one_hot has no wording"),
        (lambda: phrases("toy/other", "held_out"), "no instruction is held out"),
        (lambda: task_set("toy/left,toy/left"), "named once"),
        (lambda: load_recipe("imitation/mt10", ["data.balance=fair"]), "expected tasks, frames or"),
        (lambda: load_recipe("imitation/mt10", ["data={sets: [a]}"]), "data.sets is for one task"),
        (lambda: load_recipe("imitation/mt10", ["data.goals={source: observation.environment_state}"]), "data.goals is for one task"),
        (lambda: open_demonstrations(recipe("one folder", tmp_path, path="{root}"), False, silent), "write {task} where"),
    ):
        with pytest.raises(InputError, match=said):
            give()
    with pytest.raises(SpecMismatch, match=r"'observation\.state' of task toy/other does not fit task toy/left"):
        open_demonstrations(recipe(data, tmp_path, task="toy/left,toy/other"), False, silent)


def test_every_metaworld_task_has_words_of_its_own():
    said = {task: instructions(task) for task in registry.names("mt50")}
    known = [text for found in said.values() for text in (*found.training, *found.held_out)]
    assert len(said) == 50 and len(set(known)) == len(known), "no instruction is of two tasks, or of training and held out"
    assert all(len(found.training) >= 2 and found.held_out for found in said.values())
    assert all(encoded(text, 64)[len(text.encode()) :].sum() == 0 for text in known)
    assert instructions("classic/cartpole").training == ("cartpole",)


def test_a_recipe_of_a_tag_names_its_tasks_and_is_read_again():
    wanted = load_recipe("imitation/mt10")
    assert wanted.env.condition.tasks == registry.names("mt10") and wanted.filled(wanted.output) == "runs/mt10-flow-seed0"
    assert recipe_from_dict(wanted.to_dict(), "again").to_dict() == wanted.to_dict()
    assert condition_rows(wanted.env.condition, "metaworld/push", "plain").argmax() == registry.names("mt10").index("metaworld/push")
    assert load_recipe("imitation/mt10", ["env.condition=text", "task=reach"]).env.condition.type == "text"
