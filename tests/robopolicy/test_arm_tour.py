"""The hierarchy at work: a policy that learnt to reach one point does a tour of three under a planner, and not without."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.base import Policy
from policies.checkpoint import load
from policies.hierarchy import Hierarchy, WaypointPlanner
from robopolicy.config import apply_overrides, find_recipe, read_yaml
from robopolicy.evaluation.rollout import evaluate
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.imitation import train
from robopolicy.training.run_folder import find_checkpoint
from sim.registry import make
from sim.suites.arm_tasks import REACHED, TOUR_GOALS

#: A share of the recipe's demonstrations and steps: about half of the tours succeed, none without the planner.
SHORT = ("data.collect=120", "data.workers=1", "training.steps=900", "policy.mlp.width=96")


def trained(folder: Path, *overrides: str) -> Policy:
    """Train the recipe ``arm_goal`` in ``folder`` and return its policy."""
    path = find_recipe("arm_goal")
    places = (f"data.path={folder / 'data'}", f"output={folder / 'run'}")
    train(recipe_from_dict(apply_overrides(read_yaml(path), [*overrides, *places]), str(path)))
    policy = load(find_checkpoint(folder / "run"))
    policy.eval()
    return policy


def planner(rate_hz: float = 1.0) -> WaypointPlanner:
    """Return the planner of the tour: it reads the list of goals and where the hand is."""
    world = make("arm/tour", num_worlds=1)
    observation = world.spec.observation
    names = observation.fields["observation.state"].names
    world.close()
    hand = ("observation.state", tuple(names.index(f"hand.{axis}") for axis in "xyz"))
    return WaypointPlanner(observation, hand, REACHED, count=TOUR_GOALS, rate_hz=rate_hz)


def successes(policy: Policy, episodes: int) -> int:
    """Return how many tours succeed."""
    done = evaluate(policy, "arm/tour", episodes=episodes, block=episodes, progress=False, latency_calls=0)
    return sum(episode.success for episode in done.episodes)


@pytest.mark.parametrize(
    ("overrides", "episodes", "expected"),
    [
        pytest.param(SHORT, 16, 4, id="short"),
        pytest.param((), 40, 34, id="recipe", marks=pytest.mark.soak),
    ],
)
def test_a_planner_makes_the_tour_of_what_the_policy_alone_cannot(overrides: tuple[str, ...], episodes: int, expected: int, tmp_path: Path) -> None:
    policy = trained(tmp_path, *overrides)
    assert successes(Hierarchy(planner(), policy), episodes) >= expected
    assert successes(policy, episodes) <= episodes // 20
