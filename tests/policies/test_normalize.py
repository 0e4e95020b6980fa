"""The normaliser: where it maps to, that it comes back, and what it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load, save

from policies.normalize import MODES, Normalizer, default_modes
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from policies.statistics import RunningStats


def fitted(rows: np.ndarray, mode) -> Normalizer:
    stats = RunningStats(rows.shape[1:])
    stats.update(rows)
    return Normalizer.fit({"observation.state": stats.result()}, {"observation.state": mode})


NAME = "observation.state"
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(-8, 8, width=32))


@pytest.mark.parametrize("mode", MODES)
@given(rows=ROWS, constant=st.floats(-8, 8, width=32), queries=ROWS)
def test_round_trip(mode, rows, constant, queries):
    rows[:, 1] = constant
    normalizer = fitted(rows, mode)
    for x in (rows, queries):
        x = torch.from_numpy(x)
        back = normalizer.unnormalize(NAME, normalizer.normalize(NAME, x))
        # float32 holds 8 to 5e-7; the intermediate is as exact relative to the distance from the offset
        assert torch.all((back - x).abs() <= 1e-6 * (1 + x.abs() / 8))


def test_targets_of_each_mode():
    rows = np.random.default_rng(0).normal(3.0, 5.0, (1000, 2))
    x = torch.from_numpy(rows)
    z = fitted(rows, "mean_std").normalize(NAME, x)
    assert torch.allclose(z.mean(0), torch.zeros(2), atol=1e-5) and torch.allclose(z.std(0, correction=0), torch.ones(2), atol=1e-5)
    z = fitted(rows, "min_max").normalize(NAME, x)
    assert torch.allclose(z.amin(0), -torch.ones(2), atol=1e-6) and torch.allclose(z.amax(0), torch.ones(2), atol=1e-6)
    z = fitted(rows, "quantile").normalize(NAME, x)
    assert np.allclose(np.quantile(z.numpy(), [0.01, 0.99], axis=0), [[-1, -1], [1, 1]], atol=1e-5)
    assert torch.equal(fitted(rows, "identity").normalize(NAME, x), x.float())


@pytest.mark.parametrize("mode", ["mean_std", "min_max", "quantile"])
@pytest.mark.parametrize("value", [0.0, 0.02, -250.0])
def test_near_constant_is_shifted_not_scaled(mode, value):
    noise = np.random.default_rng(0).uniform(-1e-7, 1e-7, (50, 1))
    normalizer = fitted(value + noise, mode)
    assert normalizer.normalize(NAME, torch.tensor([value + 0.5])) == pytest.approx(0.5, abs=1e-4)


def test_a_small_but_real_range_is_scaled():
    rows = np.linspace(-2e-5, 2e-5, 11)[:, None]
    assert fitted(rows, "min_max").normalize(NAME, torch.tensor([2e-5])) == pytest.approx(1.0, abs=1e-5)


def test_modes_per_element():
    rows = np.random.default_rng(0).uniform(0, 10, (20, 3))
    normalizer = fitted(rows, ("identity", "min_max", "mean_std"))
    z = normalizer.normalize(NAME, torch.from_numpy(rows)).numpy()
    assert np.allclose(z[:, 0], rows[:, 0], atol=1e-6)
    assert z[:, 1].min() == pytest.approx(-1, abs=1e-6) and z[:, 2].mean() == pytest.approx(0, abs=1e-6)
    assert normalizer.modes(NAME) == ("identity", "min_max", "mean_std")


def test_missing_field_is_refused_never_passed_through():
    normalizer = fitted(np.zeros((3, 2)), "min_max")
    with pytest.raises(InputError, match=r"'observation.stat' was not fitted; did you mean 'observation.state'"):
        normalizer.normalize("observation.stat", torch.zeros(2))
    with pytest.raises(InputError, match="'action' was not fitted"):
        normalizer.unnormalize("action", torch.zeros(2))
    with pytest.raises(InputError, match="was not fitted"):
        Normalizer().normalize("action", torch.zeros(2))


def test_bad_fits_are_refused():
    stats = {"action": {"min": np.zeros(2), "max": np.ones(2)}}
    with pytest.raises(InputError, match="'acton' has no statistics; did you mean 'action'"):
        Normalizer.fit(stats, {"acton": "min_max"})
    with pytest.raises(InputError, match="mode 'minmax' is unknown; did you mean 'min_max'"):
        Normalizer.fit(stats, {"action": "minmax"})
    with pytest.raises(InputError, match="mode 'quantile' needs statistic 'q01'"):
        Normalizer.fit(stats, {"action": "quantile"})
    with pytest.raises(InputError, match="2 elements but 3 modes"):
        Normalizer.fit(stats, {"action": ["min_max"] * 3})
    with pytest.raises(InputError, match="not finite or out of order"):
        Normalizer.fit({"action": {"min": np.ones(1), "max": np.zeros(1)}}, {"action": "min_max"})
    with pytest.raises(InputError, match=r"expected shape \(..., 2\), found \(5, 3\)"):
        Normalizer.fit(stats, {"action": "min_max"}).normalize("action", torch.zeros(5, 3))


def test_tensors_survive_safetensors_and_stay_out_of_the_state_dict():
    normalizer = fitted(np.random.default_rng(0).normal(size=(20, 2)), ("mean_std", "min_max"))
    again = Normalizer.from_tensors(load(save(normalizer.tensors())))
    x = torch.randn(4, 2)
    assert torch.equal(again.normalize(NAME, x), normalizer.normalize(NAME, x))
    assert again.modes(NAME) == normalizer.modes(NAME)
    assert not torch.nn.Sequential(normalizer).state_dict()


def test_damaged_tensors_are_refused():
    tensors = fitted(np.random.default_rng(0).normal(size=(20, 2)), "min_max").tensors()
    with pytest.raises(InputError, match="lacks its offset, scale or mode"):
        Normalizer.from_tensors({k: v for k, v in tensors.items() if not k.endswith("scale")})
    with pytest.raises(InputError, match="not positive"):
        Normalizer.from_tensors(tensors | {f"{NAME}.scale": torch.zeros(2)})
    with pytest.raises(InputError, match=r"unexpected tensor 'action.scale'"):
        Normalizer.from_tensors(tensors | {"action.scale": torch.ones(2)})


def test_default_modes_spare_rotations_and_grippers():
    spec = Spec(
        ObservationSpec({NAME: Field((4,)), "observation.images.top": Field((8, 8, 3), "uint8", kind="image")}),
        ActionSpec({"position": Field((3,), kind="position"), "r": Field((6,), kind="rotation_6d"), "gripper": Field((1,), kind="gripper")}),
    )
    modes = default_modes(spec, "mean_std", "quantile")
    assert modes == {NAME: "mean_std", "action": ("quantile",) * 3 + ("identity",) * 6 + ("min_max",)}
    assert default_modes(spec, "mean_std", "identity")["action"] == ("identity",) * 10
    assert default_modes(spec, action_kinds=("rotation_6d", "position"))["action"] == ("identity", "min_max")
    with pytest.raises(InputError, match="mode 'std' is unknown"):
        default_modes(spec, "std")
