"""The text encoder: padding and neighbours change nothing, training encodes equal texts once, and a policy with it is exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.export import to_onnx
from policies.gaussian import GaussianConfig, GaussianPolicy
from policies.networks.text import TextConfig, TextEncoder
from policies.noise import Noise, row_keys
from policies.normalize import Normalizer
from policies.regression import RegressionConfig, RegressionPolicy
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0", max_codepoint=0x2FF), min_size=1, max_size=12)
SPEC = Spec(
    ObservationSpec({"observation.state": Field((2,)), "observation.text": Field((24,), "uint8", kind="text")}),
    ActionSpec({"x": Field((1,), low=-1, high=1, kind="delta")}),  # type: ignore[arg-type]
)


def padded(texts: list[str], length: int) -> torch.Tensor:
    out = torch.zeros(len(texts), length, dtype=torch.uint8)
    for row, text in enumerate(texts):
        body = text.encode()
        out[row, : len(body)] = torch.from_numpy(np.frombuffer(body, np.uint8).copy())
    return out


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(TextConfig(width=16, features=5)).eval()


@settings(max_examples=15)
@given(st.lists(WORDS, min_size=1, max_size=5), st.integers(0, 40))
def test_padding_and_neighbours_change_nothing(encoder: TextEncoder, texts: list[str], more: int) -> None:
    longest = max(len(text.encode()) for text in texts)
    together = encoder(padded(texts, longest + more))
    for text, row in zip(texts, together, strict=True):
        alone = encoder(padded([text], len(text.encode())))[0]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)


def test_a_byte_counts_and_so_does_the_order(encoder: TextEncoder) -> None:
    said = encoder(padded(["open the drawer", "open the drawes", "the drawer open", "open the drawer", ""], 24))
    torch.testing.assert_close(said[0], said[3])
    assert torch.isfinite(said).all()
    for other in (1, 2, 4):
        assert (said[0] - said[other]).abs().max() > 1e-3


def test_training_encodes_equal_texts_once_with_the_same_result_and_gradient(encoder: TextEncoder) -> None:
    texts = padded(["push", "pull", "push", "push", "reach"], 8)
    seen: list[int] = []
    handle = encoder.letters.register_forward_hook(lambda module, inputs, out: seen.append(len(inputs[0])))
    gradients = []
    for training in (True, False):
        encoder.train(training)
        encoder.zero_grad()
        out = encoder(texts)
        (out * torch.arange(1.0, 6.0)[:, None]).square().sum().backward()
        gradients.append((out.detach(), encoder.letters.weight.grad.clone()))  # type: ignore[union-attr]
    handle.remove()
    encoder.eval()
    assert seen == [3, 5]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd number of bytes, found 4"):
        TextConfig(kernel=4)


def policy() -> RegressionPolicy:
    small = {"width": 8, "blocks": 1}
    config = RegressionConfig.model_validate({"n_obs_steps": 2, "horizon": 4, "n_action_steps": 2, "mlp": small, "text": {"width": 8, "features": 3}})
    one = {"min": -np.ones(2), "max": np.ones(2)}
    stats = {"observation.state": one, "action": {k: v[:1] for k, v in one.items()}}
    torch.manual_seed(1)
    return RegressionPolicy(config, SPEC, Normalizer.fit(stats, {"observation.state": "min_max", "action": "min_max"})).eval()


def test_a_policy_reads_the_latest_text_and_normalises_none() -> None:
    acting = policy()
    assert "observation.text" not in acting.normalizer.names and acting.spec.observation.text_names == ("observation.text",)
    obs = {"observation.state": torch.zeros(3, 2, 2), "observation.text": padded(["go", "go", "stop"], 24)[:, None].repeat(1, 2, 1)}
    actions = acting.act(obs, {}, Noise(torch.arange(3)))[0].actions
    torch.testing.assert_close(actions[0], actions[1])
    assert (actions[0] - actions[2]).abs().max() > 1e-3
    obs["observation.text"][0, 0] = 7  # what was asked for before
    torch.testing.assert_close(acting.act(obs, {}, Noise(torch.arange(3)))[0].actions, actions)


def test_a_policy_with_text_runs_without_torch(tmp_path) -> None:
    from real.onnx import OnnxPolicy

    acting, file = policy(), tmp_path / "policy.onnx"
    file.write_bytes(to_onnx(acting, {}))
    exported, keys = OnnxPolicy(file), row_keys(1, np.arange(4))
    obs = {"observation.state": torch.randn(4, 2, 2), "observation.text": padded(["a", "open", "close it", "d"], 24)[:, None].repeat(1, 2, 1)}
    wanted = acting.act(obs, {}, Noise(keys))[0].actions.numpy()
    found, _ = exported.act({name: value.numpy() for name, value in obs.items()}, {}, keys)
    np.testing.assert_allclose(found.actions, wanted, atol=1e-5)


def test_a_policy_that_would_not_read_the_text_is_refused() -> None:
    moments = {"mean": np.zeros(2), "std": np.ones(2), "min": -np.ones(2), "max": np.ones(2)}
    stats = {"observation.state": moments, "action": {name: value[:1] for name, value in moments.items()}}
    for observations, said in ((None, "'observation.text' is a text, which this network does not read"), (["observation.state"], "")):
        config = GaussianConfig(observations=observations)
        normalizer = GaussianPolicy.fit_normalizer(config, SPEC, stats, [])
        if said:
            with pytest.raises(InputError, match=said):
                GaussianPolicy(config, SPEC, normalizer)
        else:
            assert GaussianPolicy(config, SPEC, normalizer).encoder.features == 2
