"""Bidirectional decoding: losses against loops written out, the choice between modes, and catching with fewer changes of mind."""

import numpy as np
import pydantic
import pytest
import torch

from policies import checkpoint
from policies.base import Execution, Plan
from policies.noise import Noise, row_keys
from policies.realtime.bid import Bid, BidConfig, backward_losses, distances, nearest_half
from policies.realtime.overlap import Overlap
from policies.realtime.rtc import Rtc, RtcConfig
from policies.spec import InputError
from robopolicy.bench.catch import play
from tests.policies import toy
from tests.policies.realtime.catching import exact

BATCH = toy.random_batch(toy.STATE, 6)
OBS = toy.observation(BATCH)
SEEDS = np.arange(120)


def keys(rows, call=0):
    return Noise(row_keys(3, np.arange(rows), call))


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def overlap(length, horizon=6, now=1):
    rows = len(length)
    zeros = torch.zeros(rows, dtype=torch.int64)
    return Overlap(zeros, torch.tensor(length), zeros.bool(), horizon, now)


def test_backward_loss_written_out():
    chunks, last, rho = random(3, 4, 6, 2), random(3, 6, 2, seed=1), 0.5
    found = backward_losses(chunks, last, overlap([3, 0, 9]), rho)
    for b, steps in enumerate((3, 0, 5)):  # To = 2: row 1 is the present step, 5 rows are left
        for n in range(4):
            expected = sum(rho**i * float((chunks[b, n, 1 + i] - last[b, 1 + i]).norm()) for i in range(steps))
            assert found[b, n].item() == pytest.approx(expected, abs=1e-6)


def test_nearest_half_written_out():
    a, b = random(2, 5, 6, 2), random(2, 7, 6, 2, seed=1)
    members = torch.tensor([[True] * 7, [True, False, True, False, True, False, False]])
    near, far = nearest_half(distances(a, b, overlap([6, 6])), members), distances(a, b, overlap([6, 6]))
    own = nearest_half(distances(a, a, overlap([6, 6])), torch.ones(2, 5, dtype=torch.bool), skip_self=True)
    for row in range(2):
        for n in range(5):
            apart = sorted(float((a[row, n, 1:] - b[row, m, 1:]).norm(dim=-1).mean()) for m in range(7) if members[row, m])
            half = (len(apart) + 1) // 2
            assert near[row, n].item() == pytest.approx(sum(apart[:half]) / half, abs=1e-6)
            apart = sorted(float((a[row, n, 1:] - a[row, m, 1:]).norm(dim=-1).mean()) for m in range(5) if m != n)
            assert own[row, n].item() == pytest.approx(sum(apart[:2]) / 2, abs=1e-6)
    assert far.shape == (2, 5, 7)
    assert (nearest_half(far, torch.zeros(2, 7, dtype=torch.bool)) == 0).all()


class Drawn(Bid):
    """Bidirectional decoding of given chunks instead of sampled ones: streams 0 (strong) and 1 (weak) of (B, N, Tp, De)."""

    def __init__(self, config, policy, *drawn):
        super().__init__(config, policy)
        self.drawn, self.weak = drawn, policy if len(drawn) > 1 else None

    def _draw(self, policy, obs, noise, stream):
        return self.drawn[stream], 1


def choice(method, last=None):
    """Return the index of the sample that a method takes, its last plan being the (Tp, De) normalised chunk ``last``."""
    state, one = method.initial_state(1), {name: value[:1] for name, value in OBS.items()}
    if last is not None:
        plan = torch.cat([last[:1], last])[None, : len(last)]  # elapsed 1 shifts it back
        state = {"plan": method.policy.decode(plan, one), "planned": torch.ones(1, dtype=torch.bool)}
    chosen, _ = method.act(one, state, keys(1), Execution(elapsed=1))
    plans = method.policy.decode(method.drawn[0][0], {name: value.expand(len(method.drawn[0][0]), *value.shape[1:]) for name, value in one.items()})
    return int((plans[:, 1:9] - chosen.actions).abs().sum((1, 2)).argmin())


def level(*values, horizon=16):
    """Constant chunks (1, N, Tp, 4)."""
    return torch.tensor(values)[None, :, None, None].expand(1, -1, horizon, 4).float()


def test_it_goes_on_in_the_mode_of_the_last_plan():
    policy = toy.build("flow", toy.STATE, BATCH)
    chunks = level(0.8, 0.7, 0.75, -0.5, -0.55, -0.6)
    for mode, within in ((0.8, {0, 1, 2}), (-0.5, {3, 4, 5})):
        assert choice(Drawn(BidConfig(samples=6, keep=3), policy, chunks), torch.full((16, 4), mode)) in within
    assert choice(Drawn(BidConfig(samples=6, keep=1), policy, chunks), torch.full((16, 4), -0.6)) == 5
    crowded = level(0.8, 0.7, -0.5, -0.55, -0.6, -0.45)
    assert choice(Drawn(BidConfig(samples=6, keep=2), policy, crowded)) in {2, 3, 4, 5}  # no plan to go on from: all stay in


def test_it_keeps_away_from_the_weak_policy():
    policy = toy.build("flow", toy.STATE, BATCH)
    strong = level(0.1, 0.12, 0.5, 0.52)
    assert choice(Drawn(BidConfig(samples=4, keep=4), policy, strong, level(0.1, 0.12, 0.1, 0.12))) in (2, 3)
    assert choice(Drawn(BidConfig(samples=4, keep=4), policy, strong, level(0.5, 0.52, 0.5, 0.52))) in (0, 1)


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_samples_depend_on_their_row_alone(kind):
    policy = toy.build(kind, toy.STATE, BATCH).eval()
    method = Bid(BidConfig(samples=6), policy)
    plan, state = method.act(OBS, method.initial_state(6), keys(6))
    assert plan.info["network_calls"].tolist() == [60.0] * 6
    together, _ = method.act(OBS, state, keys(6, 1), Execution(1, 1, 4))
    again, _ = method.act(OBS, state, keys(6, 1), Execution(1, 1, 4))
    assert torch.equal(together.actions, again.actions)
    for row in range(6):
        one, noise = slice(row, row + 1), Noise(row_keys(3, np.arange(6), 1)[row : row + 1])
        alone, _ = method.act({n: v[one] for n, v in OBS.items()}, {n: v[one] for n, v in state.items()}, noise, Execution(1, 1, 4))
        torch.testing.assert_close(together.actions[one], alone.actions, atol=1e-4, rtol=1e-4)
    chunks, _ = method._draw(policy, OBS, keys(6), 0)
    weak, _ = method._draw(policy, OBS, keys(6), 1)
    assert chunks.shape == (6, 6, 16, 4)
    flat = torch.cat([chunks, weak], 1).flatten(0, 1).flatten(1)
    assert torch.cdist(flat, flat).fill_diagonal_(1).min() > 1e-3  # all draws differ


def test_weak_checkpoints(tmp_path):
    strong, weak = toy.build("flow", toy.STATE, BATCH).eval(), toy.build("diffusion", toy.STATE, BATCH, seed=1)
    folder = checkpoint.save(tmp_path / "weak", weak, recipe={}, extra={})
    method = Bid(BidConfig(samples=4, weak=str(folder)), strong)
    plan, _ = method.act(OBS, method.initial_state(6), keys(6))
    assert isinstance(plan, Plan) and plan.info["network_calls"].tolist() == [80.0] * 6 and plan.actions.isfinite().all()
    other = checkpoint.save(tmp_path / "other", toy.build("flow", toy.STATE, toy.random_batch(toy.STATE, 6, 24), horizon=24), recipe={}, extra={})
    with pytest.raises(InputError, match=r"weak .*other: expected spec, n_obs_steps and horizon .*16.*found .*24"):
        Bid(BidConfig(weak=str(other)), strong)
    with pytest.raises(InputError, match="nowhere"):
        Bid(BidConfig(weak=str(tmp_path / "nowhere")), strong)


def test_what_it_can_be_told():
    assert (BidConfig().samples, BidConfig().kept, BidConfig().rho, BidConfig(samples=2).kept) == (15, 5, 0.5, 1)
    with pytest.raises(pydantic.ValidationError, match="keep 4: expected at most samples, 3"):
        BidConfig(samples=3, keep=4)


def changes(outcome):
    """Changes of side per episode, after the first plan."""
    return (np.diff(outcome.sides, axis=1) != 0).sum(1).mean()


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_half_the_changes_of_mind(kind):
    """On the noisy point mass with two modes, receding horizon, and with plans that come late."""
    base = exact(kind, n_action_steps=16)
    for delay in (0, 3):
        naive, bid = (play(method, delay, 4, SEEDS) for method in (Rtc(RtcConfig(beta=0), base), Bid(BidConfig(), base)))
        assert changes(naive) > 3 and changes(bid) < 0.5 * changes(naive)
        assert bid.jumps.mean() < 0.6 * naive.jumps.mean()
    assert bid.caught.mean() > naive.caught.mean() + 0.3
