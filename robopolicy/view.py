"""The viewer of a task: its worlds in the browser while a policy acts, with sliders for the physics.

Everything shown is what the task's own engine computes; a slider scales a field of the model in all worlds
(``sim.engine.Engine.expand``) and lasts until it is put back to 1. Served to this machine alone, opened by key.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from policies.spec import InputError, suggest
from robopolicy.evaluation.blocks import ExpertPlanner, History, Planner, PolicyPlanner
from robopolicy.view_scene import WorldScene
from sim.env import BatchEnv, Observation, StepResult
from sim.registry import entry

#: Sliders: what is scaled -> model fields, all by the same factor.
KNOBS = {
    "gravity": ("opt.gravity",),
    "mass": ("body_mass", "body_inertia"),
    "friction": ("geom_friction",),
    "damping": ("dof_damping",),
    "joint friction": ("dof_frictionloss",),
    "actuator strength": ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange"),  # a gear would move a servo's target too
}
_PICTURE_S = 0.1
_CALLS = 0x56E3_0000  # random actions' streams begin here: on a task's own they would follow from the first state
_AHEAD_S = 0.5  # what was missed by more is not caught up


class ConstantPlanner:
    """Plans the action that holds, or uniform random ones; one at a time.

    Args:
        env: Whose actions they are.
        random: Whether they are random; a function of (episode seed, call).
    """

    n_obs_steps = 1

    def __init__(self, env: BatchEnv, random: bool) -> None:
        self._action, self._random = env.spec.action, random
        self._seeds = np.zeros(env.num_worlds, np.int64)

    def begin(self, seeds: np.ndarray) -> None:
        """Start one stream per seed (B,)."""
        self._seeds = seeds

    def plan(self, window: Observation, call: int) -> tuple[np.ndarray, np.ndarray]:
        """Return actions (B, 1, Da) float32 and zeros (B,)."""
        rows, low, high = len(self._seeds), self._action.low, self._action.high
        if self._random:
            from sim.draws import Draws

            finite = np.isfinite(low) & np.isfinite(high)
            chosen = Draws(self._seeds, _CALLS + call).uniform(np.where(finite, low, -1), np.where(finite, high, 1), (len(low),))
        else:
            chosen = np.tile(np.clip(0.0, low, high), (rows, 1))
        return chosen[:, None].astype(np.float32), np.zeros(rows)


def make_planner(env: BatchEnv, policy: str, noise_seed: int = 0) -> Planner:
    """Return what acts: ``expert``, ``zero``, ``random``, or a run or checkpoint. Raises InputError."""
    if policy == "expert":
        if not entry(env.task).has_expert:
            raise InputError(f"--policy expert: task {env.task!r} ships no expert; expected random, zero or a folder")
        return ExpertPlanner(env)
    if policy in ("zero", "random"):
        return ConstantPlanner(env, policy == "random")
    from pathlib import Path

    from robopolicy.execution import load_policy

    if not Path(policy).exists():
        raise InputError(f"--policy {policy!r} is neither a folder nor one of expert, random, zero{suggest(policy, ('expert', 'random', 'zero'))}")
    loaded = load_policy(policy)
    loaded.spec.require(env.spec, policy, env.task)
    return PolicyPlanner(loaded, noise_seed)


class Rollout:
    """Worlds without end: a world whose episode has ended begins the next one when all have.

    Args:
        env: Auto-reset off.
        planner: What acts.
        seed0: Of the first episode of world 0.

    Attributes:
        result: Of the last step, None at the beginning of an episode.
        episode: Count of episodes of each world.
        returns: (N,) of the present episode.
    """

    def __init__(self, env: BatchEnv, planner: Planner, seed0: int) -> None:
        self.env, self.planner, self.episode = env, planner, 0
        self._seed0 = seed0
        self.begin()

    def begin(self) -> None:
        """Begin the next episode in every world."""
        seeds = self._seed0 + self.episode * self.env.num_worlds + np.arange(self.env.num_worlds)
        self._history = History(self.env.reset(seeds), self.planner.n_obs_steps)
        self.planner.begin(seeds)
        self._calls, self._left, self.result = 0, np.zeros((0, self.env.num_worlds, self.env.spec.action.dim), np.float32), None
        self.returns, self.steps, self.succeeded = np.zeros(self.env.num_worlds), 0, np.zeros(self.env.num_worlds, bool)
        self.episode += 1

    def step(self) -> StepResult:
        """Do one control step in every world; begin anew once all have ended."""
        if self.result is not None and (self.result.terminated | self.result.truncated).all():
            self.begin()
        if not len(self._left):
            actions, _ = self.planner.plan(self._history.window, self._calls)
            self._left, self._calls = np.moveaxis(actions, 1, 0), self._calls + 1
        self.result = self.env.step(np.nan_to_num(self._left[0]))
        self._left = self._left[1:]
        self._history.push(self.result.next_obs)
        self.returns += self.result.reward
        self.succeeded |= self.result.info["success"]
        self.steps += 1
        return self.result


class Viewer:
    """The page.

    Args:
        env: Auto-reset off.
        planner: What acts.
        port: Of the page on 127.0.0.1; 0: any free one.
        seed0: Of the first episode.

    Attributes:
        url: Where the page is, with the key that opens it.
        rollout: What is shown.

    Raises:
        InputError: without viser.
    """

    def __init__(self, env: BatchEnv, planner: Planner, port: int = 8090, seed0: int = 0) -> None:
        from real.page_guard import guarded_server

        self.env, self.rollout = env, Rollout(env, planner, seed0)
        self._engine: Any = getattr(env, "engine", None)
        self._server, self.url = guarded_server(port)
        self._scene = WorldScene(self._server.scene, self._engine.model) if self._engine is not None else None
        self._nominal: dict[str, np.ndarray] = {}
        self._scales: dict[str, float] = {}
        self._wanted: dict[str, float] = {}
        self._once = self._again = False
        self._picture: Any = None
        self._build()

    def _build(self) -> None:
        gui = self._server.gui
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        gui.set_panel_label(f"robopolicy view {self.env.task}")
        self._told = gui.add_markdown("")
        self._playing = gui.add_checkbox("Play", initial_value=True)
        gui.add_button("One step").on_click(lambda event: setattr(self, "_once", True))
        gui.add_button("New episode").on_click(lambda event: setattr(self, "_again", True))
        self._world = gui.add_slider("World", min=0, max=max(self.env.num_worlds - 1, 1), step=1, initial_value=0, disabled=self.env.num_worlds < 2)
        self._pace = gui.add_slider("Speed", min=0.1, max=4.0, step=0.1, initial_value=1.0)
        self._filmed = gui.add_checkbox("Camera", initial_value=self._scene is None)
        if self._engine is not None:
            with gui.add_folder("Physics, all worlds"):
                for name in KNOBS:
                    slider = gui.add_slider(f"{name} x", min=0.1, max=3.0, step=0.05, initial_value=1.0)
                    slider.on_update(lambda event, name=name, slider=slider: self._wanted.update({name: float(slider.value)}))
        if self._scene is not None:
            self._server.initial_camera.position, self._server.initial_camera.look_at = self._scene.view

    def run(self, stopped: Callable[[], bool], steps: int | None = None) -> None:
        """Step and show until ``stopped``, or for ``steps`` control steps."""
        due, filmed, left = time.monotonic(), 0.0, steps
        while not stopped() and left != 0:
            self._scaled()
            if self._again:
                self._again = False
                self.rollout.begin()
            moved = self._playing.value or self._once
            if moved:
                self._once = False
                self.rollout.step()
                left = None if left is None else left - 1
            filmed = self._show(filmed)
            due = max(due + 1.0 / (self.env.spec.action.rate_hz * self._pace.value), time.monotonic() - _AHEAD_S)
            time.sleep(max(due - time.monotonic(), 0.0 if moved else 0.05))

    def scale(self, name: str, factor: float) -> None:
        """Scale a knob of :data:`KNOBS` in all worlds from its value in the file, from the next step on. Raises InputError for an unknown one."""
        if name not in KNOBS:
            raise InputError(f"physics {name!r} does not exist{suggest(name, KNOBS)}")
        self._wanted[name] = factor

    def _scaled(self) -> None:
        wanted, self._wanted = self._wanted, {}
        for name, factor in wanted.items():
            for field in KNOBS[name]:
                values = self._engine.expand(field)
                if field not in self._nominal:
                    self._nominal[field] = values.copy()
                values[:] = factor * self._nominal[field]
            self._scales[name] = factor
        if wanted:
            self._engine.refresh()

    def _show(self, filmed: float) -> float:
        """Show the world that is chosen; return when its picture was taken last."""
        row, rollout = int(min(self._world.value, self.env.num_worlds - 1)), self.rollout
        scaled = ", ".join(f"{name} x {factor:g}" for name, factor in self._scales.items() if factor != 1)
        reward = 0.0 if rollout.result is None else float(rollout.result.reward[row])
        text = f"**{'succeeded' if rollout.succeeded[row] else 'running'}** · episode {rollout.episode} · step {rollout.steps}"
        text += f"\n\nreward {reward:.3f} · return {rollout.returns[row]:.2f}" + (f"\n\n{scaled}" if scaled else "")
        with self._server.atomic():
            if self._told.content != text:
                self._told.content = text
            if self._scene is not None:
                self._scene.place(self._engine.scene(row)[1])
            if self._filmed.value and time.monotonic() - filmed > _PICTURE_S and (pictures := self.env.render(np.array([row]))) is not None:
                filmed = time.monotonic()
                if self._picture is None:
                    self._picture = self._server.gui.add_image(pictures[0], format="jpeg", jpeg_quality=80)
                self._picture.image = pictures[0]
        return filmed

    def close(self) -> None:
        """End the page and the worlds."""
        self._server.stop()
        self.env.close()
