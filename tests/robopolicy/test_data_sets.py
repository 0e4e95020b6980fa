"""Training on several data sets: weights, what people did who took over, one normaliser, one fingerprint, exact resuming."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from policies import checkpoint
from policies.spec import InputError, SpecMismatch
from robopolicy.config import read_yaml
from robopolicy.data.dataset import Dataset
from robopolicy.data.mixture import MixtureSampler
from robopolicy.data.shuffle import Shuffle
from robopolicy.data.windows import WindowSampler
from robopolicy.data.writer import DatasetWriter
from robopolicy.recipe import load_recipe, recipe_from_dict
from robopolicy.training.demonstrations import open_demonstrations
from robopolicy.training.imitation import train
from robopolicy.training.run_folder import RunFolder, find_checkpoint
from sim.suites.two_route import make_spec
from tests.robopolicy.small_runs import demonstrations, outcome
from tests.robopolicy.small_runs import recipe as one_set

LENGTH = 30
TAKEN = slice(8, 26)  # frames of an episode that a person chose


def silent(text: str) -> None:
    """A note that nobody reads."""


def taken_over(path, episodes: int = 4, spec=None, shift: float = 0.0):
    """A recording of a policy that drives at -0.9 and of a person who takes over and drives at 0.5 + 0.01 * frame."""
    with DatasetWriter(path, spec or make_spec(), 10.0, "none", "two-route") as writer:
        for episode in range(episodes):
            for t in range(LENGTH):
                by_hand = TAKEN.start <= t < TAKEN.stop
                action = np.array([0.5 + 0.01 * t, shift] if by_hand else [-0.9, shift], np.float32)
                state = np.array([episode + 0.01 * t, 0.001 * t], np.float32)
                writer.add_frame({"observation.state": state}, action, {}, {"takeover": by_hand, "next.done": t == LENGTH - 1})
            writer.save_episode(success=episode % 2 == 0, seed=episode)
    return path


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    return taken_over(tmp_path_factory.mktemp("taken") / "set")


def sampler(dataset: Dataset, batch: int = 7, **options) -> WindowSampler:
    return WindowSampler(dataset, ["observation.state"], 2, 8, 4, batch, 3, **options)


def test_only_what_the_person_did_is_imitated(taken):
    dataset = Dataset.open(taken)
    marked = dataset.field("takeover").reshape(-1)
    one = sampler(dataset, marked=marked)
    run = TAKEN.stop - TAKEN.start
    assert one.num_windows == 4 * (run - 8 + 4 + 2 - 1)
    seen = []
    for step in range(-(-one.num_windows // 7)):
        batch, _ = one.batch(step)
        assert (batch["action"][..., 0] >= 0.5).all(), "no action of the policy, not where the edge is repeated either"
        pad, action, state = batch["action_is_pad"].numpy(), batch["action"].numpy(), batch["observation.state"].numpy()
        frame = np.round(1000 * state[:, -1, 1]).astype(int)  # of the newest observation
        wanted = frame[:, None] - 1 + np.arange(8)
        np.testing.assert_allclose(action[..., 0], 0.5 + 0.01 * np.clip(wanted, TAKEN.start, TAKEN.stop - 1), atol=1e-6)
        np.testing.assert_array_equal(pad, (wanted < TAKEN.start) | (wanted >= TAKEN.stop))
        # what was seen before the takeover is what was seen
        np.testing.assert_allclose(state[:, 0, 1], 0.001 * (frame - 1), atol=1e-6)
        seen += frame.tolist()
    assert min(seen) == TAKEN.start


def test_nothing_marked_is_nothing_to_imitate(taken):
    dataset = Dataset.open(taken)
    with pytest.raises(InputError, match="no frame of the chosen episodes is marked"):
        sampler(dataset, marked=np.zeros(dataset.num_frames, bool))


def test_a_mixture_visits_every_window_as_often_as_its_weight_says(taken):
    first, second = sampler(Dataset.open(demonstrations())), sampler(Dataset.open(taken))
    mixed = MixtureSampler([first, second], [1.0, 3.0], seed=5)
    n = [s.num_windows for s in mixed.samplers]
    assert mixed.num_windows == n[0] + 3 * n[1]
    which, own = mixed.locate(np.arange(mixed.num_windows))
    visits = [np.bincount(s.at(own[which == k]), minlength=n[k]) for k, s in enumerate(mixed.samplers)]
    assert (visits[0] == 1).all() and (visits[1] == 3).all()
    assert 0 < np.mean(which[: len(which) // 2]) < 1 and not (np.diff(which) >= 0).all(), "one among the other"
    again, _ = mixed.locate(np.arange(mixed.num_windows, 2 * mixed.num_windows))
    assert (again != which).any(), "another order in the next epoch"


def test_a_mixtures_batches_are_those_of_its_sets_and_shared_by_processes(taken):
    sets = [Dataset.open(demonstrations()), Dataset.open(taken)]
    mixed = MixtureSampler([sampler(s, 8) for s in sets], [1.0, 0.5], seed=5)
    other = MixtureSampler([sampler(s, 8) for s in sets], [1.0, 0.5], seed=5)
    for step in (0, 3, 40, 3):
        whole, keys = mixed.batch(step)
        whole = {name: rows.clone() for name, rows in whole.items()}
        parts = [other.batch(step, rank, 2) for rank in range(2)]
        assert np.array_equal(np.concatenate([k for _, k in parts]), keys)
        for name, rows in whole.items():
            assert torch.equal(torch.cat([p[name] for p, _ in parts]), rows)
        which, own = mixed.locate(np.arange(8 * step, 8 * step + 8))
        for row, (k, position) in enumerate(zip(which.tolist(), own.tolist(), strict=True)):
            lone = mixed.samplers[k].empty(1)
            mixed.samplers[k].fill(mixed.samplers[k].at(np.array([position])), lone)
            for name in whole:
                np.testing.assert_array_equal(lone[name][0], whole[name][row].numpy())


def test_the_orders_of_a_heavy_set_are_made_once(taken, monkeypatch):
    """A set of weight 4 is in four of its own epochs at a time: sorting all its windows again for every batch took longer than training on it."""
    made = []
    monkeypatch.setattr(Shuffle, "_made", lambda self, epoch, make=Shuffle._made: (made.append((id(self), epoch)), make(self, epoch))[1])
    mixed = MixtureSampler([sampler(Dataset.open(demonstrations())), sampler(Dataset.open(taken))], [1.0, 4.0], seed=5)
    for step in range(-(-3 * mixed.num_windows // mixed.batch_size)):
        mixed.batch(step)
    assert len(made) == len(set(made))
    mixed.batch(0)  # an order that was forgotten is made again
    assert len(made) > len(set(made))


def test_a_set_with_no_weight_left_is_refused(taken):
    with pytest.raises(InputError, match="leaves nothing"):
        MixtureSampler([sampler(Dataset.open(taken))], [1e-4], seed=0)


def recipe(output, **changes):
    """A recipe whose section ``data`` is replaced, not added to."""
    data = changes.pop("data")
    values = one_set(output, **changes).to_dict()
    return recipe_from_dict({**values, "data": data}, "test")


def both(taken, **more):
    return {"sets": [{"path": str(demonstrations())}, {"path": str(taken), "only_takeovers": True, "weight": 2.0, **more}]}


def test_a_recipe_takes_a_path_a_list_or_sets():
    for given, expected in (
        ("data=some/folder", {"path": "some/folder", "sets": None}),
        ("data=[a,{path: b, only_takeovers: true}]", {"sets": [("a", 1.0, False), ("b", 1.0, True)]}),
    ):
        data = load_recipe("quickstart", [given]).data
        if expected["sets"] is None:
            assert data.path == "some/folder" and data.sets is None
        else:
            assert [(s.path, s.weight, s.only_takeovers) for s in data.sets] == expected["sets"]
        read = load_recipe("quickstart", [given]).to_dict()
        assert recipe_from_dict(read, "again").to_dict() == read
    for wrong, said in (
        ("data=[a,{path: b, only_takeover: true}]", "did you mean 'only_takeovers'"),
        ("data=[]", "at least one data set"),
        ("data={sets: [a], episodes: 3}", "episodes is of one data set"),
        ("data={sets: [a], kind: play}", "kind is of one data set"),
        ("data=[a,{path: b, weight: 0}]", "weight"),
    ):
        with pytest.raises(InputError, match=said):
            load_recipe("quickstart", [wrong])


def test_two_sets_train_one_policy_with_one_normaliser_and_go_on_after_a_stop(taken, tmp_path):
    run = tmp_path / "run"
    wanted = recipe(run, data=both(taken))
    train(wanted, progress=False, note=silent)
    found = checkpoint.load(find_checkpoint(run))
    low, high = found.normalizer.trained_range("action")
    assert low[0] == pytest.approx(-0.9) and high[0] >= 0.75, "of all frames of both sets"
    extra = json.loads((find_checkpoint(run) / "manifest.json").read_text())["extra"]
    assert [d["dataset"] for d in extra["datasets"]] == [str(demonstrations()), str(taken)] and extra["episodes"] == 14
    assert recipe_from_dict(read_yaml(run / "recipe.yaml"), "saved").data == wanted.data
    expected = outcome(run)
    for _, file in RunFolder(wanted.output).states_newest_first()[:1]:
        file.unlink()  # as if it had been stopped there
    went_on = train(wanted, progress=False, note=silent)
    assert 0 < went_on.resumed_from < 60 and outcome(run) == expected


def test_data_that_has_changed_or_does_not_fit_is_refused(taken, tmp_path):
    own = taken_over(tmp_path / "own")
    wanted = recipe(tmp_path / "run", data=both(own), steps=20)
    train(wanted, progress=False, note=silent)
    RunFolder(wanted.output).states_newest_first()[0][1].unlink()
    taken_over(tmp_path / "own", episodes=1, shift=0.1)  # continues the set
    with pytest.raises(InputError, match="has changed since this run began"):
        train(wanted, progress=False, note=silent)
    spec = make_spec()
    other = replace(spec, observation=replace(spec.observation, fields={"observation.other": spec.observation.fields["observation.state"]}))
    path = tmp_path / "other"
    with DatasetWriter(path, other, 10.0, "none", "x") as writer:
        for _ in range(20):
            writer.add_frame({"observation.other": np.zeros(2, np.float32)}, np.zeros(2, np.float32), {}, {})
        writer.save_episode()
    with pytest.raises(SpecMismatch, match=r"observation\.state"):
        open_demonstrations(recipe(tmp_path / "x", data={"sets": [str(demonstrations()), str(path)]}), False, silent)
    with pytest.raises(InputError, match="nobody took over"):
        train(recipe(tmp_path / "y", data={"sets": [{"path": str(demonstrations()), "only_takeovers": True}]}), progress=False, note=silent)


def test_only_successes(taken):
    found = open_demonstrations(recipe(taken / "unused", data={"sets": [{"path": str(taken), "only_success": True}]}), False, silent)
    assert found.episodes == 2 and found.chosen.tolist() == [0, 2] and found.frames == 2 * LENGTH
