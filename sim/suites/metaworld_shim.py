"""What lets Meta-World 3.1.1, which pins MuJoCo 3.3.0, run unchanged on MuJoCo 3.17: applied once, on first use.

Two differences matter. MuJoCo 3.17 stores 12 numbers per equality constraint (``mjNEQDATA``) where the suite assigns 11,
and since about 3.11 ``enum == numpy.int32`` is false where the suite's comparison relies on either order. Physics, tasks
and scripted experts are the suite's own; a fresh suite object gives the same numbers to the last bit.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import functools
import inspect
import types
from pathlib import Path
from typing import Any

from sim import render
from sim.identity import identity, model_files, versions

#: Raised when what this file changes changes; part of the suite version in the evaluation ledger.
SHIM_VERSION = 1

#: Relative pose of a weld, as the suite sets it: anchor (3), position (3), quaternion (4), torque scale (1).
_WELD_DATA = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)


def _reset_mocap_welds(self: Any) -> None:
    """Set the welds that drive the hand through its mocap body, whatever the width of ``eq_data``."""
    import mujoco

    weld = int(mujoco.mjtEq.mjEQ_WELD)
    if self.model.nmocap:
        for i in range(self.model.neq):
            if int(self.model.eq_type[i]) == weld:
                self.model.eq_data[i, : len(_WELD_DATA)] = _WELD_DATA


@functools.cache
def load() -> Any:
    """Import metaworld with a rendering backend chosen and the differences above mended; returns the module."""
    render.configure()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import metaworld
        import metaworld.policies.policy
        from metaworld.sawyer_xyz_env import SawyerMocapBase

    SawyerMocapBase.reset_mocap_welds = _reset_mocap_welds
    # the experts warn on nearly every step that their gains may be too high; only this module's view is silenced
    metaworld.policies.policy.warnings = types.SimpleNamespace(warn=lambda *_args, **_kwargs: None)  # type: ignore[attr-defined]
    return metaworld


def observe_goal(env: Any) -> None:
    """Make a new suite object draw a task from its own seed and show the goal in its observation.

    Clearing ``_partially_observable`` alone would leave a cached observation space that clips the goal to zero.
    """
    env._freeze_rand_vec = False
    env._set_task_called = True
    env.seeded_rand_vec = True
    env._partially_observable = False
    env.__dict__.pop("sawyer_observation_space", None)


def suite_version(suite_class: type, model: str, success: str) -> str:
    """Return what defines a task, e.g. ``metaworld 3.1.1, mujoco 3.17.0, shim 1, definition 1f0c...``.

    Args:
        suite_class: The suite's class of the task, whose source is the definition of reward and success.
        model: Path of its MJCF file.
        success: The line of ``Entry.success``.
    """
    files = (*model_files(Path(model)), Path(inspect.getfile(suite_class)))
    return identity(f"{versions('metaworld', 'mujoco')}, shim {SHIM_VERSION}", success, files)
