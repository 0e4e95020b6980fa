"""Critics side by side against networks one after the other, and targets that follow."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.networks.perceptron import ACTIVATIONS, Activation, perceptron
from robopolicy.algos.critics import Critics, polyak, target_copy


def _separate(critics: Critics, inputs: int, hidden: list[int], activation: Activation, layer_norm: bool) -> list[torch.nn.Sequential]:
    """Return E plain perceptrons with the weights of ``critics``."""
    out = []
    for member in range(critics.members):
        network = perceptron(inputs, hidden, critics.outputs, activation, layer_norm)
        linear = [m for m in network if isinstance(m, torch.nn.Linear)]
        norms = [m for m in network if isinstance(m, torch.nn.LayerNorm)]
        with torch.no_grad():
            for one, layer in zip(linear, critics.layers, strict=True):
                one.weight.copy_(layer.weight[member].T)  # type: ignore[index]
                one.bias.copy_(layer.bias[member, 0])  # type: ignore[index]
            for one, norm in zip(norms, critics.norms, strict=True):
                one.weight.copy_(norm.weight[member, 0])  # type: ignore[index]
                one.bias.copy_(norm.bias[member, 0])  # type: ignore[index]
        out.append(network)
    return out


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 2), st.sampled_from(sorted(ACTIVATIONS)), st.booleans())
def test_an_ensemble_is_its_members(members: int, hidden: list[int], outputs: int, activation: Activation, layer_norm: bool) -> None:
    torch.manual_seed(0)
    critics = Critics(members, 7, hidden, outputs, activation, layer_norm)
    with torch.no_grad():
        for norm in critics.norms:
            norm.weight.uniform_(0.5, 2.0)  # type: ignore[union-attr,operator]
            norm.bias.normal_()  # type: ignore[union-attr,operator]
    networks = [network.double() for network in _separate(critics, 7, hidden, activation, layer_norm)]
    critics.double()
    features, action = torch.randn(6, 4).double(), torch.randn(6, 3).double().requires_grad_()
    said = critics(features, action)
    alone = torch.stack([network(torch.cat([features, action], -1)) for network in networks])
    alone = alone.squeeze(-1) if outputs == 1 else alone
    assert said.shape == alone.shape and (said - alone).abs().max() < 1e-6
    (ours,) = torch.autograd.grad(said.square().sum(), action, retain_graph=True)
    (theirs,) = torch.autograd.grad(alone.square().sum(), action, retain_graph=True)
    assert (ours - theirs).abs().max() < 1e-6
    said.square().sum().backward()
    alone.square().sum().backward()
    for member, network in enumerate(networks):
        linear = [m for m in network if isinstance(m, torch.nn.Linear)]
        for one, layer in zip(linear, critics.layers, strict=True):
            assert (layer.weight.grad[member].T - one.weight.grad).abs().max() < 1e-6  # type: ignore[union-attr,index,operator]
            assert (layer.bias.grad[member, 0] - one.bias.grad).abs().max() < 1e-6  # type: ignore[union-attr,index,operator]


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_few_members_say_what_they_say_among_all(layer_norm: bool) -> None:
    torch.manual_seed(0)
    critics = Critics(5, 5, [8], layer_norm=layer_norm)
    features, action = torch.randn(4, 3), torch.randn(4, 2)
    every = critics(features, action)
    assert every.shape == (5, 4) and len({v.item() for v in every[:, 0]}) == 5
    torch.testing.assert_close(critics(features, action, torch.tensor([3, 1])), every[[3, 1]])
    torch.testing.assert_close(critics(features, action, slice(0, 1)), every[:1])


def test_weights_begin_within_the_bound_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    first = Critics(3, 100, [50]).layers[0]
    assert first.weight.shape == (3, 100, 50) and 0.099 < first.weight.abs().max() <= 0.1  # type: ignore[operator]


def test_targets_follow_by_their_share() -> None:
    source = torch.nn.Linear(2, 2)
    target = target_copy(source)
    assert not any(p.requires_grad for p in target.parameters())
    begun = [p.clone() for p in target.parameters()]
    with torch.no_grad():
        for p in source.parameters():
            p.add_(1.0)
    for _ in range(3):
        polyak(target.parameters(), source.parameters(), 0.1)
    for now, before in zip(target.parameters(), begun, strict=True):
        torch.testing.assert_close(now, before + (1.0 - 0.9**3))
