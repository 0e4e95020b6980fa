"""The off-policy loop: how many updates when, of what; a cut is no end; it learns; images; what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.noise import Noise
from policies.spec import InputError
from robopolicy.algos.rule import OffPolicyRule, Tensors, Transitions, Updated
from robopolicy.config import find_recipe
from robopolicy.recipe import load_recipe
from robopolicy.training.log import read_log
from robopolicy.training.off_policy import train
from robopolicy.training.off_policy_actor import Actor, Experience
from robopolicy.training.off_policy_config import OffPolicyTraining
from robopolicy.training.off_policy_learner import Learner
from robopolicy.training.replay import Replay
from tests.robopolicy.algos.off_policy_toys import rule as small_rule
from tests.robopolicy.off_policy_runs import Point, recipe


def training(**keys) -> OffPolicyTraining:
    return OffPolicyTraining.model_validate({"steps": 1000, "random_steps": 0, "batch_size": 32, "replay": {"capacity": 5000}, **keys})


def pieces(env: Point, rule: OffPolicyRule, config: OffPolicyTraining, demonstrations: Replay | None = None) -> tuple[Actor, Learner]:
    """Return actor and learner over ``env``, begun."""
    replay = Replay(env.spec, env.num_worlds, config.replay, config.gamma)
    actor = Actor(env, rule.explore, rule.policy.normalizer, 0, config.random_steps)
    actor.begin(0)
    return actor, Learner(rule, replay, config, 0, demonstrations, config.normalize_observations)


def run(actor: Actor, learner: Learner, steps: int) -> None:
    """Let them take turns for ``steps`` environment steps."""
    worlds = actor.env.num_worlds
    for step in range(0, steps, worlds):
        learner.take(actor.step())
        learner.learn(step, step + worlds)


class Noting(OffPolicyRule):
    """Learns nothing, and notes what it was given."""

    def __init__(self, env: Point) -> None:
        super().__init__(None, env.spec, small_rule("sac", env.spec).policy)
        self.calls: list[list[Transitions]] = []
        self.keys: list[list[int]] = []

    def explore(self, obs: Tensors, noise: Noise) -> torch.Tensor:
        return 2.0 * noise.uniform(1) - 1.0

    def update(self, batches: Sequence[Transitions], noise: Noise) -> Updated:
        self.calls.append(list(batches))
        self.keys.append(noise.keys.tolist())
        return Updated({"calls": torch.tensor(float(len(self.calls)))}, torch.full((sum(len(batch.reward) for batch in batches),), 0.5))

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {}


def noted(learner: Learner) -> Noting:
    """Return the rule of a learner, which is one that notes."""
    assert isinstance(learner.rule, Noting)
    return learner.rule


# How many updates, and of what ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(ratio=st.sampled_from([0.1, 0.25, 0.3, 1.0, 1.5, 4.0, 0.07]), worlds=st.integers(1, 5), random_steps=st.integers(0, 13), rounds=st.integers(1, 12))
def test_updates_are_counted_exactly(ratio, worlds, random_steps, rounds):
    env = Point(worlds)
    actor, learner = pieces(env, Noting(env), training(worlds=worlds, update_ratio=ratio, random_steps=random_steps, batch_size=2))
    run(actor, learner, rounds * worlds)
    wanted = int(Fraction(str(ratio)) * max(0, rounds * worlds - random_steps))
    groups = [len(batches) for batches in noted(learner).calls]
    assert sum(groups) == learner.updates == learner.due(rounds * worlds) == wanted
    if groups:  # a call has the updates of one environment step
        assert max(groups) <= max(1, int(ratio) + (ratio % 1 > 0))
    if groups and ratio <= 1:
        assert set(groups) == {1}
    keys = [key for row in noted(learner).keys for key in row]
    assert len(set(keys)) == len(keys)


def test_a_high_ratio_hands_over_all_batches_of_a_step_at_once():
    env = Point(2)
    actor, learner = pieces(env, Noting(env), training(worlds=2, update_ratio=4, batch_size=8))
    run(actor, learner, 20)
    assert [len(batches) for batches in noted(learner).calls] == [4] * 20
    drawn = [batch.index.tolist() for batches in noted(learner).calls[10:] for batch in batches]
    assert len({tuple(index) for index in drawn}) == len(drawn)


def test_what_is_drawn_is_a_function_of_the_step():
    """Two learners that were given the same draw the same, whatever else the process has drawn."""
    found = []
    for _ in range(2):
        torch.randn(7)
        env = Point(3)
        actor, learner = pieces(env, Noting(env), training(worlds=3, update_ratio=0.5, batch_size=8))
        run(actor, learner, 60)
        found.append([batch.index.tolist() for batches in noted(learner).calls for batch in batches])
    assert found[0] == found[1]


def test_random_steps_are_uniform_over_the_limits():
    env = Point(200)
    actor, _ = pieces(env, Noting(env), training(worlds=200, random_steps=10_000))
    actions = np.concatenate([actor.step().action for _ in range(20)])
    assert abs(actions).max() <= 1.0 and abs(actions.mean()) < 0.05
    assert abs(actions.std() - 3**-0.5) < 0.02
    np.testing.assert_allclose(actor.in_robot_units(np.array([[1.0], [-0.5]], np.float32)), [[0.6], [-0.3]], rtol=1e-6)


def test_what_is_remembered_is_what_happened():
    env = Point(2, steps=4)
    actor, learner = pieces(env, Noting(env), training(worlds=2))
    for step in range(30):
        e = actor.step(cut=step == 10)
        learner.take(e)
        moved = np.clip(e.obs["observation.state"] + 0.6 * e.action, -2, 2)
        np.testing.assert_allclose(e.next_obs["observation.state"], moved, atol=1e-6)
        if step == 10:
            assert e.truncated.all() and not e.terminated.any()
            actor.begin(actor.steps)
    batch = learner.replay.sample(np.arange(500))
    moved = (batch.obs["observation.state"] + 0.6 * batch.action).clip(-2, 2)
    np.testing.assert_allclose(batch.next_obs["observation.state"], moved, atol=1e-6)
    assert batch.discount.unique().tolist() == pytest.approx([0.99])  # no end is a termination here


def test_episodes_are_counted_once_and_cut_ones_are_not():
    env = Point(2, steps=5, constant=True)
    actor, _ = pieces(env, Noting(env), training(worlds=2))
    for step in range(12):
        actor.step(cut=step == 11)
    episodes = actor.finished()
    assert [(e.return_, e.length) for e in episodes] == [(5.0, 5)] * 4
    assert actor.finished() == []
    actor.begin(12)
    for _ in range(5):
        actor.step()
    assert [e.length for e in actor.finished()] == [5, 5]


def test_normalisers_are_fitted_to_the_random_steps_once():
    env = Point(4)
    rule = small_rule("sac", env.spec)
    actor, learner = pieces(env, rule, training(worlds=4, random_steps=40, normalize_observations=True, batch_size=4))
    run(actor, learner, 40)
    seen = learner.replay.arrays["obs/observation.state"][:10].reshape(-1)
    kept = rule.policy.normalizer.tensors()
    np.testing.assert_allclose(kept["observation.state.offset"], [seen.mean()], rtol=1e-5)
    np.testing.assert_allclose(kept["observation.state.scale"], [seen.std()], rtol=1e-5)
    run_on = kept["observation.state.offset"].clone()
    for step in range(40, 80, 4):
        learner.take(actor.step())
        learner.learn(step, step + 4)
    assert torch.equal(rule.policy.normalizer.tensors()["observation.state.offset"], run_on)


@pytest.mark.parametrize("ratio", [1, 4])
def test_priorities_are_the_errors_of_all_batches(ratio):
    env = Point(1)
    config = training(replay={"capacity": 100, "sampling": "prioritized", "alpha": 1.0}, batch_size=2, update_ratio=ratio)
    actor, learner = pieces(env, Noting(env), config)
    run(actor, learner, 20)
    drawn = {index for batches in noted(learner).calls for batch in batches for index in batch.index.tolist()}
    assert len(drawn) > 10
    leaves = learner.replay.priorities()["leaves"]
    assert all(abs(float(leaves[i]) - 0.5) < 1e-5 for i in drawn)


# A cut is no end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", [True, False])
def test_a_time_limit_is_no_end(right):
    """Every step is worth 1 for ever, episodes are cut after 5: Q is 1 / (1 - gamma) = 10; who takes a cut for an end finds 4.1 at most."""
    env, config = Point(4, steps=5, constant=True), training(worlds=4, gamma=0.9, update_ratio=0.5)
    rule = small_rule("td3", env.spec, critic_rate=1e-2, tau=0.1)
    actor, learner = pieces(env, rule, config)
    for step in range(0, 1600, 4):
        e = actor.step()
        if not right:
            e = Experience(e.obs, e.action, e.reward, e.next_obs, e.terminated | e.truncated, np.zeros_like(e.truncated), e.taken)
        learner.take(e)
        learner.learn(step, step + 4)
    values = [learner_value(rule, learner, seed) for seed in range(3)]
    if right:
        assert all(abs(value - 10.0) < 0.8 for value in values), values
    else:
        assert all(value < 6.0 for value in values), values


def learner_value(rule, learner: Learner, seed: int) -> float:
    batch = learner.replay.sample(np.arange(64) + 1000 * seed)
    return float(rule.value(batch.obs, batch.action, Noise(np.arange(64))).mean())


# It learns ----------------------------------------------------------------------------------------------------------


def mean_return(env: Point, rule: OffPolicyRule, seed: int) -> float:
    """Return the mean return of one episode a world, drawn actions."""
    actor = Actor(env, rule.explore, rule.policy.normalizer, seed)
    actor.begin(0)
    for _ in range(env.max_episode_steps):
        actor.step()
    return float(np.mean([e.return_ for e in actor.finished()]))


@pytest.mark.parametrize("replay", [{"capacity": 5000}, {"capacity": 5000, "n_step": 3, "sampling": "prioritized"}])
def test_sac_learns_to_push_a_point(replay):
    env, config = Point(4), training(worlds=4, random_steps=200, update_ratio=0.5, gamma=0.9, replay=replay)
    rule = small_rule("sac", env.spec, critic_rate=3e-3, actor_rate=3e-3, tau=0.05, temperature=0.1, temperature_rate=3e-3)
    before = mean_return(Point(100), rule, 1)
    actor, learner = pieces(env, rule, config)
    run(actor, learner, 900)
    after = mean_return(Point(100), rule, 1)
    assert before < -8.0 and after > -2.5, (before, after)


def test_images_are_learnt_from_as_bytes():
    env = Point(2, pixels=16)
    rule = small_rule("sac", env.spec, policy={"image": {"channels": [8], "groups": 4, "crop": 1.0, "features": 8, "keypoints": 4, "shift": 2}})
    actor, learner = pieces(env, rule, training(worlds=2, random_steps=10, batch_size=8))
    before = [p.clone() for p in rule.policy.encoder.parameters()]
    run(actor, learner, 30)
    assert learner.replay.arrays["obs/observation.images.side"].dtype == np.uint8
    assert learner.updates == 20 and all(np.isfinite(value) for value in learner.metrics().values())
    assert any(not torch.equal(a, b) for a, b in zip(before, rule.policy.encoder.parameters(), strict=True))


# Whole runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["sac", "td3", "dsact", "rlpd"])
def test_a_run_leaves_a_checkpoint_that_acts(tmp_path, algo):
    from policies.checkpoint import load
    from robopolicy.evaluation.rollout import evaluate

    said: list[str] = []
    result = train(recipe(tmp_path / "run", algo={"type": algo}, steps=60, update_ratio=0.5), progress=False, note=said.append)
    assert result.steps == 60 and result.resumed_from == 0
    rows = list(read_log(tmp_path / "run", "train"))
    assert [row["step"] for row in rows] == [18, 34, 40, 52, 60]
    assert rows[-1]["updates"] == 18 and rows[-1]["replay"] == 60 and np.isfinite(rows[-1]["critic_loss"])
    assert rows[0]["updates"] == 0 and "critic_loss" not in rows[0]
    assert any(row["return"] is not None for row in rows)
    policy = load(result.checkpoint)
    found = evaluate(policy, "classic/cartpole", episodes=2, block=2, env={"max_episode_steps": 5}, latency_calls=0, progress=False)
    assert len(found.episodes) == 2
    assert said == []  # nothing to be surprised about


def test_evaluation_is_written(tmp_path):
    train(recipe(tmp_path / "run", steps=40, evaluate_every=20, evaluation={"episodes": 2, "block": 2}), progress=False)
    assert [(row["step"], row["episodes"]) for row in read_log(tmp_path / "run", "evaluation")] == [(20, 2), (40, 2)]


def test_the_recipe_of_the_hopper_trains_with_other_rules():
    found = load_recipe(str(find_recipe("rl/hopper-sac")))
    assert (found.algo_type, found.policy_type, found.task) == ("sac", "gaussian", "gymnasium/hopper")
    assert found.training.batch_size == 256 and found.algo.hidden == [256, 256] and found.algo.tau == 0.005 and found.algo.critic_rate == 3e-4
    assert found.policy.hidden == [256, 256] and found.policy.activation == "relu"
    for algo, policy in (("td3", "deterministic"), ("dsact", "gaussian"), ("rlpd", "gaussian"), ("off_policy_mdpo", "gaussian")):
        other = load_recipe("rl/hopper-sac", [f"algo={algo}"], note=lambda text: None)
        assert (other.algo_type, other.policy_type) == (algo, policy)


# Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"replay": {"chunk": 4}}, r"training\.replay\.chunk=4: algo 'sac' learns single actions: expected 1"),
        ({"normalize_observations": True, "random_steps": 0}, r"training\.normalize_observations=true needs random steps"),
        ({"replay": {"capacity": 3, "n_step": 2}}, r"training\.replay\.capacity=3 is 1 steps of 2 worlds: expected at least 4 for samples of 2 steps"),
        ({"demonstrations": {"episodes": 3}}, r"training\.demonstrations: episodes or collect are given, but no path"),
        ({"demonstrations": {"share": 0.25}}, r"training\.demonstrations\.share=0\.25: there is no path, and nobody takes over"),
        (
            {"demonstrations": {"path": "no/such", "share": 0.01}, "batch_size": 32},
            r"training\.demonstrations\.share=0\.01 of training\.batch_size=32 makes no row: expected more",
        ),
        ({"demonstrations": {"path": "no/such"}}, r"demonstrations no/such do not exist; set training\.demonstrations\.collect=20"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, changes, line):
    with pytest.raises(InputError, match=line) as refused:
        train(recipe(tmp_path / "run", **changes), progress=False)
    assert "\n" not in str(refused.value)


def test_marks_within_an_episode_and_runs_without_learning_are_said(tmp_path):
    said: list[str] = []
    train(recipe(tmp_path / "run", steps=40, random_steps=50, checkpoint_every=10), progress=False, note=said.append)
    assert "training.checkpoint_every=10 is 5 steps of each of 2 worlds, which then begin anew: no episode becomes longer, the task's last 15" in said
    assert "training.random_steps=50 are not over after training.steps=40: nothing is learnt" in said
