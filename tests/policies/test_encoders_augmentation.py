"""Augmentation of images: colours by hand, drawn per row, in training only; crops still as the rows draw them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.networks.encoders import ImageConfig, ImageEncoder
from policies.noise import Noise, row_keys
from tests.policies.toy import CAMERA, IMAGE, build, random_batch

SIDE = 16


def encoder(**options) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(ImageConfig(channels=[8], features=4, keypoints=4, **options), (SIDE, SIDE, 3))


def light(rows: int = 3, steps: int = 2) -> torch.Tensor:
    return Noise(row_keys(1, np.arange(rows))).uniform(steps, 5, 6, 3)


def factors(keys: np.ndarray, strength: float, draw: int) -> torch.Tensor:
    return 1 + strength * (2 * Noise(keys, draw=draw).uniform() - 1)


def test_brightness_and_contrast_by_hand():
    keys, x = row_keys(0, np.arange(3)), light()
    out = encoder(brightness=0.4, contrast=0.3).jitter(x.clone(), Noise(keys))
    bright, contrast = factors(keys, 0.4, 0), factors(keys, 0.3, 1)
    for row in range(3):
        lit = (x[row] * bright[row]).clamp(max=1.0)
        mean = lit.mean()
        expected = (mean + contrast[row] * (lit - mean)).clamp(0.0, 1.0)
        assert torch.allclose(out[row], expected, atol=1e-6)
    assert (bright - 1).abs().max() <= 0.4 and (contrast - 1).abs().max() <= 0.3
    assert len(set(bright.tolist())) == 3  # each row its own


@pytest.mark.parametrize("option", ["brightness", "contrast"])
def test_one_alone_draws_once_and_changes_only_itself(option):
    keys, noise = row_keys(0, np.arange(3)), Noise(row_keys(0, np.arange(3)))
    x = 0.3 + 0.2 * light()  # nothing reaches an end
    out = encoder(**{option: 0.5}).jitter(x.clone(), noise)
    factor = factors(keys, 0.5, 0).view(3, 1, 1, 1, 1)
    mean = x.mean((1, 2, 3, 4), keepdim=True)
    assert noise.draw == 1
    assert torch.allclose(out, x * factor if option == "brightness" else mean + factor * (x - mean), atol=1e-6)


def test_colours_are_as_seen_in_evaluation_and_when_switched_off():
    noise, x = Noise(row_keys(0, np.arange(3))), light()
    assert torch.equal(encoder(brightness=0.4, contrast=0.3).eval().jitter(x.clone(), noise), x)
    assert torch.equal(encoder().jitter(x.clone(), noise), x)
    assert noise.draw == 0


def test_default_training_draws_the_crop_alone_and_evaluation_nothing():
    images = torch.zeros(2, 2, SIDE, SIDE, 3, dtype=torch.uint8)
    for one, draws in ((encoder(), 2), (encoder().eval(), 0), (encoder(brightness=0.2, contrast=0.2), 4), (encoder(crop=1.0), 0)):
        noise = Noise(row_keys(0, np.arange(2)))
        one(images, noise)
        assert noise.draw == draws


@settings(max_examples=20, deadline=None)
@given(brightness=st.floats(0, 0.99), contrast=st.floats(0, 0.99), seed=st.integers(0, 2**31))
def test_any_strength_keeps_pixels_between_black_and_white(brightness, contrast, seed):
    one, seen = encoder(brightness=brightness, contrast=contrast), []
    one.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randint(0, 256, (2, 2, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    given_images = images.clone()
    one(images, Noise(row_keys(seed, np.arange(2))))
    assert seen[0].shape == (4, 3, 14, 14) and seen[0].abs().max() <= 1.0
    assert torch.equal(images, given_images)  # what the batch holds is not written to


def test_a_row_is_augmented_alike_in_any_batch_and_at_every_step():
    one, keys = encoder(brightness=0.5, contrast=0.5), row_keys(3, np.arange(5))
    images = torch.randint(0, 256, (5, 1, SIDE, SIDE, 3), dtype=torch.uint8).expand(5, 2, SIDE, SIDE, 3)
    out = one(images, Noise(keys))
    assert torch.allclose(out[:, 0], out[:, 1], atol=1e-6)  # the same picture twice stays the same twice
    assert torch.allclose(one(images[3:4], Noise(keys[3:4])), out[3:4], atol=1e-5)
    assert not torch.allclose(one(images[3:4], Noise(keys[2:3])), out[3:4], atol=1e-3)


def test_training_sees_other_colours_and_acting_does_not():
    batch = random_batch(IMAGE, 4)
    image = {"channels": [8, 16], "features": 8, "keypoints": 4}
    plain, jittered = (build("regression", IMAGE, batch, image={**image, **extra}) for extra in ({}, {"brightness": 0.5, "contrast": 0.5}))
    keys = row_keys(0, np.arange(4))
    losses = [policy.train().loss(batch, Noise(keys))[0].item() for policy in (plain, jittered)]
    assert losses[0] != losses[1]
    conditions = [policy.eval().condition(batch, Noise(keys)) for policy in (plain, jittered)]
    assert torch.equal(*conditions) and CAMERA in batch
