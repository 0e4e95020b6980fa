"""Recipes of learning by trial: round trips, overrides, rules that change loops, and the line that every mistake gives."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.registry import config_class
from policies.spec import InputError
from robopolicy.algos import registry
from robopolicy.algos.rule import OffPolicyRule, OnPolicyRule
from robopolicy.config import dump_yaml, find_recipe, parse_yaml, read_yaml, recipe_names
from robopolicy.recipe import Recipe, flatten, load_recipe, recipe_from_dict
from robopolicy.recipe_trial import LOOPS, TrialRecipe
from robopolicy.training.run_folder import require_same

RECIPES = [name for name in recipe_names() if name.startswith("rl/")]
RULES = registry.algo_names()
BY_LOOP = {loop: [name for name in RULES if registry.rule_class(name).loop == loop] for loop in LOOPS}
BASE = "rl/half-cheetah"


def load(name: str | Path, *overrides: str) -> tuple[TrialRecipe, list[str]]:
    notes: list[str] = []
    return load_recipe(str(name), overrides, notes.append), notes


def mistake(name: str | Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(str(name), overrides, lambda text: None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "task: classic/cartpole\nalgo: {type: ppo, clip: 0.1}\npolicy: {hidden: [32]}\n"
        "training: {steps: 5000, worlds: 8, rollout: 16, gamma: 0.97, log_every: 3}\n"
    )
    return file


def test_a_recipe_without_a_rule_is_one_of_demonstrations() -> None:
    assert type(load_recipe("imitation/quickstart")) is Recipe and type(load_recipe(BASE)) is TrialRecipe


# The rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_one_class_in_its_own_file_with_defaults_that_survive_json(name: str) -> None:
    rule = registry.rule_class(name)
    assert rule.__module__ == f"robopolicy.algos.{name}" == rule.Config.__module__ and rule.loop in LOOPS
    assert issubclass(rule, OnPolicyRule if rule.loop == "on_policy" else OffPolicyRule)
    assert len(registry.description(name)) > 20 and "\n" not in registry.description(name)
    whole = rule.Config()
    assert rule.Config.model_validate(whole.model_dump(mode="json")) == whole


@pytest.mark.parametrize("name", RULES)
def test_a_rule_alone_makes_a_whole_recipe(name: str) -> None:
    recipe = recipe_from_dict({"task": "cartpole", "algo": {"type": name}}, "here")
    rule = registry.rule_class(name)
    assert (recipe.algo_type, recipe.loop, recipe.policy_type) == (name, rule.loop, rule.policy_type)
    assert type(recipe.training) is LOOPS[rule.loop]
    for key, needed in rule.policy_settings.items():
        assert getattr(recipe.policy, key) == needed
    again = recipe_from_dict(parse_yaml(dump_yaml(recipe.to_dict())), "saved")
    assert again == recipe and again.to_dict() == recipe.to_dict()


def test_a_range_of_deviations_the_wrong_way_round_is_refused(recipe_file: Path) -> None:
    """It was taken, and every deviation was the lower number."""
    found = mistake(recipe_file, "algo=sac", "policy.log_std_range=[2, -5]")
    assert "log_std_range: expected the lower limit first, found [2.0, -5.0]" in found


def test_an_unknown_rule_is_refused_with_the_nearest_name(recipe_file: Path) -> None:
    assert "algo 'pppo' is unknown; did you mean 'ppo'" in mistake(recipe_file, "algo=pppo")
    assert "key 'algo.type'" in mistake(recipe_file, "algo=pppo")


# Installed recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_resolved_recipe_is_the_same_recipe(name: str) -> None:
    recipe, notes = load(name)
    assert not notes and isinstance(recipe, TrialRecipe)
    again = recipe_from_dict(parse_yaml(dump_yaml(recipe.to_dict())), "saved")
    assert again == recipe and again.to_dict() == recipe.to_dict() and type(again.training) is type(recipe.training)
    require_same(again, recipe, "here")


def fits(name: str, rule: str) -> bool:
    """Whether a recipe's own policy is one that the rule can train: a recipe for one kind of policy does not have to take the others' rules."""
    own, wanted = read_yaml(find_recipe(name)), registry.rule_class(rule)
    policy, known = own.get("policy", {}), config_class(wanted.policy_type).model_fields
    if any(key not in known for key in policy if key != "type"):
        return False
    return policy.get("type", wanted.policy_type) == wanted.policy_type and all(policy.get(k, v) == v for k, v in wanted.policy_settings.items())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_every_rule_of_its_loop_that_trains_its_policy(name: str) -> None:
    loop, taken = load(name)[0].loop, 0
    for rule in BY_LOOP[loop]:
        if not fits(name, rule):
            assert "policy" in mistake(name, f"algo={rule}")
            continue
        recipe, notes = load(name, f"algo={rule}")
        taken += 1
        assert recipe.algo_type == rule and recipe.loop == loop
        own = read_yaml(find_recipe(name))
        for key in own.get("training", {}):
            assert flatten({"x": own["training"][key]}) == flatten({"x": own["training"][key]}) and key in type(recipe.training).model_fields
        for key in own["algo"]:
            assert key in ("type", *type(recipe.algo).model_fields) or any(key in note for note in notes), f"{key} went without a word"
    assert taken


# Overrides and switches -----------------------------------------------------------------------------------------------


def test_switching_within_a_loop_keeps_training_and_names_what_the_rule_does_not_know(recipe_file: Path) -> None:
    for rule in set(BY_LOOP["on_policy"]) - {"ppo"}:
        if registry.rule_class(rule).policy_type != "gaussian":
            continue
        recipe, notes = load(recipe_file, f"algo={rule}")
        assert recipe.training == load(recipe_file)[0].training and recipe.policy.model_dump()["hidden"] == [32]
        assert bool(notes) == ("clip" not in type(recipe.algo).model_fields)
        assert all("clip" in note and repr(rule) in note for note in notes)


@pytest.mark.parametrize("rule", [name for name in BY_LOOP["off_policy"] if registry.rule_class(name).policy_type == "gaussian"])
def test_switching_to_the_other_loop_drops_what_it_does_not_know_and_says_so(recipe_file: Path, rule: str) -> None:
    recipe, notes = load(recipe_file, f"algo={rule}")
    assert recipe.loop == "off_policy" and recipe.training.model_dump()["gamma"] == 0.97 and recipe.training.model_dump()["log_every"] == 3
    said = [note for note in notes if "trains in another loop" in note]
    assert len(said) == 1 and "rollout" in said[0] and "gamma" not in said[0]
    text = mistake(recipe_file, f"algo={rule}", "training.rollout=3")
    assert "training.rollout" in text and "override" in text


def test_a_whole_section_replaces_the_old_one(recipe_file: Path) -> None:
    recipe, notes = load(recipe_file, "algo={type: ppo, clip: 0.3}")
    assert recipe.algo.model_dump() == {**registry.config_class("ppo")().model_dump(), "clip": 0.3} and not notes


def test_the_output_is_named_after_task_rule_and_seed(recipe_file: Path) -> None:
    recipe, _ = load(recipe_file, "seed=3")
    assert recipe.task == "classic/cartpole" and recipe.filled(recipe.output) == "runs/classic-cartpole-ppo-seed3"


def test_a_saved_recipe_refuses_another_rule_or_setting(recipe_file: Path) -> None:
    first, _ = load(recipe_file)
    with pytest.raises(InputError, match=r"training\.worlds is 8 there, 16 here"):
        require_same(first, load(recipe_file, "training.worlds=16")[0], "runs/x")
    with pytest.raises(InputError, match=r"algo\.clip is 0\.1 there, 0\.2 here"):
        require_same(first, load(recipe_file, "algo.clip=0.2")[0], "runs/x")


OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**40),
        "algo.clip": st.floats(1e-3, 10),
        "policy.hidden": st.lists(st.integers(1, 512), min_size=1, max_size=4),
        "policy.initial_std": st.floats(1e-3, 10),
        "policy.activation": st.sampled_from(["tanh", "relu", "elu"]),
        "training.steps": st.integers(1, 10**9),
        "training.worlds": st.integers(1, 10**5),
        "training.lr": st.floats(1e-9, 10),
        "training.gamma": st.floats(0, 1),
        "training.schedule": st.sampled_from(["adaptive", "linear", "constant"]),
        "training.value_clip": st.none() | st.floats(1e-3, 10),
        "training.threads": st.none() | st.integers(1, 64),
        "training.critic.hidden": st.lists(st.integers(1, 512), min_size=1, max_size=4),
        "training.critic.observations": st.none() | st.just(["observation.state"]),
        "training.random_start": st.booleans(),
        "env.threads": st.integers(1, 8),
    },
)


@given(OVERRIDES)
@settings(deadline=None)
def test_overrides_arrive_and_round_trip(overrides: dict[str, object]) -> None:
    items = [f"{key}={dump_yaml(value).removesuffix(chr(10)).removesuffix('...').strip()}" for key, value in overrides.items()]
    recipe, _ = load(BASE, *items)
    flat = flatten(recipe.to_dict())
    for key, value in overrides.items():
        assert flat[key] == value
    again = recipe_from_dict(parse_yaml(dump_yaml(recipe.to_dict())), "saved")
    assert again == recipe and type(again.algo) is type(recipe.algo) and type(again.training) is type(recipe.training)


LEAVES = sorted(flatten(load(BASE)[0].to_dict()))


@given(st.sampled_from(LEAVES), st.integers(0, 30))
@settings(deadline=None)
def test_a_letter_too_many_anywhere_is_one_line_that_names_the_nearest_key(key: str, at: int) -> None:
    parent, _, last = key.rpartition(".")
    wrong = last[: at % (len(last) + 1)] + "x" + last[at % (len(last) + 1) :]
    text = mistake(BASE, f"{parent}.{wrong}=1" if parent else f"{wrong}=1")
    assert wrong in text and ("did you mean" in text or "unknown key" in text or "required" in text)


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.wrolds=5"], ["override 'training.wrolds=5'", "unknown key 'training.wrolds'", "did you mean 'worlds'"]),
        (["algo.clp=5"], ["override 'algo.clp=5'", "unknown key 'algo.clp'", "did you mean 'clip'"]),
        (["training.critic.hiden=[3]"], ["unknown key 'training.critic.hiden'", "did you mean 'hidden'"]),
        (["training.worlds=0"], ["'training.worlds'", "greater than 0", "0"]),
        (["training.worlds=many"], ["'training.worlds'", "integer", "'many' (str)"]),
        (["training.gamma=1.1"], ["'training.gamma'", "1.1"]),
        (["training.random_start=3"], ["'training.random_start'"]),
        (["training.schedule=adaptve"], ["'training.schedule'", "'adaptive'"]),
        (["training=[3]"], ["key 'training'", "expected a section of keys"]),
        (["algo.clip=-1"], ["'algo.clip'", "greater than 0"]),
        (["algo={clip: 1}"], ["key 'algo.type' is required"]),
        (["policy=flow"], ["'policy.type'", "algo 'ppo' trains 'gaussian'", "found 'flow'"]),
        (["data.path=x"], ["unknown key 'data'"]),
    ],
)
def test_mistakes_in_overrides(recipe_file: Path, overrides: list[str], words: list[str]) -> None:
    text = mistake(recipe_file, *overrides)
    for word in words:
        assert word in text, text


def test_mistakes_in_the_file_name_the_file(recipe_file: Path) -> None:
    recipe_file.write_text("task: classic/cartpole\nalgo: ppo\n")
    assert mistake(recipe_file).startswith(f"{recipe_file}: key 'algo'") and "algo: {type: ppo}" in mistake(recipe_file)
    recipe_file.write_text("task: classic/cartpole\nalgo: {type: ppo}\ntrianing: {steps: 3}\n")
    assert mistake(recipe_file) == f"{recipe_file}: unknown key 'trianing'; did you mean 'training'?"


@pytest.mark.parametrize("rule", [name for name in RULES if registry.rule_class(name).policy_settings])
def test_a_policy_that_the_rule_cannot_train_is_refused(rule: str) -> None:
    kind = registry.rule_class(rule)
    for key, needed in kind.policy_settings.items():
        other = {True: False, False: True, "observed": "free", "free": "observed"}.get(needed)
        if other is None:
            continue
        with pytest.raises(InputError, match=rf"key 'policy\.{key}': algo '{rule}' needs {needed!r}, found {other!r}"):
            recipe_from_dict({"task": "cartpole", "algo": {"type": rule}, "policy": {key: other}}, "here")


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_every_setting_of_a_loop_refuses_what_is_no_number(loop: str) -> None:
    for key, field in LOOPS[loop].model_fields.items():
        if field.annotation in (int, float):
            with pytest.raises(pydantic.ValidationError):
                LOOPS[loop](**{key: "x"})
