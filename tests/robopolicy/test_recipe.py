"""Recipes with policies in them: switching the type, round trips, and the line that every mistake gives."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config import Config
from policies.registry import config_class, policy_names
from policies.spec import InputError
from robopolicy.config import dump_yaml, find_recipe, parse_yaml, read_yaml, recipe_names
from robopolicy.recipe import Recipe, flatten, load_recipe, recipe_from_dict
from robopolicy.training.run_folder import require_same

RECIPES = [name for name in recipe_names() if name.startswith("imitation/")]


@pytest.fixture
def recipe_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        """
task: two-route
policy:
  type: diffusion
  horizon: 12
  backbone: mlp
  mlp: {width: 32}
  train_steps: 50
  steps: 7
  sampler: ddpm
training: {steps: 10, optimizer: {lr: 1e-3}}
"""
    )
    return file


def load(file, *overrides):
    notes: list[str] = []
    return load_recipe(str(file), overrides, notes.append), notes


def mistake(file, *overrides):
    with pytest.raises(InputError) as caught:
        load_recipe(str(file), overrides, pytest.fail)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Switching the policy -------------------------------------------------------------------------------------------------


def test_switching_keeps_shared_keys_and_names_dropped_ones(recipe_file):
    recipe, notes = load(recipe_file, "policy=flow")
    assert recipe.policy_type == "flow"
    assert (recipe.policy.horizon, recipe.policy.mlp.width, recipe.policy.steps) == (12, 32, 7)
    assert notes == ["policy 'flow' has no train_steps, sampler (set for 'diffusion' in the recipe): not used"]


def test_policy_type_can_be_set_by_its_full_key(recipe_file):
    assert load(recipe_file, "policy.type=flow")[0] == load(recipe_file, "policy=flow")[0]


def test_same_type_drops_nothing(recipe_file):
    recipe, notes = load(recipe_file, "policy=diffusion")
    assert recipe == load(recipe_file)[0] and not notes and recipe.policy.sampler == "ddpm"


def test_keys_given_on_the_command_line_are_never_dropped(recipe_file):
    text = mistake_with_notes(recipe_file, "policy=flow", "policy.sampler=ddim")
    assert text.startswith("override 'policy.sampler=ddim' of ") and "unknown key 'policy.sampler'" in text
    recipe, notes = load(recipe_file, "policy.solver=heun", "policy=flow")
    assert recipe.policy.solver == "heun" and "solver" not in notes[0]


def mistake_with_notes(file, *overrides):
    with pytest.raises(InputError) as caught:
        load_recipe(str(file), overrides, lambda text: None)
    return str(caught.value)


def test_a_key_that_no_policy_knows_is_a_mistake_and_not_dropped(recipe_file):
    recipe_file.write_text(recipe_file.read_text().replace("sampler: ddpm", "samplr: ddpm"))
    assert "unknown key 'policy.samplr'" in mistake_with_notes(recipe_file, "policy=flow")
    assert mistake(recipe_file).endswith(": unknown key 'policy.samplr'; did you mean 'sampler'?")


def test_a_whole_section_replaces_the_old_one(recipe_file):
    recipe, notes = load(recipe_file, "policy={type: flow, horizon: 20}")
    assert recipe.policy_type == "flow" and not notes
    assert recipe.policy == config_class("flow")(horizon=20)


def test_a_value_that_the_new_type_cannot_take_is_named(tmp_path, monkeypatch):
    class Old(Config):
        solver: str = "a"
        steps: int = 1

    class New(Config):
        solver: Literal["euler", "heun"] = "euler"
        steps: int = 1

    monkeypatch.setattr("robopolicy.recipe._config_of", lambda section, name, source: {"old": Old, "new": New}[name])
    file = tmp_path / "mine.yaml"
    file.write_text("task: two-route\npolicy: {type: old, solver: ddpm, steps: 5}\n")
    recipe, notes = load(file, "policy=new")
    assert recipe.policy == New(solver="euler", steps=5)
    assert notes == ["policy 'new' cannot take the recipe's solver='ddpm' (set for 'old'): its own default is used"]
    assert "override 'policy.solver=ddim'" in mistake(file, "policy=new", "policy.solver=ddim")


@pytest.mark.parametrize(("name", "policy"), list(itertools.product(RECIPES, ("diffusion", "flow", "regression"))))
def test_every_recipe_takes_every_policy(name, policy):
    recipe, notes = load(name, f"policy={policy}")
    assert recipe.policy_type == policy
    own = read_yaml(find_recipe(name))["policy"]
    for key, value in own.items():
        kept = key == "type" or key in type(recipe.policy).model_fields
        assert kept or any(key in note for note in notes), f"{key} went without a word"
        if kept and key != "type" and not isinstance(value, dict):
            assert getattr(recipe.policy, key) == value


# Round trips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_resolved_recipe_is_the_same_recipe(name):
    recipe, _ = load(name)
    again = recipe_from_dict(parse_yaml(dump_yaml(recipe.to_dict())), "saved")
    assert again == recipe and again.to_dict() == recipe.to_dict()
    require_same(again, recipe, "here")


OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**40),
        "policy": st.sampled_from(sorted(set(policy_names()) & {"diffusion", "flow", "regression"})),
        "training.steps": st.integers(1, 10**7),
        "training.optimizer.lr": st.floats(1e-9, 1e3),
        "training.optimizer.gradient_clip": st.none() | st.floats(1e-6, 1e6),
        "training.optimizer.betas": st.lists(st.floats(0, 0.9999), min_size=2, max_size=2),
        "training.threads": st.none() | st.integers(1, 64),
        "training.mixed_precision": st.sampled_from(["auto", "no", "bf16", "fp16"]),
        "data.episodes": st.none() | st.integers(1, 1000),
        "data.path": st.sampled_from(["no", "1e-4", "{task}", "a b", "~", "x=y", "null", "0x10"]),
        "env.observations": st.sampled_from(["state", "image", "state+image"]),
        "policy.mask_padding": st.booleans(),
    },
)


@given(OVERRIDES)
def test_overrides_arrive_and_round_trip(overrides):
    items = [f"{key}={dump_yaml(value).removesuffix(chr(10)).removesuffix('...').strip()}" for key, value in overrides.items()]
    recipe, _ = load("imitation/quickstart", *items)
    flat = flatten(recipe.to_dict())
    for key, value in overrides.items():
        assert flat["policy.type" if key == "policy" else key] == value
    again = recipe_from_dict(parse_yaml(dump_yaml(recipe.to_dict())), "saved")
    assert again == recipe and type(again.policy) is type(recipe.policy)


def test_saved_recipe_refuses_another(recipe_file):
    first, _ = load(recipe_file)
    with pytest.raises(InputError) as caught:
        require_same(first, load(recipe_file, "training.optimizer.lr=2e-3")[0], "runs/x")
    assert "runs/x" in str(caught.value) and "training.optimizer.lr is 0.001 there, 0.002 here" in str(caught.value)
    with pytest.raises(InputError, match=r"policy\.type is 'diffusion' there, 'flow' here \(and \d+ more keys\)"):
        require_same(first, load(recipe_file, "policy=flow")[0], "runs/x")


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.stpes=5"], ["override 'training.stpes=5'", "unknown key 'training.stpes'", "did you mean 'steps'"]),
        (["policy.horizn=5"], ["override 'policy.horizn=5'", "unknown key 'policy.horizn'", "did you mean 'horizon'"]),
        (["policy.mlp.widht=5"], ["unknown key 'policy.mlp.widht'", "did you mean 'width'"]),
        (["training={stpes: 3}"], ["override 'training={stpes: 3}'", "unknown key 'training.stpes'"]),
        (["training.steps=many"], ["'training.steps'", "integer", "'many' (str)"]),
        (["training.steps=-1"], ["'training.steps'", "greater than 0", "-1"]),
        (["seed=-1"], ["'seed'", "greater than or equal to 0", "-1"]),
        (["evaluation.seed=-1"], ["'evaluation.seed'", "greater than or equal to 0", "-1"]),  # a demonstration's
        (["evaluation.seed=1000000"], ["'evaluation.seed'", "less than 1000000"]),  # a report's, when checkpoints are chosen
        (["training.steps=true"], ["'training.steps'", "expected a number", "True"]),
        (["policy.horizon=3"], ["policy 'diffusion'", "horizon 3"]),
        (["policy=flwo"], ["'policy.type'", "policy 'flwo' is unknown", "did you mean 'flow'"]),
        (["policy={horizon: 8}"], ["'policy.type' is required"]),
        (["policy.type=3"], ["'policy.type' is required"]),
        (["task=3"], ["'task'", "string", "3 (int)"]),
        (["output=runs/{tsk}"], ["'output'", "'runs/{tsk}'", "{task}, {policy}, {algo}, {seed}"]),
        (["data.path=x/{0}"], ["'data.path'", "{task}"]),
        (["data.path={"], ["not valid YAML"]),
        (["training.optimizer.betas=[0.9]"], ["'training.optimizer.betas"]),
        (["training.optimizer.lr=.nan"], ["'training.optimizer.lr'"]),
    ],
)
def test_mistakes_in_overrides(recipe_file, overrides, words):
    text = mistake(recipe_file, *overrides)
    for word in words:
        assert word in text, text


def test_mistakes_in_the_file_name_the_file(recipe_file):
    recipe_file.write_text("task: two-route\npolicy: {type: flow}\ntrainning: {steps: 3}\n")
    assert mistake(recipe_file) == f"{recipe_file}: unknown key 'trainning'; did you mean 'training'?"
    recipe_file.write_text("task: two-route\n")
    assert mistake(recipe_file) == f"{recipe_file}: key 'policy' is required and missing"
    recipe_file.write_text("task: two-route\npolicy: flow\n")
    assert "expected a section of keys with a type, found 'flow'" in mistake(recipe_file)


def test_short_task_names_are_completed(recipe_file):
    assert load(recipe_file, "task=peg-insert-side-v3")[0].task == "metaworld/peg-insert-side"
    assert load(recipe_file, "task=fold-the-towel")[0].task == "fold-the-towel", "a robot's task need not be simulated"


def test_places_in_paths():
    recipe = Recipe.model_validate({"task": "a/b", "seed": 3, "policy": {"type": "flow"}, "output": "r/{task}-{policy}-{seed}"})
    assert recipe.filled(recipe.output) == "r/a-b-flow-3"


def test_config_models_hold_their_defaults_apart():
    first, second = (Recipe.model_validate({"task": "t", "policy": {"type": "flow"}}) for _ in range(2))
    first.training.steps = 1
    assert second.training.steps != 1 and isinstance(first.policy, config_class("flow"))
