"""Samplers against the schedulers of ``diffusers``, step for step on the same noise, to 1e-6."""

import itertools

import diffusers
import numpy as np
import pytest
import torch

from policies.generative.paths import DdpmPath, KarrasPath, LinearPath
from policies.generative.samplers import Churn, Ddim, Ddpm, DpmSolver, Euler, Heun, denoiser, sample
from policies.noise import Noise, row_keys
from tests.oracles.mixture import RING
from tests.policies.recorded import Recorded, start

DDPM, FLOW = DdpmPath(), LinearPath()


def predictor(path, kind):
    """Return (x, level) -> what a perfect network of ``kind`` says."""
    return lambda x, t: path.target(kind, *RING.estimate(path, x, t), t)


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
    network = predictor(DDPM, kind)
    model = denoiser(RING.network(DDPM, kind), DDPM, kind, clip)
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
    network = predictor(DDPM, kind)
    model = denoiser(RING.network(DDPM, kind), DDPM, kind, clip)
    levels = [*scheduler.timesteps.tolist(), -1]
    assert levels == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0, -1]
    theirs = z
    for i, t in enumerate(levels[:-1]):
        noise = draws[:, i] if eta else None
        theirs = scheduler.step(network(theirs, t), t, theirs, eta=eta, use_clipped_model_output=True, variance_noise=noise).prev_sample
    ours = sample(model, z, DDPM, levels, Ddim(eta), Recorded(draws))
    assert (ours - theirs).abs().max() < 1e-6


@pytest.mark.parametrize("n", [4, 20])
def test_flow_euler_is_diffusers(n):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(n)
    levels = (1.0 - scheduler.sigmas.double()).tolist()  # theirs: x = sigma noise + (1 - sigma) data, velocity = noise - data
    theirs, network = start(64, 2), predictor(FLOW, "velocity")
    for t, (level, level_next) in zip(scheduler.timesteps, itertools.pairwise(levels), strict=True):
        x = theirs.double()  # theirs computes in float32, so steps are compared one by one from the same x
        ours = sample(RING.model(FLOW), x, FLOW, (level, level_next), Euler())
        theirs = scheduler.step(-network(x, level), t, x).prev_sample
        assert (ours - theirs).abs().max() < 1e-6


@pytest.mark.parametrize("n", [4, 20])
def test_flow_heun_is_diffusers(n):
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(n)
    sigmas = scheduler.sigmas.double().tolist()  # every level but the first and the last twice: one for each call
    levels = [1.0 - s for s in sorted(set(sigmas), reverse=True)]
    assert len(scheduler.timesteps) == Heun().network_calls(FLOW, levels)
    theirs, network, calls = start(64, 2), predictor(FLOW, "velocity"), iter(zip(scheduler.timesteps, sigmas, strict=False))
    for level, level_next in itertools.pairwise(levels):
        ours = sample(RING.model(FLOW), theirs.double(), FLOW, (level, level_next), Heun())
        for _ in range(Heun().network_calls(FLOW, (level, level_next))):
            t, sigma = next(calls)
            theirs = scheduler.step(-network(theirs.double(), 1.0 - sigma), t, theirs).prev_sample
        assert (ours - theirs).abs().max() < 1e-6


@pytest.mark.parametrize(("s_churn", "s_noise"), [(0.0, 1.0), (4.0, 1.0), (40.0, 1.007)])
def test_churned_euler_is_diffusers(s_churn, s_noise, monkeypatch):
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    scheduler.set_timesteps(12)
    path, levels = KarrasPath(sigma_max=200.0), scheduler.sigmas.double().tolist()
    gamma = min(s_churn / 12, 2**0.5 - 1)
    churn = Churn(Euler(), gamma=gamma, low=0.05, high=50.0, inflate=s_noise)
    draws = Noise(row_keys(1, np.arange(64))).normal(12, 2).double()
    turn = iter(range(12))
    monkeypatch.setattr("diffusers.schedulers.scheduling_edm_euler.randn_tensor", lambda *a, **k: draws[:, next(turn)])
    theirs = KarrasPath().prior(start(64, 2))
    raised = 0
    for i, t in enumerate(scheduler.timesteps):
        x, inside = theirs.double(), 0.05 <= levels[i] <= 50.0
        raised += inside
        z = draws[:, raised - 1] if inside and gamma else start(64, 2)  # they draw where they churn only
        ours = sample(RING.model(path), x, path, levels[i : i + 2], churn, Recorded(z[:, None]))
        hat = levels[i] * (1.0 + gamma) if inside else levels[i]
        noisy = churn.raised(path, x, levels[i], z)[0]
        skip, out, _ = KarrasPath().precondition(hat)
        said = (RING.data(path, noisy, hat) - skip * noisy) / out  # what EDM's network says of the churned x
        theirs = scheduler.step(said, t, x, s_churn=s_churn, s_tmin=0.05, s_tmax=50.0, s_noise=s_noise).prev_sample
        assert (ours - theirs).abs().max() < 1e-6 * max(1.0, levels[i])
    assert 6 < raised < 12


def test_karras_dpm_solver_is_diffusers():
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, lower_order_final=False, final_sigmas_type="zero")
    scheduler.set_timesteps(12)
    scheduler.sigmas = scheduler.sigmas.double()
    path, levels = KarrasPath(), scheduler.sigmas.tolist()
    theirs = path.prior(start(64, 2))
    x = theirs
    for sigma, t in zip(levels, scheduler.timesteps, strict=False):
        skip, out, _ = path.precondition(sigma)
        theirs = scheduler.step((RING.data(path, theirs, sigma) - skip * theirs) / out, t, theirs).prev_sample
    assert (sample(RING.model(path), x, path, levels, DpmSolver()) - theirs).abs().max() < 1e-6


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
    z, network = start(64, 2), predictor(DDPM, "epsilon")
    theirs = z
    for t in scheduler.timesteps.tolist():
        theirs = scheduler.step(network(theirs, t), t, theirs).prev_sample
    ours = sample(RING.model(DDPM), z, DDPM, levels, DpmSolver())
    assert (ours - theirs).abs().max() < 1e-6
