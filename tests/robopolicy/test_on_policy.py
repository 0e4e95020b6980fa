"""On-policy learning, number by number: advantages, the adaptive rate, true successors, one update beside stable-baselines3."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies.distributions import Gaussian
from policies.spec import InputError
from robopolicy.algos.advantages import gae
from robopolicy.algos.value import Critic
from robopolicy.training.flat_weights import FlatWeights
from robopolicy.training.on_policy import train
from robopolicy.training.on_policy_config import CriticConfig, OnPolicyTraining
from robopolicy.training.on_policy_update import adapted, value_loss
from robopolicy.training.rollout import Minibatch, Rollout
from robopolicy.training.sight import ReturnScale, RunningMoments
from robopolicy.training.trial_processes import Processes
from sim.env import StepResult
from sim.registry import make
from tests.robopolicy.on_policy_runs import DONE, SAMPLES, SEEN, Waiting, parts, peer_ppo, recipe

# --- advantages ------------------------------------------------------------------------------------------------------


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def test_advantages_by_hand():
    """Four steps, gamma 0.5, lambda 0.5: step 1 is cut by a time limit, step 2 is the end of a task."""
    reward, value, successor = column(1.0, 2.0, 3.0, 4.0), column(10.0, 20.0, 30.0, 40.0), column(20.0, 8.0, 99.0, 6.0)
    terminated, truncated = column(0, 0, 1, 0).bool(), column(0, 1, 0, 0).bool()
    # delta: 1 + 10 - 10 = 1;  2 + 4 - 20 = -14 (the successor of a cut step counts);  3 - 30 = -27 (that of an end does not);  4 + 3 - 40 = -33
    # chain: A3 = -33;  A2 = -27 (an end);  A1 = -14 (a cut);  A0 = 1 + 0.25 * -14 = -2.5
    found = gae(reward, value, successor, terminated, truncated, 0.5, 0.5)
    assert found.flatten().tolist() == [-2.5, -14.0, -27.0, -33.0]


def test_without_ends_the_chain_is_the_sum_of_all_deltas():
    found = gae(column(1.0, 1.0, 1.0), column(0.0, 0.0, 0.0), column(0.0, 0.0, 8.0), *(torch.zeros(3, 1).bool(),) * 2, gamma=0.5, lam=1.0)
    assert found.flatten().tolist() == [1 + 0.5 + 0.25 + 1.0, 1 + 0.5 + 2.0, 1 + 4.0]


@given(st.integers(1, 7), st.integers(1, 3), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**31))
def test_advantages_are_those_of_the_definition(steps, worlds, gamma, lam, seed):
    draw = np.random.default_rng(seed)
    reward, value, successor = draw.normal(size=(3, steps, worlds))
    terminated, truncated = draw.random((2, steps, worlds)) < 0.3
    expected = np.zeros((steps, worlds))
    for n in range(worlds):
        for t in range(steps):
            factor = 1.0
            for k in range(t, steps):
                beyond = 0.0 if terminated[k, n] else successor[k, n]
                expected[t, n] += factor * (reward[k, n] + gamma * beyond - value[k, n])
                if terminated[k, n] or truncated[k, n]:
                    break
                factor *= gamma * lam
    r, v, s, ended, cut = (torch.from_numpy(x) for x in (reward, value, successor, terminated, truncated))
    np.testing.assert_allclose(gae(r, v, s, ended, cut, gamma, lam).numpy(), expected, atol=1e-12)


# --- the rate --------------------------------------------------------------------------------------------------------


def test_the_rate_follows_the_divergence():
    limits = (1e-5, 1e-2)
    assert adapted(3e-4, 0.0201, 0.01, limits) == pytest.approx(2e-4)
    assert adapted(3e-4, 0.0049, 0.01, limits) == pytest.approx(4.5e-4)
    for kl in (0.0199, 0.01, 0.0051, 0.0, float("nan")):  # close enough, or nothing was seen
        assert adapted(3e-4, kl, 0.01, limits) == 3e-4
    assert adapted(1.1e-5, 1.0, 0.01, limits) == 1e-5 and adapted(0.9e-2, 1e-6, 0.01, limits) == 1e-2


@pytest.mark.parametrize(("target", "end"), [(1e-9, 1e-5), (1e9, 1e-2)])
def test_a_loop_reaches_the_limits_of_its_rate(target, end):
    config = OnPolicyTraining(worlds=8, rollout=16, epochs=5, minibatches=4, target_kl=target, critic=CriticConfig(hidden=[8]))
    collector, updater = parts(make("classic/cartpole", num_worlds=8), config)
    collector.begin(0)
    for k in range(2):
        rollout = collector.collect(k)
        updater.estimate(rollout)
        updater.improve(rollout, k, 0.0)
    assert updater.rate == end


def test_values_are_kept_near_what_they_were():
    value, before, returns = torch.tensor([3.0, 3.0, 0.5]), torch.zeros(3), torch.tensor([4.0, 0.0, 1.0])
    assert value_loss(value, before, returns, None).tolist() == [1.0, 9.0, 0.25]
    assert value_loss(value, before, returns, 1.0).tolist() == [9.0, 9.0, 0.25]  # kept at 1 where that is the larger error


# --- successors ------------------------------------------------------------------------------------------------------


class ForgetsSuccessors(Waiting):
    """The defect of other stacks: what is said to follow the last step of an episode is the first of the next."""

    def step(self, action: np.ndarray) -> StepResult:
        result = super().step(action)
        return dataclasses.replace(result, next_obs=result.obs)


class EndsAtTheLimit(Waiting):
    """The other defect: a time limit is taken for the end of the task."""

    def step(self, action: np.ndarray) -> StepResult:
        result = super().step(action)
        return dataclasses.replace(result, terminated=result.terminated | result.truncated, truncated=np.zeros_like(result.truncated))


def values_learnt(worlds: type[Waiting]) -> list[float]:
    """Return V(first), V(later) after learning with discount 0.9, from episodes of 5 steps."""
    critic = CriticConfig(hidden=[16])
    config = OnPolicyTraining(
        worlds=4,
        rollout=10,
        epochs=4,
        minibatches=1,
        lr=0.03,
        schedule="constant",
        gamma=0.9,
        value_clip=None,
        gradient_clip=None,
        critic=critic,
    )
    collector, updater = parts(worlds(4, steps=5), config)
    collector.begin(0)
    for k in range(90):
        rollout = collector.collect(k)
        updater.estimate(rollout)
        updater.improve(rollout, k, k / 90)
    assert updater.critic is not None
    return updater.critic(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist()


def test_a_time_limit_changes_no_value():
    """Worth 1 for ever: V(later) = 1 / (1 - 0.9) = 10, V(first) = 9; who bootstraps from something else is far off."""
    first, later = values_learnt(Waiting)
    assert later == pytest.approx(10.0, abs=0.05) and first == pytest.approx(9.0, abs=0.05)
    # V = 1 + 0.9 (3/4 V + 1/4 0.9 V) = 8.2 of the later steps, of which every fourth is the last; without anything beyond, 3.1
    assert values_learnt(ForgetsSuccessors)[1] < 9.0
    assert values_learnt(EndsAtTheLimit)[1] < 5.0


def test_successors_in_the_middle_of_a_rollout_are_those_of_the_worlds():
    """Values of successors, with a critic that says which observation it sees: 7 for later, 3 for first."""
    config = OnPolicyTraining(worlds=2, rollout=7, gamma=0.5, gae_lambda=0.0, random_start=False, critic=CriticConfig(hidden=[1]))
    collector, updater = parts(Waiting(2, steps=3), config)
    assert updater.critic is not None
    updater.critic.forward = lambda features: features @ torch.tensor([3.0, 7.0])  # type: ignore[method-assign]
    collector.begin(0)
    rollout = collector.collect(0)
    updater.estimate(rollout)
    # steps of an episode: first, later, later; all successors are later (7), also of the third, at the limit
    assert rollout.truncated[:, 0].tolist() == [False, False, True] * 2 + [False] and not rollout.terminated.any()
    wanted = [0 + 3.5 - 3, 1 + 3.5 - 7, 1 + 3.5 - 7] * 2 + [0 + 3.5 - 3]
    raw = (rollout.tensors["returns"] - rollout.tensors["value"])[:, 0]
    assert raw.tolist() == wanted
    advantage = rollout.tensors["advantage"]
    assert float(advantage.mean()) == pytest.approx(0.0, abs=1e-6) and float(advantage.std(correction=0)) == pytest.approx(1.0, abs=1e-6)


def test_first_episodes_end_at_random_steps_and_bootstrap():
    config = OnPolicyTraining(worlds=64, rollout=20, critic=CriticConfig(hidden=[1]))
    collector, _ = parts(Waiting(64, steps=20), config)
    collector.begin(0)
    rollout = collector.collect(0)
    at = rollout.truncated.int().argmax(0)  # the first end of every world
    assert rollout.truncated.any(0).all() and len(at.unique()) > 10
    assert all(length == 20 for _, length, _ in collector.take_episodes(True))  # a cut episode is no finished one
    last_in_middle = [(t, n) for t, rows, _ in rollout.ended for n in rows]
    assert all(rollout.truncated[t, n] for t, n in last_in_middle)
    for t, _, seen in rollout.ended:
        assert (seen["critic"][:, 1] == 1.0).all(), t  # never what begins anew
    ends = rollout.truncated[:-1].nonzero()
    assert (rollout.tensors["policy"][ends[:, 0] + 1, ends[:, 1], 0] == 1.0).all()  # and after it, they do
    collector.begin(0)
    again = collector.collect(0)
    assert torch.equal(again.truncated.int().argmax(0), at)
    collector.begin(1)
    assert not torch.equal(collector.collect(0).truncated.int().argmax(0), at)


def test_short_episodes_do_not_stand_for_all_after_a_mark():
    """Where all worlds begin anew, what ends first is short: it counts when the long ones count too."""
    config = OnPolicyTraining(worlds=4, rollout=2, random_start=False, critic=CriticConfig(hidden=[1]))
    env = Waiting(4, steps=5)
    collector, _ = parts(env, config)
    for mark, seen in ((0, [0, 0, 4, 0, 4]), (1, [0, 0, 4, 0, 4])):  # episodes of 5 steps end in the 3rd and 5th pair of steps
        collector.begin(mark)
        assert [(collector.collect(k), len(collector.take_episodes(False)))[1] for k in range(5)] == seen
    collector.begin(2)
    env.max_episode_steps = 2  # now short ones there are
    collector.collect(0)
    env.max_episode_steps = 5
    assert not collector.take_episodes(False) and len(collector.take_episodes(True)) == 4


# --- one update beside stable-baselines3 -----------------------------------------------------------------------------


def test_one_update_is_that_of_stable_baselines3():
    """The same weights and samples: loss and gradients equal to 1e-5."""
    peer, draw, samples = peer_ppo(), np.random.default_rng(0), SAMPLES
    config = OnPolicyTraining(
        worlds=1, rollout=samples, epochs=1, minibatches=1, entropy_weight=0.01, value_weight=0.5, value_clip=None, gradient_clip=None,
        critic=CriticConfig(hidden=[16, 16]),
    )  # fmt: skip
    _, updater = parts(make("classic/cartpole", num_worlds=1), config, {"hidden": [16, 16], "initial_std": 0.7})
    net, critic, policy = peer.policy, updater.critic, updater.policy
    assert critic is not None
    ours = [*policy.network.parameters(), *critic.network.parameters(), policy.log_std]
    theirs = [*net.mlp_extractor.policy_net.parameters(), *net.action_net.parameters()]
    theirs += [*net.mlp_extractor.value_net.parameters(), *net.value_net.parameters(), net.log_std]
    with torch.no_grad():
        for own, other in zip(ours, theirs, strict=True):
            own.copy_(torch.from_numpy(draw.normal(0.0, 0.4, tuple(own.shape))))
            other.copy_(own)
    obs, action, old_log_prob, advantage, returns = (
        draw.normal(size=shape).astype(np.float32) for shape in ((samples, SEEN), (samples, DONE), (samples,), (samples,), (samples,))
    )
    with torch.no_grad():  # ratios on both sides of both clips, and within
        old = Gaussian(policy.network(torch.from_numpy(obs)), policy.log_std)
        old_log_prob = old.log_prob(torch.from_numpy(action)) + 0.3 * torch.from_numpy(old_log_prob)
    buffer = peer.rollout_buffer
    buffer.observations[:, 0], buffer.actions[:, 0], buffer.log_probs[:, 0] = obs, action, old_log_prob.numpy()
    buffer.advantages[:, 0], buffer.returns[:, 0], buffer.full = advantage, returns, True
    peer._setup_learn(1)
    peer._current_progress_remaining = 1.0
    peer.train()

    batch = Minibatch(
        vectors={"policy": torch.from_numpy(obs), "critic": torch.from_numpy(obs)},
        images={},
        action=torch.from_numpy(action),
        old=old,
        old_log_prob=old_log_prob,
        advantage=torch.from_numpy(advantage),
        value=torch.zeros(samples),
        returns=torch.from_numpy(returns),
        keys=torch.zeros(samples, dtype=torch.int64),
        labels={},
        state={},
        begun=torch.zeros(samples, dtype=torch.bool),
        share=1.0,
    )
    loss, about = updater._loss(batch, None, 0.0, counted=True, adaptive=True)
    loss.backward()
    said = peer.logger.name_to_value
    assert loss.item() == pytest.approx(said["train/loss"], rel=1e-5)
    assert float(about[0]) == pytest.approx(said["train/policy_gradient_loss"], rel=1e-5)
    assert float(about[4]) == pytest.approx(said["train/clip_fraction"]) and 0.2 < float(about[4]) < 0.9
    for own, other in zip(ours, theirs, strict=True):
        assert own.grad is not None and other.grad is not None
        assert float(other.grad.abs().max()) > 1e-4
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_flat_weights_are_the_networks_own():
    """Gradients, clipping and steps of Adam are those of torch on the parameters one by one."""
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)))
    flat = FlatWeights(list(networks[0].parameters()))
    ours, theirs = (torch.optim.Adam(what, lr=0.1, fused=True) for what in ([flat.flat], networks[1].parameters()))
    for step, limit in enumerate((0.1, 1e9, None)):
        x = torch.arange(6.0).view(2, 3) + step
        flat.zero()
        theirs.zero_grad()
        for network in networks:
            network(x).square().sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(networks[1].parameters(), limit or 1e9)
        torch.testing.assert_close(flat.clip(limit), norm)
        ours.step()
        theirs.step()
        for own, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
            torch.testing.assert_close(own.grad, other.grad)
            torch.testing.assert_close(own, other)
    networks[0].zero_grad()  # somebody else's doing: gradients are found again
    flat.zero()
    networks[0](torch.ones(1, 3)).sum().backward()
    assert float(flat.clip(None)) > 0.0


# --- what an update is made of ---------------------------------------------------------------------------------------


def rollout_of(steps: int, worlds: int) -> Rollout:
    index = torch.arange(steps * worlds, dtype=torch.float32).view(steps, worlds)
    names = ("log_prob", "advantage", "value", "returns", "keys", "begun")
    tensors = {"policy": index[..., None].clone(), "action": index[..., None].clone(), "mean": index[..., None].clone(), **dict.fromkeys(names, index)}
    return Rollout(tensors, index, index.bool(), index.bool(), torch.zeros(1))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_a_pass_takes_every_sample_once_whoever_shares_it(steps, worlds, count, processes, sequences, seed):
    processes = min(processes, worlds)
    whole = list(rollout_of(steps, worlds).minibatches(count, seed, range(worlds), worlds, sequences))
    taken = [batch.action.flatten().int().tolist() for batch in whole]
    assert sorted(sample for part in taken for sample in part) == list(range(steps * worlds)) and len(taken) == count
    together: list[list[int]] = [[] for _ in range(count)]
    shares = np.zeros(count)
    for rank in range(processes):
        own = Processes(rank, processes).worlds(worlds)
        part = rollout_of(steps, worlds)
        part.tensors = {name: x[:, own.start : own.stop] for name, x in part.tensors.items()}
        part.reward = part.reward[:, own.start : own.stop]
        for k, batch in enumerate(part.minibatches(count, seed, own, worlds, sequences)):
            together[k] += batch.action.flatten().int().tolist()
            shares[k] += batch.share
    assert [sorted(one) for one in together] == [sorted(one) for one in taken]
    assert np.allclose(shares, [1.0 if one else 0.0 for one in taken])


def test_the_order_is_another_in_every_pass():
    first, second = (next(rollout_of(8, 8).minibatches(1, seed, range(8), 8, False)).action.flatten().tolist() for seed in (0, 1))
    assert first != second and sorted(first) == sorted(second)


def test_running_moments_are_those_of_all_rows():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 3, generator=draw) * torch.tensor([1.0, 100.0, 1e-3]) + torch.tensor([0.0, 1e4, -1.0])
    running = RunningMoments((3,))
    for block in rows.split([1, 9, 200, 90]):
        running.merge(Processes().moments(block))
    torch.testing.assert_close(running.tensors["mean"], rows.double().mean(0), rtol=1e-9, atol=0)
    torch.testing.assert_close(running.deviation, rows.double().std(0, correction=0), rtol=1e-6, atol=0)


def test_returns_begin_anew_with_every_episode():
    scale = ReturnScale(1, 0.5, torch.device("cpu"))
    scale.learn(torch.tensor([[1.0], [1.0], [1.0], [1.0]]), torch.tensor([[False], [False], [True], [False]]), Processes())
    seen = torch.tensor([1.0, 1.5, 1.75, 1.0])  # the fourth is the first of an episode
    assert scale.deviation == pytest.approx(float(seen.std(correction=0)), rel=1e-6)


def test_the_normaliser_stands_still_while_it_is_learnt_from():
    """Ratios of the first minibatch are exactly one: what was drawn is judged through the same normaliser."""
    config = OnPolicyTraining(worlds=16, rollout=16, epochs=1, minibatches=1, lr=1e-2, schedule="constant", critic=CriticConfig(hidden=[8]))
    collector, updater = parts(make("classic/cartpole", num_worlds=16), config)
    collector.begin(0)
    sight, normalizer = updater.sights["policy"], updater.policy.normalizer
    for k in range(3):
        before = normalizer.tensors()
        rollout = collector.collect(k)
        updater.estimate(rollout)
        updater.improve(rollout, k, 0.0)
        assert updater.metrics()["ratio_deviation_max"] < 1e-5
        assert all(torch.equal(tensor, before[name]) for name, tensor in normalizer.tensors().items())
        sight.learn(rollout.tensors["policy"].flatten(0, 1), Processes())
        assert not torch.equal(normalizer.tensors()["observation.state.scale"], before["observation.state.scale"])
    assert sight.moments.tensors["count"] == 3 * 256


def test_a_critic_may_see_what_the_policy_cannot():
    env = make("arm/reach", num_worlds=4)
    names = list(env.spec.observation.state_names)
    assert len(names) > 1
    config = OnPolicyTraining(worlds=4, rollout=4, epochs=1, minibatches=2, critic=CriticConfig(hidden=[8], observations=names))
    collector, updater = parts(env, config, {"hidden": [8], "observations": names[:1]})
    collector.begin(0)
    rollout = collector.collect(0)
    updater.estimate(rollout)
    updater.improve(rollout, 0, 0.0)
    fields = env.spec.observation.fields
    assert rollout.tensors["policy"].shape[-1] == fields[names[0]].size
    assert rollout.tensors["critic"].shape[-1] == sum(fields[name].size for name in names)
    assert updater.critic is not None and all(p.grad is not None for p in updater.critic.parameters())
    env.close()


def test_images_that_would_not_be_moved_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"policy\.image\.shift: on-policy rules do not move images"):
        train(recipe(tmp_path / "run", policy={"image": {"shift": 4}}), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_mistake_leaves_no_run_behind_that_the_corrected_command_would_trip_over(tmp_path):
    with pytest.raises(InputError, match=r"training\.critic\.observations: .*did you mean 'observation\.state'"):
        train(recipe(tmp_path / "run", steps=128, critic={"observations": ["observation.stat"]}))
    assert train(recipe(tmp_path / "run", steps=128)).steps == 128
    with pytest.raises(InputError, match="holds a run with another recipe"):
        train(recipe(tmp_path / "run", steps=128, critic={"observations": ["observation.stat"]}))
    assert (tmp_path / "run/last").is_file()  # a run that was there already stays


def test_mistakes_are_said():
    spec = make("classic/cartpole").spec
    with pytest.raises(InputError, match=r"training\.critic\.observations: .*observation\.stat.*did you mean 'observation\.state'"):
        Critic(CriticConfig(observations=["observation.stat"]), spec, None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"training\.critic\.observations: no field to read"):
        Critic(CriticConfig(observations=[]), spec, None)  # type: ignore[arg-type]
