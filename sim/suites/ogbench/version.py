"""What defines a task of this suite beyond its name: packages, its models, its source, and when an episode counts as solved."""

from __future__ import annotations

import functools

from sim.identity import identity, model_files, package_folder, versions
from sim.suites.ogbench import environment

_PARTS = {
    "cube": ("cube_outer", "cube_inner"),
    "scene": ("cube", "buttons", "drawer", "window"),
    "puzzle": ("button_outer", "button_inner"),
}


@functools.cache
def suite_version(name: str) -> str:
    """Return the packages and the hash of the definition of task ``name`` (registered)."""
    e, root = environment(name), package_folder("ogbench")
    if e.maze:
        robot = "ant" if e.family == "ball" else e.family
        files = (root / "locomaze" / "assets" / f"{robot}.xml", root / "locomaze" / "maze.py", root / "locomaze" / f"{robot}.py")
    else:
        folder, envs = root / "manipspace" / "descriptions", root / "manipspace" / "envs"
        models = [folder / f"{part}.xml" for part in ("floor_wall", "universal_robots_ur5e/ur5e", "robotiq_2f85/2f85", *_PARTS[e.family])]
        files = (*(file for model in models for file in model_files(model)), *(envs / f"{m}.py" for m in ("env", "manipspace_env", f"{e.family}_env")))
    return identity(versions("ogbench", "mujoco"), e.success, tuple(dict.fromkeys(files)))
