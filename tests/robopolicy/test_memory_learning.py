"""What only a memory can do is learnt with one, by trial and from a teacher; privileged critics and mirrors help as they should."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from policies import checkpoint, registry
from policies.gaussian import GaussianConfig, GaussianPolicy
from policies.normalize import limits_normalizer
from policies.spec import ActionSpec, InputError
from robopolicy.algos.symmetry import open_symmetry
from robopolicy.evaluation.rollout import evaluate
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.on_policy_config import SymmetryConfig
from robopolicy.training.rollout import Collector
from robopolicy.training.trial import train
from sim.registry import make
from tests.robopolicy import remembering
from tests.robopolicy.remembering import SPEC, TASK

STATE, HIDDEN = "observation.state", "observation.environment_state"


@pytest.fixture(autouse=True)
def _recall(monkeypatch):
    remembering.register(monkeypatch)


def trained(folder, algo, memory="none", steps=7_000, std=0.1, env=None, task=TASK, policy=None, **training):
    """Train; return the final checkpoint and the rows of the log."""
    own = {"type": "gaussian", "hidden": [32], "initial_std": std, "observations": [STATE], "memory": {"type": memory, "width": 32, "window": 8}}
    loop = {"worlds": 64, "rollout": 12, "lr": 3e-3, "minibatches": 2, "threads": 1, "steps": steps, **training}
    values = {"task": task, "output": str(folder / "run"), "algo": algo, "policy": policy or own, "training": loop, "env": env or {}}
    done = train(recipe_from_dict(values, "test"), progress=False)
    rows = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return done.checkpoint, [row for row in rows if row.get("event") == "train"]


def scores(policy, episodes=60):
    """Return success and mean return of the mean actions, in episodes that were never trained on."""
    found = evaluate(policy, TASK, episodes=episodes, block=20, latency_calls=0, progress=False).episodes
    return sum(e.success for e in found) / episodes, sum(e.return_ for e in found) / episodes


# --- by trial --------------------------------------------------------------------------------------------------------


def test_recurrent_ppo_recalls_what_memoryless_ppo_cannot(tmp_path):
    success, worth = {}, {}
    for kind in ("gru", "none"):
        (tmp_path / kind).mkdir()
        path, _ = trained(tmp_path / kind, {"type": "ppo"}, kind, steps=16_000, std=0.5)
        success[kind], worth[kind] = scores(path)
    assert success["gru"] > 0.95 and worth["gru"] > 0.9
    assert success["none"] < 0.6 and worth["none"] < 0.1  # 0 is what can be had without knowing the sign


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_the_other_memories_learn_by_trial_too(kind, tmp_path):
    path, _ = trained(tmp_path, {"type": "ppo"}, kind, steps=16_000, std=0.5)
    assert scores(path)[0] > 0.95


def test_a_critic_that_sees_the_hidden_state_knows_what_is_to_come(tmp_path):
    explained, error = [], []
    for name, fields in (("alike", [STATE]), ("privileged", [STATE, HIDDEN])):
        (tmp_path / name).mkdir()
        _, rows = trained(tmp_path / name, {"type": "ppo"}, steps=10_000, std=0.5, env={"reward": "windy"}, critic={"observations": fields})
        explained.append(rows[-1]["explained_variance"])
        error.append(rows[-1]["value_loss"])
    assert explained[0] < 0.4 < 0.8 < explained[1]
    assert error[1] < 0.3 * error[0]


# --- from a teacher --------------------------------------------------------------------------------------------------


def teacher(folder, fields=(HIDDEN,), spec=SPEC):
    """Save a policy that reads the hidden sign and answers it: relu(x) - relu(-x), in units of the limits."""
    policy = registry.create("gaussian", GaussianConfig(hidden=[2], activation="relu", observations=list(fields)), spec, limits_normalizer(spec))
    with torch.no_grad():
        first, last = (policy.get_parameter(f"network.{layer}.weight") for layer in (0, 2))
        first.zero_()
        first[:, -1] = torch.tensor([1.0, -1.0])
        last[:] = 0.5 * torch.tensor([[1.0, -1.0]])
    return checkpoint.save(folder / "teacher", policy, recipe={}, extra={})


@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_a_student_with_a_memory_reaches_the_teacher_that_sees_more(loss, tmp_path):
    path = teacher(tmp_path)
    assert scores(path) == (1.0, 1.0)
    algo = {"type": "distill", "teacher": str(path), "loss": loss}
    student, rows = trained(tmp_path, algo, "gru", schedule="constant")
    untrained = registry.create("gaussian", checkpoint.load(student).config, SPEC, limits_normalizer(SPEC))
    success, worth = scores(student)
    assert success == 1.0 and worth > 0.98 and scores(untrained)[1] < 0.2
    assert list(checkpoint.read_spec(student).observation.fields) == [STATE]
    std = rows[-1]["std"]
    assert std == pytest.approx(0.1, abs=1e-6) if loss == "mse" else std > 0.12  # which the teacher's deviation of 1 draws up


def test_a_student_without_one_does_not(tmp_path):
    student, _ = trained(tmp_path, {"type": "distill", "teacher": str(teacher(tmp_path))}, schedule="constant")
    success, worth = scores(student)
    assert success < 0.6 and worth < 0.1


def test_a_student_of_a_teacher_with_a_memory(tmp_path):
    (tmp_path / "first").mkdir()
    first, _ = trained(tmp_path / "first", {"type": "distill", "teacher": str(teacher(tmp_path))}, "gru", schedule="constant")
    second, _ = trained(tmp_path, {"type": "distill", "teacher": str(first)}, "lstm", schedule="constant")
    assert scores(second)[0] == 1.0


def test_a_teacher_that_does_not_fit_is_refused_in_one_line(tmp_path):
    other = SPEC.subset([STATE])
    unknown = type(SPEC)(type(SPEC.observation)({"observation.touch": SPEC.observation.fields[HIDDEN]}, 10.0), SPEC.action)
    faster = type(SPEC)(SPEC.observation, ActionSpec(SPEC.action.fields, 50.0))
    for name, make_teacher, words in (
        ("none", lambda at: at / "nowhere", "algo.teacher="),
        ("field", lambda at: teacher(at, ["observation.touch"], unknown), "'observation.touch'"),
        ("rate", lambda at: teacher(at, [STATE], faster), "50 Hz"),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError) as error:
            trained(tmp_path / name, {"type": "distill", "teacher": str(make_teacher(tmp_path / name))})
        assert words in str(error.value) and "algo.teacher" in str(error.value) and "\n" not in str(error.value)
        assert not (tmp_path / name / "run").exists()
    (tmp_path / "unsaid").mkdir()
    with pytest.raises(InputError, match=r"set algo\.teacher to a checkpoint or run"):
        trained(tmp_path / "unsaid", {"type": "distill"})
    squashed = registry.create("gaussian", GaussianConfig(squash=True, observations=[STATE]), other, limits_normalizer(other))
    path = checkpoint.save(tmp_path / "squashed", squashed, recipe={}, extra={})
    with pytest.raises(InputError, match=r"algo\.loss 'kl' compares unsquashed Gaussians, which the teacher has not"):
        trained(tmp_path, {"type": "distill", "teacher": str(path), "loss": "kl"})


# --- killed and resumed ----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends a process between two marks."""


@pytest.mark.parametrize("rule", ["ppo", "distill"])
def test_a_run_that_was_killed_remembers_what_one_that_was_not_does(rule, tmp_path, monkeypatch):
    torch.manual_seed(3)
    config = GaussianConfig.model_validate({"memory": {"type": "gru", "width": 8}})
    path = checkpoint.save(tmp_path / "teacher", registry.create("gaussian", config, SPEC, limits_normalizer(SPEC)), recipe={}, extra={})
    algo = {"type": "ppo"} if rule == "ppo" else {"type": "distill", "teacher": str(path)}
    options: dict[str, Any] = {"worlds": 8, "rollout": 5, "steps": 8 * 5 * 9, "checkpoint_every": 4}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, _ = trained(tmp_path / "whole", algo, "gru", **options)
    collect, calls = Collector.collect, []

    def killed(self, iteration):
        calls.append(iteration)
        if len(calls) == 7:
            raise Killed
        return collect(self, iteration)

    monkeypatch.setattr(Collector, "collect", killed)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", algo, "gru", **options)
    resumed, _ = trained(tmp_path / "killed", algo, "gru", **options)
    assert calls == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]  # what came after the mark is done again
    first, second = (checkpoint.load(one).state_dict() for one in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh = registry.create("gaussian", checkpoint.load(whole).config, SPEC, limits_normalizer(SPEC)).state_dict()
    assert not torch.equal(first["memory.cells.weight_ih_l0"], fresh["memory.cells.weight_ih_l0"])


# --- in the mirror ---------------------------------------------------------------------------------------------------


def test_a_task_without_a_mirror_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match=r"training\.symmetry: task 'toy/recall' declares no mirror symmetry"):
        trained(tmp_path, {"type": "ppo"}, symmetry={})
    assert not (tmp_path / "run").exists()


def test_symmetry_makes_a_policy_that_acts_alike_on_both_sides(tmp_path):
    asymmetry, returns = {}, {}
    policy = {"type": "gaussian", "hidden": [32]}
    for name, symmetry in (("without", None), ("augment", {}), ("loss", {"augment": False, "weight": 1.0})):
        (tmp_path / name).mkdir()
        path, rows = trained(
            tmp_path / name, {"type": "ppo"}, steps=12_000, task="classic/cartpole", policy=policy, symmetry=symmetry, rollout=32, worlds=32, lr=1e-3
        )
        returns[name] = rows[-1]["return"]
        found = checkpoint.load(path)
        assert isinstance(found, GaussianPolicy)
        world = make("classic/cartpole", 1)
        mirror = open_symmetry(SymmetryConfig(), world, found, {"policy": (found.encoder.states, found.normalizer)})
        world.close()
        assert mirror is not None
        seen = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            mean, image = (found.distribution(x).mean for x in (seen, mirror.vector("policy", seen)))
        asymmetry[name] = float((image - mirror.action(mean)).square().mean() / mean.square().mean())
    assert asymmetry["without"] > 0.01
    assert asymmetry["augment"] < 0.1 * asymmetry["without"] and asymmetry["loss"] < 0.1 * asymmetry["without"]
    assert min(returns.values()) > 60.0  # of 500; it begins at 20


def test_a_rule_that_learns_from_single_steps_takes_no_memory():
    values = {"task": TASK, "algo": {"type": "sac"}, "policy": {"type": "gaussian", "memory": {"type": "gru"}}}
    with pytest.raises(InputError, match=r"key 'policy\.memory\.type': algo 'sac' learns from single steps.* found 'gru'"):
        recipe_from_dict(values, "recipe")
    assert recipe_from_dict({**values, "policy": {"type": "gaussian"}}, "recipe").policy.memory.type == "none"
