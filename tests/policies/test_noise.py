"""Counter-based noise: pure functions of (key, draw, element), and statistically indistinguishable from the real thing."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from policies.noise import _GOLDEN, Noise, _mix, _signed, row_keys

#: The tests are deterministic: a p-value below this would be a defect, not bad luck.
P = 1e-3


def test_the_mixer_is_splitmix64():
    # published outputs of SplitMix64 with seed 0: mix(golden), mix(2 golden), mix(3 golden)
    counters = torch.tensor([_signed(_GOLDEN * i) for i in (1, 2, 3)])
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(v) & (2**64 - 1) for v in _mix(counters)] == expected


def draws(keys) -> dict[str, torch.Tensor]:
    noise = Noise(keys)
    return {"normal": noise.normal(3, 5), "uniform": noise.uniform(7), "integers": noise.integers(10, 2), "odd": noise.normal(9)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=70), st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_its_batch(keys, random):
    whole = draws(np.array(keys, np.int64))
    order = list(range(len(keys)))
    random.shuffle(order)
    shuffled = draws(np.array(keys, np.int64)[order])
    for name, rows in whole.items():
        assert torch.equal(rows[order], shuffled[name])
        assert torch.equal(rows[:1], draws(np.array(keys[:1], np.int64))[name])


def test_draws_are_counted():
    noise = Noise(np.arange(4))
    first, second = noise.normal(6), noise.normal(6)
    assert noise.draw == 2
    assert not torch.equal(first, second)
    assert torch.equal(Noise(np.arange(4), draw=1).normal(6), second)


def test_leading_elements_do_not_depend_on_how_many_uniforms_are_drawn():
    assert torch.equal(Noise(np.arange(4)).uniform(100)[:, :7], Noise(np.arange(4)).uniform(7))


def test_shapes_types_and_ranges():
    noise = Noise(row_keys(0, np.arange(1000)))
    assert noise.normal().shape == (1000,) and noise.normal(2, 3).shape == (1000, 2, 3)
    uniform, integers = noise.uniform(50), noise.integers(7, 50)
    assert uniform.dtype == torch.float32 and uniform.min() >= 0 and uniform.max() < 1
    assert integers.dtype == torch.int64 and set(integers.unique().tolist()) == set(range(7))
    assert noise.normal(11).dtype == torch.float32 and torch.isfinite(noise.normal(1001)).all()


#: Ways of numbering rows that must not show in the numbers: hashed, consecutive, and differing in high bits alone.
KEYS = {
    "hashed": row_keys(3, np.arange(512)),
    "consecutive": np.arange(512),
    "high bits": np.arange(512, dtype=np.int64) << 52,
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_marginals(keys):
    noise = Noise(keys)
    assert stats.kstest(noise.normal(400).flatten().double().numpy(), "norm").pvalue > P
    assert stats.kstest(noise.uniform(400).flatten().double().numpy(), "uniform").pvalue > P
    counts = torch.bincount(noise.integers(100, 400).flatten(), minlength=100).numpy()
    assert stats.chisquare(counts).pvalue > P
    tails = noise.normal(4000).abs()
    expected = 512 * 4000 * 2 * stats.norm.sf(4.0)
    assert abs(int((tails > 4).sum()) - expected) < 4 * np.sqrt(expected)


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_every_bit_is_a_fair_coin(keys):
    bits = Noise(keys)._bits(256)
    ones = np.array([int(((bits >> b) & 1).sum()) for b in range(64)])
    n = bits.numel()
    assert np.abs(ones - n / 2).max() < 4.5 * np.sqrt(n / 4)


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_neighbours_are_independent(keys):
    # one array (draw, row, element): neighbours in any direction, and in value, must be uncorrelated
    noise = Noise(keys)
    x = torch.stack([noise.normal(64) for _ in range(16)]).double()
    pairs = {
        "draws": (x[:-1], x[1:]),
        "rows": (x[:, :-1], x[:, 1:]),
        "elements": (x[..., :-1], x[..., 1:]),
        "halves": (x[..., :32], x[..., 32:]),  # cosine and sine of the same angle
        "diagonal": (x[:-1, :-1, :-1], x[1:, 1:, 1:]),
        "rows and draws swapped": (x[:-1, 1:], x[1:, :-1]),
    }
    for (name, (a, b)), f in itertools.product(pairs.items(), (lambda v: v, lambda v: v**2, torch.abs)):
        r = np.corrcoef(f(a).flatten().numpy(), f(b).flatten().numpy())[0, 1]
        assert abs(r) < 4.5 / np.sqrt(a.numel()), name


def test_pairs_fill_the_unit_square_evenly():
    noise = Noise(np.arange(2048))
    u = noise.uniform(64)
    for a, b in ((u[:-1], u[1:]), (u[:, :-1], u[:, 1:]), (u, noise.uniform(64))):
        cells = (a * 32).long() * 32 + (b * 32).long()
        counts = torch.bincount(cells.flatten(), minlength=1024).numpy()
        assert stats.chisquare(counts).pvalue > P


def test_one_flipped_key_bit_flips_half_the_output():
    keys = row_keys(1, np.arange(64))
    base = Noise(keys)._bits(4)
    for bit in range(64):
        changed = Noise(keys ^ np.int64(_signed(1 << bit)))._bits(4) ^ base
        ones = np.unpackbits(changed.numpy().view(np.uint8)).mean()
        assert abs(ones - 0.5) < 0.02, bit


def test_row_keys_are_distinct_over_a_large_grid():
    seeds = [row_keys(seed, np.arange(300)[:, None].repeat(300, 1).ravel(), np.tile(np.arange(300), 300)) for seed in (-1, 0, 1, 2**40)]
    assert len(np.unique(np.concatenate(seeds))) == 4 * 300 * 300
    assert stats.kstest((seeds[1].view(np.uint64) / 2.0**64), "uniform").pvalue > P


def test_row_keys_depend_on_order_and_number_of_parts():
    keys = [row_keys(0), row_keys(0, 0), row_keys(0, 0, 0), row_keys(0, 1, 2), row_keys(0, 2, 1), row_keys(1, 0), row_keys(0, 1)]
    assert len({int(k[0]) for k in keys}) == len(keys)
    assert np.array_equal(row_keys(5, np.arange(4), 7)[2], row_keys(5, 2, 7)[0])
    assert row_keys(5, np.arange(4), 7).dtype == np.int64


def test_bits_are_what_integers_of_any_size_give():
    # resuming and replaying rest on these numbers: the same construction without int64's wrap-around and signed shifts
    mask = 2**64 - 1

    def mix(v: int) -> int:
        v = ((v ^ (v >> 30)) * 0xBF58476D1CE4E5B9) & mask
        v = ((v ^ (v >> 27)) * 0x94D049BB133111EB) & mask
        return v ^ (v >> 31)

    for key, draw, element in itertools.product((0, 5, -3, 2**62), (0, 1), (0, 2)):
        base = mix((key * 0x94D049BB133111EB + (draw + 1) * _GOLDEN) & mask)
        expected = mix((mix((base + element * _GOLDEN) & mask) + key) & mask)
        assert int(Noise(np.array([key]), draw=draw)._bits(3)[0, element]) & mask == expected


def test_row_keys_need_no_torch():
    code = "import sys, policies.noise as n; n.row_keys(0, 1, 2); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
