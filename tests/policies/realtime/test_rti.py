"""Real-time iteration: the rule for k0, its tracking lag and spread on exact answers, rows that never share numbers, two-valued actions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import checkpoint, registry
from policies.base import Execution
from policies.generative.paths import DdpmPath, KarrasPath, LinearPath
from policies.generative.policy import GenerativePolicy
from policies.generative.samplers import Ddpm
from policies.noise import Noise, row_keys
from policies.normalize import two_valued
from policies.realtime.rti import LEVELS, Rti, RtiConfig, escape_level, escapes, rule_level, separations, start_level
from policies.spec import InputError
from policies.statistics import RunningStats
from tests.oracles.mixture import ConditionalMixture, GaussianMixture, two_modes
from tests.oracles.policy import oracle_policy
from tests.policies.toy import STATE, Batch, build, observation, random_batch

PATH = DdpmPath(100)
BATCH = random_batch(STATE, 8)
KEYS = row_keys(0, np.arange(8))


# --- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("separation", "level"), [(1.0, 39), (0.5, 20), (0.1, 3)])
def test_the_rule_gives_the_published_levels(separation: float, level: int) -> None:
    assert escape_level(separation) == level
    share = PATH.alpha_bar[level]
    assert 2 * math.sqrt(share) * separation**2 / (1 - share) < math.log(99)
    assert not any(escapes(k, separation) for k in range(level))


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_farther_values_need_more_noise(a: float, b: float) -> None:
    assert (escape_level(max(a, b)) >= escape_level(min(a, b))) and 0 <= escape_level(a) <= 39


def test_levels_of_other_paths_have_the_same_signal_to_noise_ratio() -> None:
    signal, sigma = PATH.scales(15)
    for path in (LinearPath(), KarrasPath()):
        found = path.scales(start_level(path, 15))
        assert found[1] / found[0] == pytest.approx(sigma / signal, rel=1e-12)
    assert start_level(PATH, 15) == 15
    fewer = start_level(DdpmPath(50), 15)
    assert isinstance(fewer, int) and fewer in (7, 8)


# --- lag and spread on the exact oracle ------------------------------------------------------------------------------


def target(deviation: float) -> ConditionalMixture:
    """Actions N(c, deviation^2) for the condition c: a target that moves with what is seen."""
    return ConditionalMixture.of(GaussianMixture.of((1.0, (0.0,), deviation)), [[[1.0]]])


def tracked(name: str, deviation: float, level: int, steps: int, solver: str = "ddpm", rows: int = 4000) -> tuple[float, torch.Tensor]:
    """Return the lag after the target has moved from 0 to 0.2, less what the first plans' own mean explains, and the plans (rows,)."""
    policy = oracle_policy(name, target(deviation))
    method = Rti(RtiConfig(level=level, steps=steps, solver=solver), policy)
    noises = [Noise(row_keys(call, np.arange(rows))) for call in range(2)]
    first, state = method.act({"observation.state": torch.zeros(rows, 1, 1)}, method.initial_state(rows), noises[0])
    moved, _ = method.act({"observation.state": torch.full((rows, 1, 1), 0.2)}, state, noises[1])
    lag = 0.2 - moved.actions.double().mean().item()
    return lag * 0.2 / (0.2 - first.actions.double().mean().item()), moved.actions.flatten()


def exact_lag(deviation: float, level: int) -> float:
    signal, sigma = PATH.scales(level)
    return 0.2 * signal**2 * deviation**2 / (signal**2 * deviation**2 + sigma**2)


@pytest.mark.parametrize(("level", "quoted"), [(15, 0.007), (22, 0.003), (3, 0.062)])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_lag_is_the_closed_form_and_does_not_depend_on_the_number_of_calls(level: int, quoted: float, steps: int) -> None:
    assert exact_lag(0.05, level) == pytest.approx(quoted, abs=0.001)
    for name in ("diffusion", "flow"):  # at the same signal-to-noise ratio
        lag, _ = tracked(name, 0.05, level, steps)
        assert lag == pytest.approx(exact_lag(0.05, level), abs=0.002)  # 4000 samples


@pytest.mark.parametrize(("name", "three"), [("diffusion", 0.0173), ("flow", 0.0193)])
def test_steps_along_the_ode_lag_more(name: str, three: float) -> None:
    signal, sigma = PATH.scales(15)
    limit = 0.2 * signal * 0.05 / math.hypot(signal * 0.05, sigma)  # of infinitely many steps: 0.0367
    lags = [tracked(name, 0.05, 15, steps, "own")[0] for steps in (3, 12)]
    assert lags[0] == pytest.approx(three, abs=0.002) and 2.5 * exact_lag(0.05, 15) < lags[0] < lags[1] < limit


def test_meanflow_makes_its_own_jumps_unless_a_solver_is_asked_for() -> None:
    policy, found = build("meanflow", STATE, BATCH).eval(), {}
    for solver in (None, "own", "ddpm"):
        method = Rti(RtiConfig(level=20, solver=solver), policy)
        _, state = method.act(observation(BATCH), method.initial_state(8), Noise(KEYS))
        plan, _ = method.act(observation(BATCH), state, Noise(row_keys(1, np.arange(8))))
        assert (plan.info["network_calls"] == 3).all()
        found[solver] = plan.actions
    assert torch.equal(found[None], found["own"]) and not torch.allclose(found["own"], found["ddpm"])


class Walk:
    """The walks of the released code and of this one, on N(0, deviation^2), for the guess ``guess`` (B, 1)."""

    def __init__(self, mixture: GaussianMixture, levels: list[int]) -> None:
        self.mixture, self.levels = mixture, levels

    def __call__(self, guess: torch.Tensor, respaced: bool, noised: bool, quiet: bool = False) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)

        def draw() -> torch.Tensor:
            return torch.zeros_like(guess) if quiet else torch.randn(guess.shape, dtype=torch.float64, generator=generator)

        x = PATH.mix(guess, draw(), self.levels[0]) if noised else guess
        for t, following in itertools.pairwise([*self.levels, -1]):
            x = Ddpm().step(PATH, x, t, following if respaced else t - 1, self.mixture.estimate(PATH, x, t), draw())
        return x


SQUARE = [15, 13, 11, 9, 7, 5, 3, 2, 1, 0]
CLIPPED = [*range(22, 0, -2), 1, 0]


@pytest.mark.parametrize(("levels", "released", "respaced"), [(SQUARE, 0.021, 0.007), (CLIPPED, 0.017, 0.003), ([3, 1, 0], 0.086, 0.062)])
def test_lag_of_the_released_lists(levels: list[int], released: float, respaced: float) -> None:
    walk = Walk(GaussianMixture.of((1.0, (0.2,), 0.05)), levels)
    lags = [0.2 - walk(torch.zeros(1, 1, dtype=torch.float64), r, noised=r, quiet=True).item() for r in (False, True)]
    assert lags == pytest.approx([released, respaced], abs=0.0015)
    assert lags[1] == pytest.approx(exact_lag(0.05, levels[0]), abs=1e-9)


def test_spread_of_the_released_lists() -> None:
    found: dict[tuple[bool, bool], list[float]] = {}
    for levels, deviation in itertools.product((SQUARE, CLIPPED, [3, 1, 0], [2, 1, 0]), (0.05, 0.15)):
        mixture = GaussianMixture.of((1.0, (0.0,), deviation))
        for kind in ((False, False), (True, True), (False, True)):
            samples = Walk(mixture, levels)(mixture.draw(20000, seed=1), *kind)
            found.setdefault(kind, []).append(samples.std().item() / deviation)
    released, ours, noised_alone = (found[kind] for kind in ((False, False), (True, True), (False, True)))
    assert min(released) == pytest.approx(0.63, abs=0.02) and max(released) == pytest.approx(0.98, abs=0.03)
    assert min(ours) == pytest.approx(0.76, abs=0.02) and max(ours) == pytest.approx(0.955, abs=0.02)
    assert max(noised_alone) == pytest.approx(1.28, abs=0.02)  # noise that the steps of t -> t - 1 do not take away


@pytest.mark.parametrize(
    ("separation", "levels", "noised", "expected"),
    [
        (1.0, [3, 1, 0], False, 0.00),
        (1.0, SQUARE, False, 0.00),
        (1.0, list(range(40, -1, -1)), False, 0.57),
        (0.1, [3, 1, 0], False, 0.86),
        (0.1, [7, 5, 3, 1, 0], False, 0.985),
        (0.1, [3, 1, 0], True, 0.64),  # noised, the guess is also pushed back into the wrong mode
        (0.1, [7, 5, 3, 1, 0], True, 0.955),
    ],
)
def test_a_guess_at_the_wrong_value_leaves_it_as_the_rule_says(separation: float, levels: list[int], noised: bool, expected: float) -> None:
    mixture = two_modes(1, separation, 0.01, share=0.99)
    guess = torch.full((4000, 1), -separation, dtype=torch.float64)
    flipped = (Walk(mixture, levels)(guess, respaced=True, noised=noised) > 0).double().mean().item()
    assert flipped == pytest.approx(expected, abs=0.025)


def test_iteration_keeps_to_its_mode_from_a_low_level_and_forgets_it_from_the_highest() -> None:
    policy = oracle_policy("diffusion", two_modes(4), horizon=4, steps=20)
    obs = {"observation.state": torch.zeros(500, 1, 1)}
    for level, expected in ((10, 0.0), (99, 0.5)):
        method = Rti(RtiConfig(level=level, steps=3), policy)
        plan, state = method.act(obs, method.initial_state(500), Noise(row_keys(0, np.arange(500))))
        signs = plan.actions[:, 0, 0] > 0
        assert 0.4 < signs.float().mean() < 0.6
        for call in range(1, 4):
            plan, state = method.act(obs, state, Noise(row_keys(call, np.arange(500))))
        assert ((plan.actions[:, 0, 0] > 0) != signs).float().mean().item() == pytest.approx(expected, abs=0.08)


# --- rows, streams, calls --------------------------------------------------------------------------------------------


def run(method: Rti, batches: list[Batch], resets: list[torch.Tensor], keys: np.ndarray, execution: Execution = Execution()):
    """Return the last plan after a call for every batch; the rows of ``resets`` begin anew before their call."""
    state, plan = method.initial_state(len(keys)), None
    for call, (batch, mask) in enumerate(zip(batches, resets, strict=True)):
        plan, state = method.act(observation(batch), method.reset(state, mask), Noise(keys + call), execution)
    assert plan is not None
    return plan


@pytest.mark.parametrize("name", ["diffusion", "flow"])
@pytest.mark.parametrize("config", [{}, {"sampler": "ddpm", "steps": 20}])
def test_a_row_gets_what_it_would_get_alone(name: str, config: dict) -> None:
    policy = build(name, STATE, BATCH, **(config if name == "diffusion" else {})).eval()
    method = Rti(RtiConfig(level=15), policy)
    batches = [random_batch(STATE, 8, seed=seed) for seed in range(3)]
    none, mixed, every = torch.zeros(8, dtype=torch.bool), torch.arange(8) % 3 == 0, torch.ones(8, dtype=torch.bool)
    running = run(method, batches, [none, none, none], KEYS)
    fresh = run(method, batches, [none, none, every], KEYS)
    both = run(method, batches, [none, none, mixed], KEYS)
    assert torch.equal(both.actions, torch.where(mixed[:, None, None], fresh.actions, running.actions))
    full = config.get("steps", 10) if name == "diffusion" else 10
    assert both.info["network_calls"].tolist() == [full if m else 3 for m in mixed] and both.info["restarted"].tolist() == mixed.float().tolist()
    assert running.info["network_calls"].tolist() == [3] * 8 and fresh.info["network_calls"].tolist() == [full] * 8
    for row in (0, 1):
        alone = run(method, [{k: v[row : row + 1] for k, v in b.items()} for b in batches], [none[:1], none[:1], mixed[row : row + 1]], KEYS[row : row + 1])
        assert (alone.actions - both.actions[row]).abs().max() < 1e-5


def test_the_first_plan_is_the_policys_own_and_one_action_of_it_is_played() -> None:
    policy = build("diffusion", STATE, BATCH).eval()
    plan, _ = policy.act(observation(BATCH), {}, Noise(KEYS))
    method = Rti(RtiConfig(level=5), policy)
    first, state = method.act(observation(BATCH), method.initial_state(8), Noise(KEYS))
    assert method.n_action_steps == 1 and torch.equal(first.actions, plan.actions[:, :1])
    assert state["plan"].shape == (8, 16, 4) and bool(state["planned"].all())
    longer = Rti(RtiConfig(level=5, n_action_steps=4, first_steps=20), policy)
    again, _ = longer.act(observation(BATCH), longer.initial_state(8), Noise(KEYS))
    assert again.actions.shape == (8, 4, 4) and again.info["network_calls"].tolist() == [20.0] * 8


def test_a_plan_that_has_nothing_more_to_say_is_not_gone_on_from() -> None:
    policy = build("flow", STATE, BATCH).eval()
    method = Rti(RtiConfig(level=5), policy)
    _, state = method.act(observation(BATCH), method.initial_state(8), Noise(KEYS))
    elapsed = torch.tensor([1, 2, 8, 14, 15, 16, 17, 100])
    plan, _ = method.act(observation(BATCH), state, Noise(KEYS), Execution(elapsed=elapsed))
    assert plan.info["restarted"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    one, _ = method.act(observation(BATCH), state, Noise(KEYS), Execution(elapsed=1))
    two, _ = method.act(observation(BATCH), state, Noise(KEYS), Execution(elapsed=2))
    assert torch.equal(plan.actions[0], one.actions[0]) and torch.equal(plan.actions[1], two.actions[1])
    assert not torch.equal(one.actions, two.actions)


def test_the_guess_is_the_last_plan_shifted_with_its_last_row_repeated() -> None:
    policy = build("flow", STATE, BATCH, actions="delta", action_reference={"position": "observation.state"}).eval()
    method = Rti(RtiConfig(), policy)
    _, state = method.act(observation(BATCH), method.initial_state(8), Noise(KEYS))
    other = observation(random_batch(STATE, 8, seed=5))
    guess = method.continued(other, state, Execution(elapsed=3))
    rows = [min(row + 3, 15) for row in range(16)]
    assert (policy.decode(guess, other) - state["plan"][:, rows]).abs().max() < 1e-5  # as seen from what is observed now


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.chunk_policy_names())
def test_every_policy_iterates_or_says_why_not(name: str) -> None:
    policy = build(name, STATE, BATCH).eval()
    if not isinstance(policy, GenerativePolicy):
        with pytest.raises(InputError, match="expected a generative policy"):
            Rti(RtiConfig(), policy)
        return
    none = torch.zeros(8, dtype=torch.bool)
    plan = run(Rti(RtiConfig(level=15), policy), [BATCH] * 3, [none] * 3, KEYS)
    assert plan.actions.shape == (8, 1, 4) and plan.info["network_calls"].tolist() == [3.0] * 8 and torch.isfinite(plan.actions).all()


def test_what_does_not_fit_is_refused() -> None:
    flow, diffusion = build("flow", STATE, BATCH), build("diffusion", STATE, BATCH)
    with pytest.raises(InputError, match="expected a generative policy, such as diffusion or flow, found RegressionPolicy"):
        Rti(RtiConfig(), build("regression", STATE, BATCH))
    with pytest.raises(InputError, match=r"level 2, steps 4.*expected 1 to 3"):
        Rti(RtiConfig(level=2, steps=4), diffusion)
    with pytest.raises(InputError, match="n_action_steps 16: expected at most 15"):
        Rti(RtiConfig(n_action_steps=16), flow)
    with pytest.raises(InputError, match="expected 1 to 100"):
        Rti(RtiConfig(first_steps=101), diffusion)
    for wrong in ({"level": 100}, {"level": -1}, {"steps": 0}, {"stepz": 3}):
        with pytest.raises(pydantic.ValidationError):
            RtiConfig(**wrong)


# --- two-valued actions ----------------------------------------------------------------------------------------------


def stats(values: np.ndarray) -> dict[str, np.ndarray]:
    running = RunningStats(values.shape[1:])
    running.update(values)
    return running.result()


@settings(deadline=None, max_examples=50)
@given(st.floats(-5, 5), st.floats(0.01, 10), st.floats(0.02, 0.98), st.integers(0, 3))
def test_two_values_are_found_and_others_are_not(low: float, width: float, share: float, seed: int) -> None:
    uniform = np.random.default_rng(seed).uniform(size=(1000, 1))
    two = np.where(uniform < share, low, low + width)
    two[:2, 0] = low, low + width
    rows = np.concatenate([two, low + width * uniform, np.full_like(two, low), low + width * np.round(4 * uniform)], 1)
    assert two_valued(stats(rows)).tolist() == [True, False, False, False]


def gripper_batch(seed: int = 0, rows: int = 64) -> Batch:
    """The toy batch with a gripper at -1 or 0.6, changing within the chunk."""
    batch = random_batch(STATE, rows, seed=seed)
    batch["action"][..., 3] = torch.where(batch["action"][..., 3] > 0.2, 0.6, -1.0)
    return batch


def test_two_valued_actions_are_scaled_in_the_chunk_and_come_out_as_one_of_two() -> None:
    batch = gripper_batch()
    plain, scaled = build("flow", STATE, batch), build("flow", STATE, batch, two_valued_scale=0.1)
    assert plain.normalizer.modes("action") == ("min_max",) * 4 and scaled.normalizer.modes("action") == ("min_max",) * 3 + ("two_valued",)
    chunk, same = scaled.encode(batch["action"], batch), plain.encode(batch["action"], batch)
    assert torch.equal(chunk[..., :3], same[..., :3]) and torch.allclose(chunk[..., 3], 0.1 * same[..., 3])
    assert sorted(set(chunk[..., 3].flatten().tolist())) == pytest.approx([-0.1, 0.1], abs=1e-6)
    assert torch.allclose(scaled.decode(chunk, batch), batch["action"], atol=1e-5)
    noisy = scaled.decode(chunk + 0.09 * torch.sin(torch.arange(16.0))[:, None], batch)
    assert torch.allclose(noisy[..., 3], batch["action"][..., 3], atol=1e-5)  # the nearer of the two
    assert (separations(plain), separations(scaled)) == ([0, 0, 0, 1], pytest.approx([0, 0, 0, 0.1]))
    assert (rule_level(plain), rule_level(scaled)) == (39, 3)
    assert (Rti(RtiConfig(), plain).level, Rti(RtiConfig(), scaled).level, Rti(RtiConfig(level=7), scaled).level) == (39, 3, 7)
    even = build("flow", STATE, BATCH, two_valued_scale=0.1)  # the data show that its gripper is not two-valued
    assert even.normalizer.modes("action") == ("min_max",) * 4 and rule_level(even) is None and Rti(RtiConfig(), even).level == 10


def test_what_tune_tries() -> None:
    batch = gripper_batch()
    plain, scaled = build("diffusion", STATE, batch), build("diffusion", STATE, batch, two_valued_scale=0.1)
    even = build("diffusion", STATE, BATCH, two_valued_scale=0.1)

    def levels(policy, **config) -> list[int]:
        return [c.level for c in Rti.candidates(RtiConfig(**config), policy)]

    assert levels(even) == list(LEVELS) and levels(scaled) == [3, 5, 10, 20, 40]
    assert levels(plain) == [2, 5, 10, 20, 39, 40]  # only its kind says that the gripper is two-valued: the rule's level, and all others
    assert Rti.remark(even) == "" and "from level 3 on" in Rti.remark(scaled) and "lower levels are not tried" in Rti.remark(scaled)
    assert "from level 39 on" in Rti.remark(plain) and "lower levels are tried too" in Rti.remark(plain)
    assert levels(scaled, level=2) == [2] and levels(even, steps=4) == [5, 10, 20, 40]


def test_two_valued_actions_survive_a_checkpoint(tmp_path) -> None:
    batch = gripper_batch()
    policy = build("diffusion", STATE, batch, two_valued_scale=0.1).eval()
    again = checkpoint.load(checkpoint.save(tmp_path / "c", policy, recipe={}, extra={}))
    plans = [p.act(observation(batch), {}, Noise(row_keys(0, np.arange(64))))[0].actions for p in (policy, again)]
    assert torch.equal(*plans) and ((plans[0][..., 3] + 1.0).abs().minimum((plans[0][..., 3] - 0.6).abs()) < 1e-6).all()
    assert again.config.two_valued_scale == 0.1 and rule_level(again) == 3
    assert registry.config_class("diffusion")().two_valued_scale is None
