"""Action transforms: hand-computed windows, scipy for rotations, round trips, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from policies.actions import ActionTransform
from policies.rotations import SIZES, convert
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec

POSITION = Spec(ObservationSpec({"observation.state": Field((3,))}), ActionSpec({"xy": Field((2,), kind="position"), "grip": Field((1,), kind="gripper")}))
REFERENCE = {"xy": "observation.state[1:3]"}


def pose_spec(kind: str) -> Spec:
    fields = {
        "position": Field((3,), kind="position"),
        "rotation": Field((SIZES[kind],), kind=kind),
        "grip": Field((1,), kind="gripper"),
        "spin": Field((1,), kind="velocity"),
    }
    return Spec(ObservationSpec({"observation.state": Field((8,)), "observation.images.top": Field((4, 4, 3), "uint8", kind="image")}), ActionSpec(fields))


POSE_REFERENCE = {"position": "observation.state[0:3]", "rotation": "observation.state[3:7] as rotation_quaternion"}


def window() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    state = torch.tensor([[[9.0, 1.0, 2.0], [9.0, 2.0, 4.0]]])  # To = 2: rows t-1 and t
    actions = torch.tensor([[[1.5, 2.5, 0.1], [2.5, 5.0, 0.2], [3.0, 7.0, 0.3], [2.0, 7.0, 0.4]]])
    return actions, {"observation.state": state}


def test_chunk_relative_by_hand():
    actions, obs = window()
    encoded = ActionTransform.from_config("chunk_relative", POSITION, REFERENCE).encode(actions, obs)
    expected = [[-0.5, -1.5, 0.1], [0.5, 1.0, 0.2], [1.0, 3.0, 0.3], [0.0, 3.0, 0.4]]
    torch.testing.assert_close(encoded, torch.tensor([expected]))


def test_delta_by_hand():
    actions, obs = window()
    encoded = ActionTransform.from_config("delta", POSITION, REFERENCE).encode(actions, obs)
    expected = [[0.5, 0.5, 0.1], [0.5, 1.0, 0.2], [0.5, 2.0, 0.3], [-1.0, 0.0, 0.4]]
    torch.testing.assert_close(encoded, torch.tensor([expected]))


@pytest.mark.parametrize("mode", ["absolute", "delta", "chunk_relative"])
def test_executed_part_needs_only_the_current_observation(mode):
    actions, obs = window()
    transform = ActionTransform.from_config(mode, POSITION, REFERENCE)
    encoded = transform.encode(actions, obs)
    past_lost = {"observation.state": obs["observation.state"].clone()}
    past_lost["observation.state"][:, 0] = 77.0
    torch.testing.assert_close(transform.decode(encoded, past_lost)[:, 1:], actions[:, 1:])


@pytest.mark.parametrize("target", [None, "rotation_6d", "rotation_axis_angle"])
@pytest.mark.parametrize("kind", list(SIZES))
@pytest.mark.parametrize("mode", ["absolute", "delta", "chunk_relative"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), n_obs=st.integers(1, 3), length=st.integers(3, 9))
def test_round_trip(mode, kind, target, seed, n_obs, length):
    spec = pose_spec(kind)
    transform = ActionTransform.from_config(mode, spec, POSE_REFERENCE, rotation=target)
    generator = torch.Generator().manual_seed(seed)
    rotation = convert(torch.randn(4, length, 4, generator=generator, dtype=torch.float64), "rotation_quaternion", kind)
    actions = torch.cat([torch.randn(4, length, 3, generator=generator), rotation, torch.randn(4, length, 2, generator=generator)], -1)
    obs = {"observation.state": torch.randn(4, n_obs, 8, generator=generator, dtype=torch.float64)}
    encoded = transform.encode(actions, obs)
    assert encoded.shape == (4, length, transform.dim) and len(transform.kinds) == transform.dim
    back = transform.decode(encoded, obs)
    where = spec.action.slices["rotation"]
    other = [i for i in range(spec.action.dim) if not where.start <= i < where.stop]
    torch.testing.assert_close(back[..., other], actions[..., other], atol=1e-9, rtol=0)
    truth, found = (convert(x[..., where], kind, "rotation_quaternion") for x in (actions, back))
    assert ((truth * found).sum(-1).abs() > 1 - 1e-12).all()


def test_relative_rotation_is_composed_in_the_present_frame():
    spec = pose_spec("rotation_quaternion")
    now, target = Rotation.from_euler("xyz", [0.3, -1.0, 2.0]), Rotation.from_euler("xyz", [1.0, 0.5, -0.4])
    state = np.concatenate([np.zeros(3), now.as_quat(scalar_first=True), [0]])
    action = np.concatenate([np.zeros(3), target.as_quat(scalar_first=True), [1, 1]])
    transform = ActionTransform.from_config("chunk_relative", spec, POSE_REFERENCE, rotation="rotation_axis_angle")
    encoded = transform.encode(torch.tensor(action)[None, None], {"observation.state": torch.tensor(state)[None, None]})
    np.testing.assert_allclose(encoded[0, 0, 3:6].numpy(), (now.inv() * target).as_rotvec(), atol=1e-9)


def test_delta_rotations_are_successive():
    spec = pose_spec("rotation_axis_angle")
    turns = Rotation.from_euler("z", np.array([[0.1], [0.3], [0.6], [1.0]]))
    actions = torch.zeros(1, 4, 8, dtype=torch.float64)
    actions[0, :, 3:6] = torch.tensor(turns.as_rotvec())
    state = torch.zeros(1, 1, 8, dtype=torch.float64)
    state[..., 3] = 1
    encoded = ActionTransform.from_config("delta", spec, POSE_REFERENCE).encode(actions, {"observation.state": state})
    np.testing.assert_allclose(encoded[0, :, 5].numpy(), [0.1, 0.2, 0.3, 0.4], atol=1e-12)


def test_kinds_and_dim_of_the_encoded_vector():
    transform = ActionTransform.from_config("chunk_relative", pose_spec("rotation_axis_angle"), POSE_REFERENCE, rotation="rotation_6d")
    assert transform.dim == 11
    assert transform.kinds == ("position",) * 3 + ("rotation_6d",) * 6 + ("gripper", "velocity")
    assert transform.observation_fields == ("observation.state",)
    assert ActionTransform.from_config("absolute", POSITION).observation_fields == ()


def test_absolute_is_the_identity():
    actions, obs = window()
    assert torch.equal(ActionTransform.from_config("absolute", POSITION).encode(actions, obs), actions)


@pytest.mark.parametrize(
    "mode,reference,rotation,message",
    [
        ("relative", {}, None, "action mode 'relative' is unknown; did you mean 'chunk_relative'"),
        ("delta", {}, None, "action field 'position': mode 'delta' needs a reference"),
        ("delta", {"position": "observation.state[0:3]"}, None, "action field 'rotation': mode 'delta' needs a reference"),
        ("delta", {"positon": "observation.state[0:3]"}, None, "no such action field; did you mean 'position'"),
        ("delta", {"position": "observation.stat[0:3]"}, None, "no observation field 'observation.stat'; did you mean 'observation.state'"),
        ("delta", {"position": "observation.state[6:9]"}, None, "leaves 'observation.state', which has 8 elements"),
        ("delta", {"position": "observation.state[0:4]"}, None, "expected 3 elements"),
        ("delta", {"position": "observation.images.top"}, None, "is an image"),
        ("delta", {"position": "__import__('os').getcwd()"}, None, "is not of the form"),
        ("delta", {"position": "observation.state[0:3][0]"}, None, "is not of the form"),
        ("delta", {"position": "observation.state[0:3] as rotation_axis_angle"}, None, "is not a rotation representation of a rotation field"),
        ("absolute", {}, "rotation_7d", "rotation representation 'rotation_7d' is unknown"),
        ("absolute", {"position": "observation.state[0:9]"}, None, "leaves"),
    ],
)
def test_bad_configurations_are_named(mode, reference, rotation, message):
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        ActionTransform.from_config(mode, pose_spec("rotation_axis_angle"), reference, rotation)
    assert message in str(error.value)


def test_bad_windows_are_named():
    transform = ActionTransform.from_config("delta", POSITION, REFERENCE)
    actions, obs = window()
    with pytest.raises(InputError, match=r"expected shape \(B, T, 3\), found \(1, 4, 2\)"):
        transform.encode(actions[..., :2], obs)
    with pytest.raises(InputError, match=r"'observation.state' is not among the observations"):
        transform.encode(actions, {})
    with pytest.raises(InputError, match="ends before the current step"):
        transform.encode(actions[:, :1], obs)
