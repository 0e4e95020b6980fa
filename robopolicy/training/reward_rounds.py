"""A reward classifier against the learner that will use it: what it took for success goes to the next one.

Each round trains a classifier on everything so far, lets a recipe learn with nothing but its decision as reward, and adds the
episodes, with what was true of them, to the data. The first rounds are short: what fools a classifier is found early; later
ones have to last until there are true successes, and pictures that come near them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.spec import InputError
from robopolicy.data.dataset import Dataset
from robopolicy.recipe import load_recipe
from robopolicy.recipe_trial import TrialRecipe
from robopolicy.training.log import read_log
from robopolicy.training.reward_classifier import ClassifierTraining, Trained, train_classifier

#: (round, what is done in it, step, steps): how far it is.
Told = Callable[[int, str, int, int], Any]


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: From 1.
        classifier: What the learner was rewarded by.
        steps: Environment steps of the learner.
        episodes: That were recorded.
        successes: Of them, true ones.
        wrong: Share of its episodes that ended as successes and were none.
        data: Data set with the episodes.
    """

    number: int
    classifier: Trained
    steps: int
    episodes: int
    successes: int
    wrong: float
    data: Path


def rounds(
    recipe: str, overrides: Sequence[str], paths: Sequence[Path], out: Path, config: ClassifierTraining, steps: Sequence[int],
    progress: bool = True, told: Told | None = None,
) -> Iterator[Round]:  # fmt: skip
    """Yield a round for each of ``steps``; all is kept in ``out/rounds``, and a call that was stopped goes on.

    Args:
        recipe: Of learning by trial with a reward classifier, by path or installed name.
        overrides: ``key=value`` for it.
        paths: Data sets to begin with.
        out: Folder.
        config: Of the classifiers.
        steps: Environment steps of each round.
        progress: Whether the learner shows a bar.
        told: How far the classifier's training is.

    Raises:
        InputError: if the recipe is none of trial, or a data set cannot be used.
    """
    from robopolicy.training.trial import train

    data = list(paths)
    for number, length in enumerate(steps, start=1):
        folder = out / "rounds" / str(number)

        def step(done: int, loss: float, number: int = number) -> None:
            if told is not None:
                told(number, f"loss {loss:.3f}", done, config.steps)

        classifier = train_classifier(data, folder / "classifier", config, step)
        judged = {"classifier": classifier.folder, "threshold": config.threshold, "record": folder / "episodes"}
        given = [f"training.reward.{key}={value}" for key, value in judged.items()]
        given += [f"training.steps={length}", "training.evaluate_every=0", f"output={folder / 'run'}"]
        wanted = load_recipe(recipe, [*overrides, *given], lambda line: None)
        if not isinstance(wanted, TrialRecipe):
            raise InputError(f"reward: recipe {recipe} has no algo: rounds need one of learning by trial, e.g. rl/serl")
        train(wanted, progress=progress, note=lambda line: None)
        data.append(folder / "episodes")
        found = Dataset.open(data[-1])
        yield Round(number, classifier, length, found.num_episodes, int((found.success == 1).sum()), _wrong(folder / "run"), data[-1])


def _wrong(run: Path) -> float:
    """Return ``judged_wrongly`` of the last row of a run's log; NaN if there is none."""
    shares = [row["judged_wrongly"] for row in read_log(run, "train") if "judged_wrongly" in row]
    return float(shares[-1]) if shares else float("nan")
