"""The oracle bed: a task of one step whose answers are drawn from a mixture that is known exactly.

The observation (2,) turns and widens a cross of four narrow modes in the plane of actions (2,); the modes have unequal
weights, so a policy must get places, widths and shares right. How far its samples are from the truth is measured, not
judged by what a world does with them: the 1-Wasserstein distance to exact samples, and the mass in each mode.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec

RATE_HZ = 10.0  # of the data set that holds the samples; no world runs at it
SPEC = Spec(
    ObservationSpec({"observation.state": Field((2,), low=-1.0, high=1.0)}, RATE_HZ),  # type: ignore[arg-type]
    ActionSpec({"action": Field((2,), kind="position")}, RATE_HZ),
)
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])
DEVIATION = 0.06  # of every mode, in both directions
RADIUS, WIDENING = 0.5, 0.2  # modes lie at RADIUS + WIDENING * o_1: neighbours are 7 to 16 deviations apart
TURN = np.pi / 4  # rad: the cross is turned by TURN * o_0
OBSERVATIONS = 16  # that the figures are means over
SAMPLES = 512  # for each observation


def means(observation: np.ndarray) -> np.ndarray:
    """Return the centres (N, 4, 2) of the modes for observations (N, 2) in [-1, 1]."""
    angle = TURN * observation[:, :1] + np.pi / 2 * np.arange(len(WEIGHTS))
    radius = RADIUS + WIDENING * observation[:, 1:]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)


def draw(observation: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return one exact sample (N, 2) for each observation (N, 2)."""
    mode = generator.choice(len(WEIGHTS), len(observation), p=WEIGHTS)
    centre = means(observation)[np.arange(len(observation)), mode]
    return centre + DEVIATION * generator.standard_normal(centre.shape)


def mode_masses(observation: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Return the share (N, 4) of samples (N, M, 2) that are nearest to each mode of their observation (N, 2)."""
    away = np.linalg.norm(samples[:, :, None] - means(observation)[:, None], axis=-1)
    return np.eye(len(WEIGHTS))[away.argmin(-1)].mean(1)


def wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """Return the 1-Wasserstein distance between two sets of equally many points (M, D), exactly, by optimal assignment."""
    from scipy.optimize import linear_sum_assignment

    cost = np.linalg.norm(first[:, None] - second[None], axis=-1)
    return float(cost[linear_sum_assignment(cost)].mean())


@dataclass(frozen=True)
class Truth:
    """What samples are held against: the same observations and exact samples for every policy.

    Attributes:
        observations: (N, 2).
        samples: (N, M, 2), exact.
    """

    observations: np.ndarray
    samples: np.ndarray

    @classmethod
    def make(cls, observations: int = OBSERVATIONS, samples: int = SAMPLES, seed: int = 1) -> Truth:
        """Draw observations and exact samples; other seeds are independent."""
        generator = np.random.default_rng(seed)
        seen = np.random.default_rng(0).uniform(-1, 1, (observations, 2))  # the same for every seed
        return cls(seen, draw(np.repeat(seen, samples, 0), generator).reshape(observations, samples, 2))

    def distances(self, samples: np.ndarray) -> np.ndarray:
        """Return the W1 distance (N,) of samples (N, M, 2) from the exact ones, an observation each."""
        return np.array([wasserstein(mine, exact) for mine, exact in zip(samples, self.samples, strict=True)])

    def mass_errors(self, samples: np.ndarray) -> np.ndarray:
        """Return how much mass (N,) of samples (N, M, 2) is in the wrong mode: half the sum of |share - weight|."""
        return 0.5 * np.abs(mode_masses(self.observations, samples) - WEIGHTS).sum(-1)


def write_samples(path: Path, count: int, seed: int = 0) -> None:
    """Write ``count`` observations with one exact sample each as a data set of one episode; a whole one is left as it is."""
    from robopolicy.data import layout
    from robopolicy.data.writer import DatasetWriter

    if path.exists():
        if layout.is_dataset(path) and int(layout.read_info(path)["total_frames"]) == count:
            return
        shutil.rmtree(path)  # of a run that was killed
    generator = np.random.default_rng(seed)
    seen = generator.uniform(-1, 1, (count, 2)).astype(np.float32)
    with DatasetWriter(path, SPEC, RATE_HZ, "none", "draw from the mixture") as writer:
        for observation, action in zip(seen, draw(seen, generator).astype(np.float32), strict=True):
            writer.add_frame({"observation.state": observation}, action)
        writer.save_episode()


def ask(policy: Any, truth: Truth, control_steps: int = 1) -> tuple[np.ndarray, float]:
    """Return what a policy answers (N, M, 2) to the observations of ``truth``, and the network calls of its last answer.

    Args:
        policy: Any policy (``policies.base.Policy``) over torch tensors whose plans begin with the present step.
        truth: What is observed, and how many answers are wanted to each.
        control_steps: How often the same observation is answered, with the policy's own state carried on: methods that
            begin with the last plan (RTI) are judged by where that leads, not by their first plan from pure noise.
    """
    import torch

    from policies.noise import Noise, row_keys

    n, m = truth.samples.shape[:2]
    rows = np.repeat(truth.observations, m, 0)[:, None].repeat(policy.n_obs_steps, 1)
    seen = {"observation.state": torch.tensor(rows, dtype=torch.float32)}
    with torch.no_grad():
        plan, state = policy.act(seen, policy.initial_state(n * m), Noise(row_keys(0, np.arange(n * m), 0)))
        for step in range(1, control_steps):
            plan, state = policy.act(seen, state, Noise(row_keys(0, np.arange(n * m), step)))
    calls = float(torch.as_tensor(plan.info["network_calls"]).double().mean())
    return np.asarray(plan.actions[:, 0].double()).reshape(n, m, 2), calls
