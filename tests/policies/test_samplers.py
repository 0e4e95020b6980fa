"""Samplers against the closed form, against ``diffusers``, and against each other where theory says they are equal."""

import itertools

import diffusers
import numpy as np
import pytest
import torch

from policies.generative.paths import DdpmPath, Estimate, KarrasPath, LinearPath
from policies.generative.samplers import Ddim, Ddpm, DpmSolver, Euler, Heun, denoiser, sample
from policies.noise import Noise, row_keys
from policies.spec import InputError
from tests.policies.mixture import BIMODAL, RING, GaussianMixture, normal_grid

DDPM, FLOW, KARRAS = DdpmPath(), LinearPath(), KarrasPath()


class Recorded:
    """Noise that was drawn before: (B, steps, ...)."""

    def __init__(self, draws: torch.Tensor) -> None:
        self.draws = draws

    def normal(self, *shape: int) -> torch.Tensor:
        assert self.draws.shape[1:] == shape
        return self.draws


def exact(mixture: GaussianMixture, path, clip: float | None = None):
    """Return the model of a perfectly trained network."""

    def model(x, t):
        estimate = mixture.estimate(path, x, t)
        if clip is None:
            return estimate
        data = estimate.data.clamp(-clip, clip)
        return Estimate(data, path.noise_in(x, data, t))

    return model


def start(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return Noise(row_keys(seed, np.arange(n))).normal(dim).double()


# --- diffusers -------------------------------------------------------------------------------------------------------


def scheduler_of(kind, **options):
    """Return a diffusers scheduler whose cumulative products have float64 precision, so that the steps can be compared to it."""
    scheduler = kind(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", **options)
    exact_products = torch.from_numpy(DDPM.alpha_bar)
    assert (scheduler.alphas_cumprod - exact_products).abs().max() < 1e-6
    scheduler.alphas_cumprod = exact_products
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    scheduler.final_alpha_cumprod = scheduler.one
    return scheduler


NAMES = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("n", [100, 10, 7])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_ddpm_is_diffusers(kind, n, clip, monkeypatch):
    scheduler = scheduler_of(
        diffusers.DDPMScheduler, prediction_type=NAMES[kind], clip_sample=clip is not None, variance_type="fixed_small", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(n)
    z = start(64, 2)
    draws = Noise(row_keys(1, np.arange(64))).normal(n, 2).double()
    network = RING.network(DDPM, kind)
    model = denoiser(lambda x, clock: network(x, int(clock[0])), DDPM, kind, clip)
    ours = sample(model, z, DDPM, [*scheduler.timesteps.tolist(), -1], Ddpm(), Recorded(draws))

    turn = iter(range(n))
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: draws[:, next(turn)])
    theirs = z
    for t in scheduler.timesteps.tolist():
        theirs = scheduler.step(network(theirs, t), t, theirs).prev_sample
    assert (ours - theirs).abs().max() < 1e-6


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_ddim_is_diffusers(kind, eta, clip):
    scheduler = scheduler_of(diffusers.DDIMScheduler, prediction_type=NAMES[kind], clip_sample=clip is not None, timestep_spacing="leading")
    scheduler.set_timesteps(10)
    z, draws = start(64, 2), Noise(row_keys(1, np.arange(64))).normal(10, 2).double()
    network = RING.network(DDPM, kind)
    model = denoiser(lambda x, clock: network(x, int(clock[0])), DDPM, kind, clip)
    levels = [*scheduler.timesteps.tolist(), -1]
    assert levels == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0, -1]
    theirs = z
    for i, t in enumerate(levels[:-1]):
        noise = draws[:, i] if eta else None
        theirs = scheduler.step(network(theirs, t), t, theirs, eta=eta, use_clipped_model_output=True, variance_noise=noise).prev_sample
    ours = sample(model, z, DDPM, levels, Ddim(eta), Recorded(draws))
    assert (ours - theirs).abs().max() < 1e-6


def test_flow_euler_is_diffusers():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(20)
    levels = (1.0 - scheduler.sigmas.double()).tolist()  # theirs: x = sigma noise + (1 - sigma) data, velocity = noise - data
    z, network = start(64, 2), RING.network(FLOW, "velocity")
    theirs = z.float()
    for t, ours_t in zip(scheduler.timesteps, levels, strict=False):
        theirs = scheduler.step(-network(theirs.double(), ours_t).float(), t, theirs).prev_sample
    ours = sample(exact(RING, FLOW), z, FLOW, levels, Euler())
    assert (ours - theirs).abs().max() < 5e-6  # theirs is float32


def test_flow_heun_is_diffusers():
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(20)
    sigmas = scheduler.sigmas.double().tolist()
    z, network = start(64, 2), RING.network(FLOW, "velocity")
    theirs = z.float()
    for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        theirs = scheduler.step(-network(theirs.double(), 1.0 - sigma).float(), t, theirs).prev_sample
    levels = [1.0 - s for s in sorted(set(sigmas), reverse=True)]
    ours = sample(exact(RING, FLOW), z, FLOW, levels, Heun())
    assert len(scheduler.timesteps) == Heun().network_calls(FLOW, levels)
    assert (ours - theirs).abs().max() < 5e-6


def test_dpm_solver_is_diffusers():
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
        timestep_spacing="trailing",
        lower_order_final=False,
    )
    scheduler.set_timesteps(10)
    levels = [*scheduler.timesteps.tolist(), -1]
    a, b = zip(*(DDPM.scales(t) for t in levels), strict=True)
    scheduler.sigmas = torch.tensor(b, dtype=torch.float64) / torch.tensor(a, dtype=torch.float64)
    z, network = start(64, 2), RING.network(DDPM, "epsilon")
    theirs = z
    for t in scheduler.timesteps.tolist():
        theirs = scheduler.step(network(theirs, t), t, theirs).prev_sample
    ours = sample(exact(RING, DDPM), z, DDPM, levels, DpmSolver())
    assert (ours - theirs).abs().max() < 1e-6


# --- the closed form -------------------------------------------------------------------------------------------------

DETERMINISTIC = {
    "ddim": (DDPM, Ddim()),
    "dpm-solver": (DDPM, DpmSolver()),
    "flow euler": (FLOW, Euler()),
    "flow heun": (FLOW, Heun()),
    "flow dpm-solver": (FLOW, DpmSolver()),
    "karras euler": (KARRAS, Euler()),
    "karras heun": (KARRAS, Heun()),
    "karras dpm-solver": (KARRAS, DpmSolver()),
}


@pytest.mark.parametrize(("path", "solver"), DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_deterministic_samplers_find_the_mixture(path, solver):
    x = sample(exact(BIMODAL, path), path.prior(normal_grid(2000)), path, path.step_list(100), solver)
    assert BIMODAL.distance(x) < 0.02


@pytest.mark.parametrize(("path", "eta"), [(DDPM, None), (DDPM, 0.5), (FLOW, None), (KARRAS, 0.5)], ids=["ddpm", "ddim 0.5", "flow ddpm", "karras ddim 0.5"])
def test_stochastic_samplers_find_the_mixture(path, eta):
    keys, solver = row_keys(0, np.arange(20_000)), Ddpm() if eta is None else Ddim(eta)
    noise = Noise(keys)
    x = path.prior(noise.normal(1).double())
    if path is FLOW:  # no signal at all at t = 0, where a posterior of the data given x is not defined
        levels = (1e-3, *path.step_list(100)[1:])
    else:
        levels = path.step_list(100)
    x = sample(exact(BIMODAL, path), x, path, levels, solver, noise)
    assert BIMODAL.distance(x) < 0.02


@pytest.mark.parametrize("solver", [Ddpm(), Ddim()], ids=["ddpm", "ddim"])
def test_two_dimensions_with_clipping_find_all_eight_modes(solver):
    noise = Noise(row_keys(0, np.arange(20_000)))
    x = sample(exact(RING, DDPM, clip=1.2), noise.normal(2).double(), DDPM, DDPM.step_list(100), solver, noise)
    assert RING.distance(x) < 0.02
    nearest = torch.cdist(x, RING.means).argmin(1)
    assert (torch.bincount(nearest, minlength=8) / 20_000 - 1 / 8).abs().max() < 0.02


def test_order_of_convergence():
    # halving the step divides the error by 2 (first order) and by 4 (second order)
    one = GaussianMixture.of((1.0, (0.4,), 0.3))
    z = normal_grid(200)
    truth = 0.4 + 0.3 * z  # the flow of a single Gaussian is affine
    for solver, low, high in ((Euler(), 1.7, 2.3), (Heun(), 3.2, 4.8)):
        errors = [(sample(exact(one, FLOW), z, FLOW, FLOW.step_list(n), solver) - truth).abs().mean() for n in (20, 40)]
        assert low < errors[0] / errors[1] < high, solver


def test_few_steps_order_methods_as_expected():
    distances = {name: BIMODAL.distance(sample(exact(BIMODAL, p), p.prior(normal_grid(2000)), p, p.step_list(8), s)) for name, (p, s) in DETERMINISTIC.items()}
    assert distances["flow heun"] < distances["flow euler"]
    assert distances["dpm-solver"] < distances["ddim"]


# --- what theory says is equal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [Ddpm(), Ddim(), Ddim(0.3)], ids=str)
def test_hundred_steps_respaced_to_hundred_change_no_bit(solver):
    keys = row_keys(0, np.arange(32))
    noise = Noise(keys)
    x = noise.normal(2)
    model = exact(GaussianMixture(*(v.float() for v in (RING.weights, RING.means, RING.deviations))), DDPM)
    respaced = sample(model, x, DDPM, DDPM.step_list(100), solver, noise)
    draws = Noise(keys, draw=1).normal(100, 2) if solver.stochastic else None
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
    stochastic = sample(exact(BIMODAL, DDPM), x, DDPM, DDPM.step_list(41, start=40), Ddpm(), noise)
    assert BIMODAL.distance(stochastic) < 0.02
    assert BIMODAL.distance(sample(exact(BIMODAL, DDPM), x, DDPM, DDPM.step_list(20, start=40), Ddim())) < 0.02


def test_partial_walk_continues_where_it_stopped():
    x, levels = start(8, 2), DDPM.step_list(10)
    whole = sample(exact(RING, DDPM), x, DDPM, levels, Ddim())
    half = sample(exact(RING, DDPM), x, DDPM, levels[:6], Ddim())
    assert torch.equal(sample(exact(RING, DDPM), half, DDPM, levels[5:], Ddim()), whole)


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
    network = RING.network(DDPM, kind)
    model = denoiser(lambda x, clock: network(x, int(clock[0])), DDPM, kind)
    x = start(8, 2)
    assert torch.allclose(sample(model, x, DDPM, DDPM.step_list(10), Ddim()), sample(exact(RING, DDPM), x, DDPM, DDPM.step_list(10), Ddim()), atol=1e-8)


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

    network = RING.network(DDPM, "epsilon")
    model = denoiser(lambda x, clock: network(x, int(clock[0])), DDPM, "epsilon", clip=1.0, guide=guide)
    x = sample(model, start(50, 2), DDPM, DDPM.step_list(20), Ddim())
    assert torch.all(x[:, 0] == 1.0) and x.abs().max() <= 1.0


def test_network_calls_are_counted_right():
    for path, solver in DETERMINISTIC.values():
        calls = []
        model = exact(BIMODAL, path)
        levels = path.step_list(6)
        sample(lambda x, t, calls=calls, model=model: (calls.append(t), model(x, t))[1], path.prior(normal_grid(3)), path, levels, solver)
        assert len(calls) == solver.network_calls(path, levels)
    assert Heun().network_calls(FLOW, FLOW.step_list(6)) == 11
    assert Heun().network_calls(FLOW, (0.0, 0.5)) == 2


def test_rows_do_not_depend_on_their_batch():
    def draw(keys):
        noise = Noise(keys)
        return sample(exact(RING, DDPM), noise.normal(2).double(), DDPM, DDPM.step_list(20), Ddpm(), noise)

    keys = row_keys(0, np.arange(17))
    whole = draw(keys)
    for row in (0, 5, 16):
        assert torch.allclose(draw(keys[row : row + 1])[0], whole[row], atol=1e-12)


def test_the_gradient_passes_through_sampling():
    shift = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    model = exact(BIMODAL, FLOW)
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
        sample(exact(BIMODAL, DDPM), start(2, 1), DDPM, (5, -1), Ddpm())
    with pytest.raises(InputError, match="needs noise"):
        Ddpm().step(DDPM, start(2, 1), 5, 4, Estimate(start(2, 1), start(2, 1)))
    with pytest.raises(InputError, match=r"expected 0 to 1, found 1\.5"):
        Ddim(1.5)
    with pytest.raises(InputError, match="no velocity"):
        sample(exact(BIMODAL, DDPM), start(2, 1), DDPM, (5, -1), Euler())
