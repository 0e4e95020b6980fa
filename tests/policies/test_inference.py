"""Accelerated policies: the same function in float32, close in the rounded formats, rows apart, and no silent misuse."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from policies import checkpoint
from policies.inference import PackedLinear, PackedUnet, accelerate, quantize, windows
from policies.networks.unet1d import UnetConfig, UnetDenoiser
from policies.noise import Noise, row_keys
from policies.spec import InputError
from tests.policies.toy import STATE, build, observation, random_batch

DE, C, TO = 3, 5, 2
#: Largest deviation of a prediction, as a share of its largest value; random weights.
BOUND = {"float32": 2e-5, "bfloat16": 0.03, "int8": 0.08}
SIZES = {"three levels": ([128, 256, 512], 16), "two levels": ([64, 128], 6), "one level": ([128], 3)}


def unet(channels: list[int]) -> UnetDenoiser:
    torch.manual_seed(0)
    network = UnetDenoiser(UnetConfig(channels=channels, clock_features=16), DE, C, TO).eval()
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.GroupNorm)):
        torch.nn.init.normal_(norm.weight, 1.0, 0.2)
        torch.nn.init.normal_(norm.bias, 0.0, 0.2)
    return network.requires_grad_(False)


def inputs(horizon: int, rows: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    noise = Noise(row_keys(seed, np.arange(rows)))
    return noise.normal(horizon, DE), 100 * noise.uniform(), noise.normal(TO, C)


@pytest.mark.parametrize("weights", BOUND)
@pytest.mark.parametrize("size", SIZES)
def test_packed_unet_is_the_unet(weights, size):
    channels, horizon = SIZES[size]
    network = unet(channels)
    packed = PackedUnet(network, weights)
    for seed in range(3):
        x, clock, condition = inputs(horizon, seed=seed)
        expected = network(x, clock, condition)
        assert (packed(x, clock, condition) - expected).abs().max() <= BOUND[weights] * expected.abs().max()
        alike = clock[:1].expand(3)  # all rows at one level: the share that is remembered
        assert (packed(x, alike, condition) - network(x, alike, condition)).abs().max() <= BOUND[weights] * expected.abs().max()


def test_what_is_remembered_is_forgotten_when_it_changes():
    network = unet([64, 128])
    packed = PackedUnet(network, "float32")
    x, clock, condition = inputs(4)
    packed(x, clock, condition)
    condition += 1.0  # in place: the same tensor, other numbers
    assert torch.allclose(packed(x, clock, condition), network(x, clock, condition), atol=1e-5)
    other = condition.clone() - 0.5
    assert torch.allclose(packed(x, clock, other), network(x, clock, other), atol=1e-5)
    for level in (3.0, 40.0, 3.0):
        same = torch.full((3,), level)
        assert torch.allclose(packed(x, same, condition), network(x, same, condition), atol=1e-5)


@pytest.mark.parametrize("weights", BOUND)
def test_a_row_does_not_depend_on_its_batch(weights):
    packed = PackedUnet(unet([64, 128]), weights)
    x, _, condition = inputs(8, rows=5)
    x[0] *= 100.0  # a row of another size must not change how the others are rounded
    clock = torch.full((5,), 20.0)
    whole = packed(x, clock, condition)
    alone = torch.cat([packed(x[i : i + 1], clock[:1], condition[i : i + 1].clone()) for i in range(5)])
    assert torch.allclose(whole, alone, atol={"float32": 1e-4, "bfloat16": 0.01, "int8": 0.03}[weights])


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(5, 1, 2), (3, 2, 1), (1, 1, 0), (2, 1, 1)])
def test_windows_are_what_a_convolution_sees(kernel, stride, padding):
    h, weight = Noise(np.arange(2)).normal(8, 6), Noise(np.arange(4)).normal(6, kernel)
    expected = functional.conv1d(h.mT, weight, stride=stride, padding=padding).mT
    ours = windows(h, kernel, stride, padding) @ weight.permute(0, 2, 1).flatten(1).T
    assert torch.allclose(ours, expected, atol=1e-5)


def test_quantize_by_hand():
    x = torch.tensor([[[1.27, -0.5], [0.0, 0.004]], [[0.0, 0.0], [0.0, 0.0]]])
    rounded, scale = quantize(x)
    assert rounded[0].tolist() == [[255, 78], [128, 128]] and rounded[1].unique().tolist() == [128]
    assert scale.shape == (2, 1, 1) and scale[0].item() == pytest.approx(0.01)
    big = Noise(np.arange(3)).normal(7, 9)
    rounded, scale = quantize(big)
    assert ((rounded.float() - 128) * scale - big).abs().amax((1, 2)).le(0.5001 * scale.flatten()).all()


def test_int8_product_is_the_product_of_the_rounded_numbers():
    weight, bias, x = (Noise(row_keys(k, np.arange(n))).normal(m) for k, n, m in ((0, 24, 64), (1, 1, 24), (2, 4, 64)))
    layer = PackedLinear(weight, bias[0], "int8")
    step = weight.abs().amax(1, keepdim=True) / 127
    rounded, scale = quantize(x)
    expected = ((rounded.double() - 128) * scale) @ ((weight / step).round() * step).double().T + bias[0]
    assert torch.allclose(layer(x).double(), expected, atol=1e-4)


@pytest.mark.parametrize("weights", BOUND)
@pytest.mark.parametrize("name", ["diffusion", "flow", "regression"])
@pytest.mark.parametrize("backbone", ["unet", "mlp", "transformer"])
def test_accelerated_policies_act_alike(name, backbone, weights):
    batch = random_batch(STATE, 4)
    sizes = {"unet": {"channels": [64, 128], "clock_features": 16}, "mlp": {"width": 320, "blocks": 1}, "transformer": {"width": 256, "layers": 1}}
    policy = build(name, STATE, batch, backbone=backbone, **{backbone: sizes[backbone]}).eval()
    keys = row_keys(0, np.arange(4))
    expected, _ = policy.act(observation(batch), {}, Noise(keys))
    fast = accelerate(copy.deepcopy(policy), weights)
    kinds = {type(m) for m in fast.modules()}
    assert (PackedUnet if backbone == "unet" else PackedLinear) in kinds and not any(p.requires_grad for p in fast.parameters())
    found, _ = fast.act(observation(batch), {}, Noise(keys))
    spread = batch["action"].amax((0, 1)) - batch["action"].amin((0, 1))
    deviation = ((found.actions - expected.actions) / spread).abs()
    assert deviation.max() < {"float32": 1e-3, "bfloat16": 0.1, "int8": 0.3}[weights]
    assert torch.equal(found.info["network_calls"], expected.info["network_calls"])


def test_misuse_is_said_in_one_line(tmp_path):
    batch = random_batch(STATE, 2)
    policy = build("diffusion", STATE, batch, backbone="unet", unet={"channels": [64, 128], "clock_features": 16}).eval()
    with pytest.raises(InputError, match="weights 'bfloat61': no such format; did you mean 'bfloat16'"):
        accelerate(policy, "bfloat61")  # type: ignore[arg-type]
    fast = accelerate(policy)
    with pytest.raises(InputError, match="has no weights to save"):
        checkpoint.save(tmp_path / "policy", fast, recipe={}, extra={})
    assert not (tmp_path / "policy").exists()
    x, clock, condition = Noise(np.arange(2)).normal(16, 4), torch.zeros(2), Noise(np.arange(2)).normal(2, 5)
    with pytest.raises(InputError, match="no gradients"):
        fast.network(x.requires_grad_(), clock, condition)
    linear = accelerate(build("diffusion", STATE, batch, backbone="mlp", mlp={"width": 320, "blocks": 1}))
    with pytest.raises(InputError, match="no gradients"):
        linear.network(x, clock, condition)
