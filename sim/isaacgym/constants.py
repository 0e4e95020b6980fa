"""The enumerations of the interface; ``gymapi`` offers every member under its bare name as well."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class SimType(IntEnum):
    """Physics that a caller asks for; MuJoCo stands in for ``SIM_PHYSX``."""

    SIM_PHYSX = 0
    SIM_FLEX = 1


class UpAxis(IntEnum):
    """Which axis of the world points up."""

    UP_AXIS_Y = 0
    UP_AXIS_Z = 1


class DofDriveMode(IntEnum):
    """What drives a degree of freedom."""

    DOF_MODE_NONE = 0
    DOF_MODE_POS = 1
    DOF_MODE_VEL = 2
    DOF_MODE_EFFORT = 3


class DofType(IntEnum):
    """Kind of a degree of freedom."""

    DOF_INVALID = -1
    DOF_ROTATION = 0
    DOF_TRANSLATION = 1


class JointType(IntEnum):
    """Kind of a joint."""

    JOINT_INVALID = -1
    JOINT_FIXED = 0
    JOINT_REVOLUTE = 1
    JOINT_PRISMATIC = 2
    JOINT_BALL = 3
    JOINT_PLANAR = 4
    JOINT_FLOATING = 5


class IndexDomain(IntEnum):
    """What an index counts in: one actor, one environment, or all of them."""

    DOMAIN_ACTOR = 0
    DOMAIN_ENV = 1
    DOMAIN_SIM = 2


class CoordinateSpace(IntEnum):
    """Frame of forces and positions that are applied."""

    ENV_SPACE = 0
    LOCAL_SPACE = 1
    GLOBAL_SPACE = 2


class StateFlags(IntFlag):
    """Parts of a state that a call reads or writes."""

    STATE_NONE = 0
    STATE_POS = 1
    STATE_VEL = 2
    STATE_ALL = 3


class ContactCollection(IntEnum):
    """After which substeps contacts are collected; here always after the last."""

    CC_NEVER = 0
    CC_LAST_SUBSTEP = 1
    CC_ALL_SUBSTEPS = 2


class MeshType(IntEnum):
    """Meshes of a body that a colour is for."""

    MESH_NONE = 0
    MESH_COLLISION = 1
    MESH_VISUAL = 2
    MESH_VISUAL_AND_COLLISION = 3


class MeshNormalMode(IntEnum):
    """How normals of meshes are shown."""

    FROM_ASSET = 0
    COMPUTE_PER_VERTEX = 1
    COMPUTE_PER_FACE = 2


class RigidBodyFlags(IntFlag):
    """Switches of a body."""

    RIGID_BODY_NONE = 0
    RIGID_BODY_DISABLE_GRAVITY = 1
    RIGID_BODY_DISABLE_SIMULATION = 2
    RIGID_BODY_ENABLE_GYROSCOPIC_FORCES = 4


_KEYS = {
    "KEY_": [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"0123456789", *(f"F{n}" for n in range(1, 13)), "SPACE", "ESCAPE", "ENTER", "TAB", "BACKSPACE"]
    + ["INSERT", "DEL", "HOME", "END", "UP", "DOWN", "LEFT", "RIGHT", "CAPS_LOCK", "NUM_LOCK", "PAUSE", "PRINT_SCREEN", "MENU"]
    + ["APOSTROPHE", "BACKSLASH", "COMMA", "EQUAL", "GRAVE_ACCENT", "MINUS", "PERIOD", "SEMICOLON", "SLASH"],
    "KEY_PAGE_": ["UP", "DOWN"],
    "KEY_LEFT_": ["SHIFT", "CONTROL", "ALT", "SUPER", "BRACKET"],
    "KEY_RIGHT_": ["SHIFT", "CONTROL", "ALT", "SUPER", "BRACKET"],
    "KEY_SCROLL_": ["LOCK"],
    "KEY_NUMPAD_": [*"0123456789", "ADD", "DEL", "DIVIDE", "ENTER", "EQUAL", "MULTIPLY", "SUBTRACT"],
}
_MOUSE = {
    "MOUSE_": ["LEFT_BUTTON", "RIGHT_BUTTON", "MIDDLE_BUTTON", "FORWARD_BUTTON", "BACK_BUTTON"],
    "MOUSE_MOVE_": ["LEFT", "RIGHT", "UP", "DOWN"],
    "MOUSE_SCROLL_": ["LEFT", "RIGHT", "UP", "DOWN"],
}


def _joined(parts: dict[str, list[str]]) -> list[str]:
    return [prefix + name for prefix, names in parts.items() for name in names]


#: Keys that a viewer may be asked to report; without a window none is ever pressed.
KeyboardInput = IntEnum("KeyboardInput", _joined(_KEYS))
#: Likewise what a mouse may do.
MouseInput = IntEnum("MouseInput", _joined(_MOUSE))

ENUMERATIONS = (
    SimType,
    UpAxis,
    DofDriveMode,
    DofType,
    JointType,
    IndexDomain,
    CoordinateSpace,
    StateFlags,
    ContactCollection,
    MeshType,
    MeshNormalMode,
    RigidBodyFlags,
    KeyboardInput,
    MouseInput,
)

INVALID_HANDLE = -1
DEFAULT_VIEWER_WIDTH, DEFAULT_VIEWER_HEIGHT = 1600, 900

#: Member name -> member, of all enumerations.
MEMBERS = {name: member for enumeration in ENUMERATIONS for name, member in vars(enumeration)["_member_map_"].items()}
