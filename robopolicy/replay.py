"""Playing a recorded episode on a robot or its twin: the recorded actions stand in a policy's place, everything else is as in a run.

The actions pass the same level and the same safety filter as a policy's, the way to the first pose is driven slowly, and what
the robot observes is compared with what was observed then, step by step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from policies.base import Execution, Plan, State
from policies.spec import InputError, Spec, suggest
from real.policy import Observations
from real.robot import Observation
from robopolicy.data import layout
from robopolicy.data.collection import provenance_of
from robopolicy.data.dataset import Dataset
from robopolicy.deployment import load_run_config, run
from robopolicy.processes import Background


@dataclass(frozen=True)
class Tracking:
    """How far one field was from its recording, over the steps played; in the field's unit.

    Attributes:
        mean, p99, max: Of the largest distance of an element in each step.
        step: Where the largest was.
        element: Which element of the field.
        unit: Its unit.
    """

    mean: float
    p99: float
    max: float
    step: int
    element: str
    unit: str


@dataclass
class ReplayReport:
    """What came of it.

    Attributes:
        path: Data set.
        episode: Index in it.
        frames: Actions recorded.
        executed: Of these, executed.
        recorded_success, success: Whether it succeeded then and now; None: not known.
        tracking: Field -> how far it was from the recording.
        summary: What the run counted.
    """

    path: str
    episode: int
    frames: int
    executed: int
    recorded_success: bool | None
    success: bool | None
    tracking: dict[str, Tracking]
    summary: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything JSON-ready."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return what a person wants to know of it."""
        told = {True: "success", False: "no success", None: "success not known"}
        out = [f"episode {self.episode}: {self.executed} of {self.frames} actions played; then {told[self.recorded_success]}, now {told[self.success]}"]
        for name, t in self.tracking.items():
            out.append(f"  {name}: off by {t.mean:.4g} {t.unit} on average, {t.max:.4g} at most ({t.element}, step {t.step})")
        return out


class Replay:
    """Recorded actions as a policy that a run can ask (``real.policy.AsyncPolicy``), which is told of every step (``real.beside.StepRecorder``).

    Args:
        spec: Of the data set: its state fields are what is compared, its action what is done.
        actions: (T, Da).
        observed: field -> (T, *shape), recorded.

    Attributes:
        executed: Steps done; the next plan goes on from there, whatever became of the one before.
        over: Whether there is nothing left to do, and what the last action led to has been seen.
        success: Whether the robot has said that it succeeded.
        robot_ended: Whether the robot has said that its episode is over.
    """

    n_obs_steps = 1

    def __init__(self, spec: Spec, actions: np.ndarray, observed: Mapping[str, np.ndarray]) -> None:
        self.spec, self._actions = spec, np.asarray(actions, np.float32)
        self._observed = {name: np.asarray(observed[name]) for name in spec.observation.fields}
        self.horizon = self.n_action_steps = len(self._actions)
        self.executed, self.over, self.success, self.robot_ended = 0, False, False, False
        self._asked: int | None = None
        self._stepped_at, self._step_ticks = 0, 1  # tick of the last step, and ticks from one to the next
        self._differences: dict[str, list[np.ndarray]] = {name: [] for name in self._observed}

    # ---- the policy

    @property
    def in_flight(self) -> bool:
        """Whether a plan was asked for and not taken."""
        return self._asked is not None

    @property
    def connected(self) -> bool:
        """It is always there."""
        return True

    def initial_state(self, batch: int) -> State:
        """There is none: what was executed is told by :meth:`step`."""
        return {}

    def reset(self, state: State, mask: np.ndarray) -> State:
        """Nothing to begin anew."""
        return state

    def request(
        self, obs: Observations, state: State, noise: np.ndarray, execution: Execution = Execution(), *,
        budget_s: float, ages_s: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Ask for the actions from the present step on."""
        self._asked = self.executed

    def poll(self, wait_s: float = 0.0) -> tuple[Plan, State] | None:
        """Return the plan that was asked for, actions (1, T, Da); beyond the end the robot is kept where it is."""
        if self._asked is None or self._asked >= len(self._actions):
            self._asked = None
            return None
        left = self._actions[self._asked :]
        still = np.tile(self.spec.action.hold(self._actions[-1]), (self._asked, 1))
        self._asked = None
        return Plan(np.concatenate([left, still])[None].astype(np.float32), {"network_calls": np.zeros(1)}), {}

    def abandon(self) -> None:
        """Forget what was asked for."""
        self._asked = None

    def close(self) -> None:
        """Nothing to let go of."""

    # ---- the steps

    def reading(self, reading: Observation) -> None:
        """Note whether the robot says that it succeeded."""
        self.success |= reading.success
        self.over |= self.executed >= len(self._actions) and reading.tick >= self._stepped_at + 2 * self._step_ticks

    def step(self, reading: Observation, action: np.ndarray, taken: bool) -> None:
        """Compare what is seen at this step with what was seen then."""
        if self.executed < len(self._actions):
            for name, recorded in self._observed.items():
                self._differences[name].append(np.abs(np.asarray(reading.fields[name], np.float64) - recorded[self.executed]).ravel())
        if self.executed:
            self._step_ticks = max(self._step_ticks, reading.tick - self._stepped_at)
        self._stepped_at = reading.tick
        self.executed = min(self.executed + 1, len(self._actions))

    def ended(self, reading: Observation) -> None:
        """The robot's episode is over, and with it the replay."""
        self.over = self.robot_ended = True

    def tracking(self) -> dict[str, Tracking]:
        """Return field -> how far it was from the recording; empty before the first step."""
        out = {}
        for name, rows in self._differences.items():
            if not rows:
                continue
            off, spec = np.stack(rows), self.spec.observation.fields[name]
            largest = off.max(1)
            step, element = np.unravel_index(int(off.argmax()), off.shape)
            label = spec.names[element] if spec.names else f"element {element}"
            out[name] = Tracking(float(largest.mean()), float(np.quantile(largest, 0.99)), float(largest.max()), int(step), label, spec.unit)
        return out


def replay(
    path: str | Path, episode: int, arguments: Sequence[str] = (), *, real_time: bool = False, fields: Sequence[str] | None = None,
    stopped: Callable[[], bool] = lambda: False, watch: Callable[[Any], Any] | None = None, say: Callable[[str], None] = lambda line: None,
) -> ReplayReport:  # fmt: skip
    """Play one episode of the data set at ``path``.

    Args:
        path: Data set.
        episode: Index.
        arguments: ``key=value`` of a run (see ``robopolicy run``): robot and its options, speed, ...; a twin without an address is
            started here, with the episode's own seed.
        real_time: Of that twin; otherwise it is in lock-step.
        fields: State fields to compare; None: all recorded ones. The robot must observe them.
        stopped: Asked before every tick.
        watch: Called with the runtime before it starts.
        say: Told what the pre-flight found.

    Raises:
        InputError: for an episode that does not exist, or a robot that does not fit it; nothing has moved then.
    """
    dataset = Dataset.open(path)
    frames = dataset.episode(episode)
    spec = dataset.spec.subset(chosen_fields(dataset, fields))
    with ExitStack() as stack:
        given = [*arguments, f"policy=episode {episode} of {path}"]
        config = load_run_config(given)
        if config.record is not None:
            raise InputError("data replay: record: what is played is on record already; leave it out")
        if config.teleop is not None:
            raise InputError("data replay: teleop: nobody takes over from a recording, which would not know where it stands; leave it out")
        if config.robot.get("type") == "twin" and "address" not in config.robot:
            if (late := int(np.ravel(frames["step"])[0]) if "step" in frames else 0) > 0:
                begins = f"episode {episode} begins at control step {late}, expected 0: what the world was brought there by"
                raise InputError(f"data replay: {path}: {begins} is not recorded (collect --recovery --cut)")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="robopolicy-", ignore_cleanup_errors=True)))
            twin = stack.enter_context(Background(twin_arguments(dataset, episode, real_time, folder), folder, "twin"))
            config = load_run_config([*given, f"robot.address={twin.address()}"])
        if (told := provenance_of(dataset.path) or {}).get("noise") or told.get("recovery"):
            say("recorded while the script was disturbed: actions are what it wanted, not what was executed, so the episode comes out otherwise")
        policy = Replay(spec, frames["action"], frames)
        played = config.model_copy(update={"episodes": 1})
        summary = run(played, lambda: (policy.over and not policy.robot_ended) or stopped(), watch, say, acting=policy, steps=policy)
    then = int(dataset.success[episode])
    success = policy.success if policy.success or policy.robot_ended or played.robot.get("type") == "twin" else None
    recorded = None if then < 0 else bool(then)
    return ReplayReport(str(path), episode, len(frames["action"]), policy.executed, recorded, success, policy.tracking(), summary.to_dict())


def chosen_fields(dataset: Dataset, fields: Sequence[str] | None) -> list[str]:
    """Return the state fields that are compared. Raises InputError for one that is not recorded, or is an image."""
    known = list(dataset.spec.observation.state_names)
    for name in fields or ():
        if name not in known:
            raise InputError(f"data replay: no state field {name!r} in {dataset.path}{suggest(name, known)}")
    return list(fields or known)


def twin_arguments(dataset: Dataset, episode: int, real_time: bool, folder: Path) -> list[str]:
    """Return the command of the twin that an episode was recorded with: its task, its options and the episode's seed.

    What the worlds of a collection differed by goes into a file in ``folder``: from the same seed the same is drawn.

    Raises:
        InputError: if the data set does not say in which world it was recorded, or with which seed.
    """
    told = (layout.read_own(dataset.path) or {}).get("provenance", {})
    collected, recorded = told.get("collect", {}), str(told.get("recorded", {}).get("robot", ""))
    task = collected.get("task") or (recorded.removeprefix("twin of ") if recorded.startswith("twin of ") else None)
    seed = int(dataset.seeds[episode])
    if task is None or seed < 0:
        lacking = "the world it was recorded in" if task is None else f"the seed of episode {episode}"
        raise InputError(f"data replay: {dataset.path} does not say {lacking}; start `robopolicy twin TASK --seed0 SEED` and give robot.address=ADDRESS")
    out = ["twin", task, "--episodes", "1", "--seed0", str(seed), *([] if real_time else ["--lockstep"])]
    for key, option in (("max_episode_steps", "--max-steps"), ("engine", "--engine")):
        out += [option, str(collected[key])] if collected.get(key) is not None else []
    if collected.get("randomize"):
        section = folder / "randomize.yaml"
        section.write_text(yaml.safe_dump({"randomize": collected["randomize"]}), encoding="utf-8")
        out += ["--randomize", str(section)]
    return out
