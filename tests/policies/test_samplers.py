"""Samplers: what theory says is equal, and the rest of the interface."""

import itertools

import numpy as np
import pytest
import torch

from policies.generative.paths import DdpmPath, Estimate, KarrasPath, LinearPath
from policies.generative.samplers import Ddim, Ddpm, DpmSolver, Euler, Heun, denoiser, sample
from policies.noise import Noise, row_keys
from policies.spec import InputError
from tests.oracles.mixture import BIMODAL, RING, normal_grid
from tests.policies.recorded import Recorded, start

DDPM, FLOW, KARRAS = DdpmPath(), LinearPath(), KarrasPath()

# --- what theory says is equal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [Ddpm(), Ddim(), Ddim(0.3)], ids=str)
def test_hundred_steps_respaced_to_hundred_change_no_bit(solver):
    keys = row_keys(0, np.arange(32))
    noise = Noise(keys)
    x = noise.normal(2).double()
    model = RING.model(DDPM)
    respaced = sample(model, x, DDPM, DDPM.step_list(100), solver, noise)
    draws = Noise(keys, draw=1).normal(100, 2).double() if solver.stochastic else None
    for i, k in enumerate(range(99, -1, -1)):
        x = solver.step(DDPM, x, k, k - 1, model(x, k), None if draws is None else draws[:, i])
    assert torch.equal(respaced, x)


def test_consecutive_ddpm_steps_are_the_textbook_formula():
    # Ho et al. 2020, algorithm 2 and eq. 7, written with beta_k as there
    beta, bar = DDPM.betas, DDPM.alpha_bar
    x, z = start(16, 2), start(16, 2, seed=1)
    for k in (99, 50, 1, 0):
        before = bar[k - 1] if k else 1.0
        data = RING.estimate(DDPM, x, k).data
        mean = np.sqrt(before) * beta[k] / (1 - bar[k]) * data + np.sqrt(1 - beta[k]) * (1 - before) / (1 - bar[k]) * x
        expected = mean + np.sqrt((1 - before) / (1 - bar[k]) * beta[k]) * z
        assert torch.allclose(Ddpm().step(DDPM, x, k, k - 1, RING.estimate(DDPM, x, k), z), expected, atol=1e-12)


@pytest.mark.parametrize("path", [DDPM, FLOW, KARRAS], ids=["ddpm", "flow", "karras"])
def test_ddim_with_eta_one_is_ddpm(path):
    levels = path.step_list(7)
    x, z = path.prior(start(16, 2)), start(16, 2, seed=1)
    for t, t_next in list(itertools.pairwise(levels))[1:]:
        estimate = RING.estimate(path, x, t)
        a, b = Ddpm().step(path, x, t, t_next, estimate, z), Ddim(1.0).step(path, x, t, t_next, estimate, z)
        assert torch.allclose(a, b, atol=1e-7 * float(x.abs().max()))


@pytest.mark.parametrize("path", [FLOW, KARRAS], ids=["flow", "karras"])
def test_ddim_on_straight_paths_is_euler(path):
    x = path.prior(start(16, 2))
    for t, t_next in itertools.pairwise(path.step_list(7)):
        estimate = RING.estimate(path, x, t)
        assert torch.allclose(Ddim().step(path, x, t, t_next, estimate), Euler().step(path, x, t, t_next, estimate), atol=1e-10)


def test_first_step_of_dpm_solver_is_ddim():
    x = start(16, 2)
    estimate = RING.estimate(DDPM, x, 99)
    assert torch.allclose(DpmSolver().step(DDPM, x, 99, 60, estimate), Ddim().step(DDPM, x, 99, 60, estimate), atol=1e-9)


@pytest.mark.parametrize(("t", "t_next"), [(99, 80), (60, 20), (15, 13), (5, -1)])
def test_a_respaced_step_has_the_next_levels_variance(t, t_next):
    # data ~ N(0, s^2): x_t ~ N(0, a^2 s^2 + b^2) must become x_s with exactly the variance of level s, however far apart
    n, deviation = 400_000, 0.5
    noise = Noise(row_keys(0, np.arange(n)))
    data, e, z = (noise.normal(1).double() for _ in range(3))
    x = DDPM.mix(deviation * data, e, t)
    a, b = DDPM.scales(t_next)
    truth = Estimate(deviation * data, e)  # a posterior mean would lack the data's posterior variance
    got = Ddpm().step(DDPM, x, t, t_next, truth, z).var().item()
    assert got == pytest.approx((a * deviation) ** 2 + b**2, rel=0.01)


def test_warm_start_in_any_place_returns_to_the_data():
    # data that was re-noised to level 40 and walked down again has the same distribution
    data = BIMODAL.draw(20_000)
    noise = Noise(row_keys(0, np.arange(20_000)))
    x = DDPM.mix(data, noise.normal(1).double(), 40)
    stochastic = sample(BIMODAL.model(DDPM), x, DDPM, DDPM.step_list(41, start=40), Ddpm(), noise)
    assert BIMODAL.distance(stochastic) < 0.02
    assert BIMODAL.distance(sample(BIMODAL.model(DDPM), x, DDPM, DDPM.step_list(20, start=40), Ddim())) < 0.02


def test_partial_walk_continues_where_it_stopped():
    x, levels = start(8, 2), DDPM.step_list(10)
    whole = sample(RING.model(DDPM), x, DDPM, levels, Ddim())
    half = sample(RING.model(DDPM), x, DDPM, levels[:6], Ddim())
    assert torch.equal(sample(RING.model(DDPM), half, DDPM, levels[5:], Ddim()), whole)


def test_rows_at_levels_of_their_own():
    x = start(3, 2)
    t, t_next = torch.tensor([99, 50, 3]), torch.tensor([70, 50, -1])
    z = start(3, 2, seed=1)
    for solver in (Ddpm(), Ddim(), Ddim(0.5)):
        together = solver.step(DDPM, x, t, t_next, RING.estimate(DDPM, x, t), z)
        for row in range(3):
            one = x[row : row + 1]
            alone = solver.step(DDPM, one, int(t[row]), int(t_next[row]), RING.estimate(DDPM, one, int(t[row])), z[row : row + 1])
            assert torch.allclose(together[row], alone[0], atol=1e-9)
    assert torch.allclose(Ddim().step(DDPM, x, t, t, RING.estimate(DDPM, x, t)), x, atol=1e-9)  # no step, no change


# --- the rest of the interface ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "x0", "v"])
def test_what_the_network_predicts_does_not_matter(kind):
    model = denoiser(RING.network(DDPM, kind), DDPM, kind)
    x = start(8, 2)
    assert torch.allclose(sample(model, x, DDPM, DDPM.step_list(10), Ddim()), sample(RING.model(DDPM), x, DDPM, DDPM.step_list(10), Ddim()), atol=1e-8)


def test_a_solver_that_remembers_lets_rows_begin_late_and_end_early():
    x, model = start(4, 2), RING.model(DDPM)
    lists = [(99, 70, 40, 20, -1), (70, 70, 40, 20, -1), (99, 70, 40, -1, -1), (70, 70, 70, 20, -1)]
    levels = [torch.tensor(column) for column in zip(*lists, strict=True)]
    found = sample(model, x, DDPM, levels, DpmSolver())
    for row, own in enumerate(lists):
        alone = sample(model, x[row : row + 1], DDPM, list(dict.fromkeys(own)), DpmSolver())
        assert torch.allclose(found[row], alone[0], atol=1e-9), own


def test_clipping_bounds_the_data_and_still_makes_up_x():
    model = denoiser(lambda x, clock: torch.zeros_like(x), DDPM, "epsilon", clip=1.0)
    x = 5 * start(8, 2)
    estimate = model(x, 50)
    assert estimate.data.abs().max() == 1.0
    assert torch.allclose(DDPM.mix(*estimate, 50), x)


def test_guidance_changes_the_estimate_before_the_clip():
    toward = torch.tensor([[3.0, 0.0]], dtype=torch.float64)

    def guide(estimate, x, t):
        data = estimate.data + toward
        return Estimate(data, DDPM.noise_in(x, data, t))

    model = denoiser(RING.network(DDPM, "epsilon"), DDPM, "epsilon", clip=1.0, guide=guide)
    x = sample(model, start(50, 2), DDPM, DDPM.step_list(20), Ddim())
    assert torch.all(x[:, 0] == 1.0) and x.abs().max() <= 1.0


def test_network_calls_are_counted_right():
    for path, solver in ((DDPM, Ddim()), (DDPM, DpmSolver()), (FLOW, Euler()), (FLOW, Heun()), (KARRAS, Heun()), (KARRAS, DpmSolver())):
        calls = []
        model = BIMODAL.model(path)
        levels = path.step_list(6)
        sample(lambda x, t, calls=calls, model=model: (calls.append(t), model(x, t))[1], path.prior(normal_grid(3)), path, levels, solver)
        assert len(calls) == solver.network_calls(path, levels)
    assert Heun().network_calls(FLOW, FLOW.step_list(6)) == 11
    assert Heun().network_calls(FLOW, (0.0, 0.5)) == 2


def test_rows_do_not_depend_on_their_batch():
    def draw(keys):
        noise = Noise(keys)
        return sample(RING.model(DDPM), noise.normal(2).double(), DDPM, DDPM.step_list(20), Ddpm(), noise)

    keys = row_keys(0, np.arange(17))
    whole = draw(keys)
    for row in (0, 5, 16):
        assert torch.allclose(draw(keys[row : row + 1])[0], whole[row], atol=1e-12)


def test_the_gradient_passes_through_sampling():
    shift = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    model = BIMODAL.model(FLOW)
    x = sample(lambda x, t: Estimate(model(x, t).data + shift, model(x, t).noise), normal_grid(9), FLOW, FLOW.step_list(5), Heun())
    x.sum().backward()
    assert shift.grad is not None and shift.grad.abs() > 0.1


@pytest.mark.parametrize(("path", "solver"), [(DDPM, Ddpm()), (DDPM, DpmSolver()), (FLOW, Heun()), (KARRAS, Ddim(0.5))], ids=lambda v: type(v).__name__)
def test_a_whole_walk_compiles_into_one_graph(path, solver):
    weight = torch.eye(2, dtype=torch.float64) / 2

    def walk(x, draws):
        model = denoiser(lambda x, clock: torch.tanh(x @ weight + clock[:, None]), path, "x0", clip=1.0)
        return sample(model, x, path, path.step_list(4), solver, Recorded(draws))

    x, draws = path.prior(start(3, 2)), Noise(row_keys(1, np.arange(3))).normal(4, 2).double()
    compiled = torch.compile(walk, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, draws), walk(x, draws), atol=1e-12)


def test_mistakes_are_said():
    with pytest.raises(InputError, match="Ddpm draws noise in every step and was given none"):
        sample(BIMODAL.model(DDPM), start(2, 1), DDPM, (5, -1), Ddpm())
    with pytest.raises(InputError, match="needs noise"):
        Ddpm().step(DDPM, start(2, 1), 5, 4, Estimate(start(2, 1), start(2, 1)))
    with pytest.raises(InputError, match=r"expected 0 to 1, found 1\.5"):
        Ddim(1.5)
    with pytest.raises(InputError, match="no velocity"):
        sample(BIMODAL.model(DDPM), start(2, 1), DDPM, (5, -1), Euler())
