"""Denoisers and image encoders: published sizes, masks, parity with torch's own layers, crops."""

import math

import numpy as np
import pydantic
import pytest
import torch

from policies.networks.embedding import ClockEmbedding
from policies.networks.encoders import ImageConfig, ImageEncoder, SpatialSoftmax
from policies.networks.mlp import MlpConfig, MlpDenoiser
from policies.networks.transformer import TransformerConfig, TransformerDenoiser, _Layer
from policies.networks.unet1d import UnetConfig, UnetDenoiser
from policies.noise import Noise, row_keys
from policies.spec import InputError

DE, TP, C, TO = 3, 16, 5, 2
MAKE = {
    "mlp": lambda: MlpDenoiser(MlpConfig(width=32, blocks=2), DE, TP, C, TO),
    "unet": lambda: UnetDenoiser(UnetConfig(channels=[16, 32, 64], clock_features=16), DE, C, TO),
    "unet, one level": lambda: UnetDenoiser(UnetConfig(channels=[16], clock_features=16), DE, C, TO),
    "transformer": lambda: TransformerDenoiser(TransformerConfig(width=32, layers=2), DE, TP, C, TO),
}


def size(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def inputs(rows: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    noise = Noise(np.arange(rows))
    return noise.normal(TP, DE), 100 * noise.uniform(), noise.normal(TO, C)


@pytest.fixture(params=MAKE)
def network(request):
    torch.manual_seed(0)
    return MAKE[request.param]()


def test_output_is_shaped_like_the_chunk_and_every_weight_takes_part(network):
    x, clock, condition = inputs()
    out = network(x, clock, condition)
    assert out.shape == (4, TP, DE) and torch.isfinite(out).all()
    out.square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert idle == []


def test_chunk_clock_and_condition_all_matter(network):
    network.eval()
    x, clock, condition = inputs()
    base = network(x, clock, condition)
    for changed in (network(x + 1, clock, condition), network(x, clock + 10, condition), network(x, clock, condition + 1)):
        assert ((changed - base).flatten(1).abs().amax(1) > 1e-6).all()


def test_a_row_does_not_depend_on_its_batch(network):
    network.eval()
    x, clock, condition = inputs(8)
    whole = network(x, clock, condition)
    alone = torch.cat([network(x[i : i + 1], clock[i : i + 1], condition[i : i + 1]) for i in range(8)])
    assert torch.allclose(whole, alone, atol=1e-5)


def test_clock_embedding_by_hand():
    out = ClockEmbedding(4)(torch.tensor([0.0, 2.0]))  # frequencies 1 and 1e-4
    expected = [[0, 0, 1, 1], [math.sin(2), math.sin(2e-4), math.cos(2), math.cos(2e-4)]]
    assert torch.allclose(out, torch.tensor(expected), atol=1e-6)


def test_unet_has_the_published_number_of_weights():
    # Diffusion Policy's notebook for PushT from states prints 6.535322e+07
    pusht = UnetDenoiser(UnetConfig(channels=[256, 512, 1024], clock_features=256), action_dim=2, condition_dim=5, n_obs_steps=2)
    assert f"{size(pusht):e}" == "6.535322e+07"


@pytest.mark.parametrize("channels", [[16], [16, 32], [16, 16, 16]])
def test_unet_divisor_is_what_the_network_needs(channels):
    config = UnetConfig(channels=channels, clock_features=16)
    network = UnetDenoiser(config, DE, C, TO)
    _, clock, condition = inputs()
    for horizon in range(4, 13):
        try:
            same = network(torch.zeros(4, horizon, DE), clock, condition).shape[1] == horizon
        except RuntimeError:  # a skip that does not fit what comes up
            same = False
        assert same == (horizon % config.divisor == 0)


def test_transformer_layer_is_torchs_decoder_layer():
    torch.manual_seed(0)
    width, heads = 32, 4
    ours = _Layer(width, heads, 0.0).eval()
    for norm in ours.norms:
        torch.nn.init.normal_(norm.weight, 1.0, 0.1)
    theirs = torch.nn.TransformerDecoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    with torch.no_grad():
        for norm, (attention, torchs) in enumerate(((ours.to_self, theirs.self_attn), (ours.to_memory, theirs.multihead_attn)), 1):
            torchs.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key_value.weight]))
            torchs.in_proj_bias.copy_(torch.cat([attention.query.bias, attention.key_value.bias]))
            torchs.out_proj.load_state_dict(attention.out.state_dict())
            getattr(theirs, f"norm{norm}").load_state_dict(ours.norms[norm - 1].state_dict())
        theirs.norm3.load_state_dict(ours.norms[2].state_dict())
        theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
        theirs.linear2.load_state_dict(ours.feed_forward[3].state_dict())
    h, memory = torch.randn(2, 6, width), torch.randn(2, 3, width)
    visible = torch.arange(6)[:, None] >= torch.arange(3)[None] - 1
    causal = torch.nn.Transformer.generate_square_subsequent_mask(6)
    expected = theirs(h, memory, tgt_mask=causal, memory_mask=~visible)
    assert torch.allclose(ours(h, memory, visible), expected, atol=1e-5)


def test_transformer_is_causal_and_hides_later_observations():
    torch.manual_seed(0)
    network = TransformerDenoiser(TransformerConfig(width=32, layers=3), DE, TP, C, n_obs_steps=3).eval()
    x, clock, _ = inputs(1)
    condition = torch.randn(1, 3, C)
    base = network(x, clock, condition)
    later = x.clone()
    later[:, 6:] += 1.0
    changed = (network(later, clock, condition) - base).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [False] * 6 + [True] * (TP - 6)
    for s in range(3):  # observation s is memory entry s + 1: seen from step s on
        other = condition.clone()
        other[:, s] += 1.0
        changed = (network(x, clock, other) - base).abs().amax((0, 2)) > 1e-6
        assert changed.tolist() == [False] * s + [True] * (TP - s)
    assert torch.equal(network.visible, torch.arange(TP)[:, None] >= torch.arange(4)[None] - 1)


def test_transformer_drops_out_in_training_only():
    network = TransformerDenoiser(TransformerConfig(width=32, layers=1, dropout=0.5), DE, TP, C, TO)
    x, clock, condition = inputs()
    assert not torch.equal(network(x, clock, condition), network(x, clock, condition))
    network.eval()
    assert torch.equal(network(x, clock, condition), network(x, clock, condition))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UnetConfig(channels=[12]), "multiples of groups (8), found 12"),
        (lambda: UnetConfig(kernel=4), "odd number, found 4"),
        (lambda: UnetConfig(channels=[]), "channels"),
        (lambda: UnetConfig(chanels=[8]), "chanels"),
        (lambda: TransformerConfig(width=30), "even multiple of heads (4), found 30"),
        (lambda: ImageConfig(channels=[12]), "multiples of groups (8), found 12"),
        (lambda: ImageConfig(crop=1.5), "crop"),
        (lambda: MlpConfig(width=0), "width"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make, words):
    with pytest.raises(pydantic.ValidationError) as error:
        make()
    assert words in str(error.value)


# --- images ----------------------------------------------------------------------------------------------------------


def pictures(rows: int, height: int = 20, width: int = 24) -> torch.Tensor:
    """Return (rows, 2, H, W, 3) uint8 where the first two colours are the pixel's own position, the third row and step."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    out = torch.zeros(rows, 2, height, width, 3, dtype=torch.uint8)
    out[..., 0], out[..., 1] = y, x
    out[..., 2] = (2 * torch.arange(rows)[:, None] + torch.arange(2))[:, :, None, None]
    return out


def encoder(height: int = 20, width: int = 24, **options) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(ImageConfig(channels=[8, 16], features=6, keypoints=4, **options), (height, width, 3))


def test_crop_in_training_is_one_random_window_per_row():
    one, rows = encoder(crop=0.8), 200
    crops = one.crop(pictures(rows).clamp(max=255), Noise(row_keys(0, np.arange(rows))))
    assert crops.shape == (rows, 2, 16, 19, 3) and crops.dtype == torch.uint8
    corners = crops[:, :, 0, 0, :2].long()
    assert torch.equal(corners[:, 0], corners[:, 1])  # the same at every step
    inside = crops[..., :2].long() - corners[:, :, None, None]
    assert torch.equal(inside[..., 0], torch.arange(16)[:, None].expand(rows, 2, 16, 19))
    assert torch.equal(inside[..., 1], torch.arange(19).expand(rows, 2, 16, 19))
    assert torch.equal(crops[..., 0, 0, 2], pictures(rows)[..., 0, 0, 2])  # rows and steps stay where they are
    assert set(corners[:, 0, 0].tolist()) == set(range(5)) and set(corners[:, 0, 1].tolist()) == set(range(6))
    again = one.crop(pictures(rows)[7:8], Noise(row_keys(0, np.arange(rows))[7:8]))
    assert torch.equal(again[0, :, 0, 0, :2].long(), corners[7])


def test_crop_in_evaluation_is_the_centre_and_draws_nothing():
    one, noise = encoder(crop=0.8).eval(), Noise(np.arange(3))
    crops = one.crop(pictures(3), noise)
    assert crops[0, 0, 0, 0, :2].tolist() == [2, 2] and noise.draw == 0
    whole = encoder(crop=1.0).crop(pictures(3), noise)
    assert torch.equal(whole, pictures(3)) and noise.draw == 0


def test_pixels_become_minus_one_to_one():
    one, seen = encoder().eval(), []
    one.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.zeros(1, 1, 20, 24, 3, dtype=torch.uint8)
    images[..., 0] = 255
    one(images, Noise(np.arange(1)))
    assert seen[0][:, 0].unique().tolist() == [1.0] and seen[0][:, 1:].unique().tolist() == [-1.0]


def test_spatial_softmax_finds_a_peak():
    softmax = SpatialSoftmax(1, 1)
    with torch.no_grad():
        softmax.maps.weight.fill_(50.0)
    h = torch.zeros(3, 1, 5, 9)
    for row, (y, x) in enumerate(((0, 0), (2, 4), (4, 6))):
        h[row, 0, y, x] = 1.0
    assert torch.allclose(softmax(h), torch.tensor([[-1.0, -1.0], [0.0, 0.0], [0.5, 1.0]]), atol=1e-4)  # x, then y
    assert torch.allclose(softmax(torch.zeros(1, 1, 5, 9)), torch.zeros(1, 2), atol=1e-6)


def test_encoder_learns_where_something_is():
    # one bright square on black: its position must be readable after a few steps; pooling could not
    one = encoder(32, 32, crop=1.0)
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, 27, (64, 2), generator=generator)
    images = torch.zeros(64, 1, 32, 32, 3, dtype=torch.uint8)
    for row, (y, x) in enumerate(places.tolist()):
        images[row, 0, y : y + 5, x : x + 5] = 255
    target = places / 13.0 - 1.0
    optimizer = torch.optim.Adam(one.parameters(), lr=3e-3)
    for _ in range(80):
        loss = (one(images, Noise(np.arange(64)))[:, 0, :2] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * target.var().item()


def test_encoder_rows_do_not_depend_on_their_batch():
    one, images = encoder(crop=0.8), pictures(6)
    keys = row_keys(0, np.arange(6))
    whole = one(images, Noise(keys))
    assert whole.shape == (6, 2, 6)
    assert torch.allclose(one(images[3:4], Noise(keys[3:4])), whole[3:4], atol=1e-5)
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in one.modules())


def test_images_too_small_for_the_encoder_are_refused():
    with pytest.raises(InputError, match=r"image of 8x8 px \(7x7 px after the crop\): an encoder of 2 stages needs 8 px or more"):
        encoder(8, 8)
