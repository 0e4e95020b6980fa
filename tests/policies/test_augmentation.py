"""Random shifts: equal to padding and cutting done by hand, without a bias, row by row, and never when a policy acts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import registry
from policies.networks.augmentation import random_shift, shift, shifted
from policies.noise import Noise, row_keys
from policies.normalize import limits_normalizer
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from tests.policies.toy import CAMERA

SPEC = Spec(
    ObservationSpec({"observation.state": Field((3,)), CAMERA: Field((24, 24, 3), "uint8", kind="image")}),
    ActionSpec({"position": Field((2,), low=(-1.0, -1.0), high=(1.0, 1.0))}),
)


def pictures(rows: int, height: int = 9, width: int = 7) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (rows, height, width, 3), np.uint8))


def padded_and_cut(image: np.ndarray, pixels: int, down: int, across: int) -> np.ndarray:
    """Pad by ``pixels`` with the edge, then cut the window that moves the picture ``down`` and ``across``."""
    wide = np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    top, left = pixels - down, pixels - across
    return wide[top : top + image.shape[0], left : left + image.shape[1]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.data())
def test_a_shift_is_padding_with_the_edge_and_cutting(pixels, data):
    moves = data.draw(st.lists(st.tuples(*[st.integers(-pixels, pixels)] * 2), min_size=1, max_size=4))
    images = pictures(len(moves))
    down, across = (torch.tensor(side) for side in zip(*moves, strict=True))
    out = shift(images, down, across)
    assert out.dtype == torch.uint8
    for row, move in enumerate(moves):
        assert np.array_equal(out[row].numpy(), padded_and_cut(images[row].numpy(), pixels, *move))


def test_shifts_are_drawn_for_each_row_uniform_and_without_bias():
    rows, pixels = 4000, 4
    column = torch.arange(32, dtype=torch.uint8).view(1, 1, 32, 1).expand(rows, 32, 32, 1)
    noise = Noise(row_keys(3, np.arange(rows)))
    out = torch.stack([random_shift(column.transpose(1, 2), noise, pixels)[:, 16, 16, 0], random_shift(column, Noise(noise.keys), pixels)[:, 16, 16, 0]])
    moved = 16 - out.long()  # what stands in the middle came from there
    for side in moved:
        counts = torch.bincount(side + pixels, minlength=2 * pixels + 1).float()
        assert counts.numel() == 2 * pixels + 1
        assert (counts - rows / 9).abs().max() < 5 * (rows / 9) ** 0.5  # five deviations
    assert moved.float().mean(1).abs().max() < 5 * (60 / 9 / rows) ** 0.5
    assert abs(np.corrcoef(moved.numpy())[0, 1]) < 0.08


def test_a_row_is_shifted_the_same_whatever_is_beside_it():
    images, keys = pictures(5), row_keys(0, np.arange(5))
    whole = random_shift(images, Noise(keys), 4)
    assert torch.equal(whole[2:3], random_shift(images[2:3], Noise(keys[2:3]), 4))
    assert not torch.equal(whole, random_shift(images, Noise(keys, draw=2), 4))


def test_images_alone_are_shifted_and_zero_pixels_draw_nothing():
    images, state, noise = pictures(3, 24, 24), torch.randn(3, 3), Noise(row_keys(0, np.arange(3)))
    obs = {"observation.state": state, CAMERA: images}
    assert shifted(obs, SPEC, noise, 0)[CAMERA] is images and noise.draw == 0
    out = shifted(obs, SPEC, noise, 4)
    assert out["observation.state"] is state and not torch.equal(out[CAMERA], images) and noise.draw == 2
    assert torch.equal(images, pictures(3, 24, 24))  # what is remembered stays as it was


@pytest.mark.parametrize("pixels", [0, 4])
def test_a_policy_acts_on_what_it_sees(pixels):
    torch.manual_seed(0)
    config = registry.config_class("gaussian").model_validate({"image": {"shift": pixels, "crop": 1.0, "channels": [8], "keypoints": 4, "features": 4}})
    policy = registry.create("gaussian", config, SPEC, limits_normalizer(SPEC))
    obs = {"observation.state": torch.zeros(2, 1, 3), CAMERA: pictures(1, 24, 24).expand(2, 24, 24, 3).unsqueeze(1)}
    actions = policy.act(obs, policy.initial_state(2), Noise(row_keys(0, np.arange(2))))[0].actions
    assert torch.equal(actions[0], actions[1])  # equal pictures, other noise
    moved = {**obs, CAMERA: random_shift(obs[CAMERA][:, 0], Noise(row_keys(5, np.arange(2))), 4).unsqueeze(1)}
    changed = policy.act(moved, policy.initial_state(2), Noise(row_keys(0, np.arange(2))))[0].actions
    assert not torch.equal(changed[0], changed[1])  # a shift would have been seen
