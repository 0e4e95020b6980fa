"""One-step distillation: the teacher's own answer is the target, the teacher stays outside, and what does not fit is refused."""

import copy

import numpy as np
import pytest
import torch

from policies import checkpoint, registry
from policies.noise import Noise, row_keys
from policies.onestep import teacher_answer
from policies.spec import InputError, SpecMismatch
from policies.teacher import Lesson
from tests.oracles.mixture import two_modes
from tests.oracles.policy import oracle_policy, plans
from tests.policies.toy import COIN, COIN_CONFIG, IMAGE, SMALL, STATE, build, coin_batch, observation, random_batch, stats_of, train

BATCH = random_batch(STATE, 5)
KEYS = row_keys(0, np.arange(5))
IDENTITY = {"action_normalization": "identity", "state_normalization": "identity"}


def student_of(teacher, **config):
    policy = build("onestep", STATE, BATCH, **config)
    policy.follow(teacher)
    return policy


@pytest.mark.parametrize(("name", "config"), [("flow", {"solver": "heun", "steps": 3}), ("diffusion", {"steps": 7, "sampler": "ddim"})])
def test_the_target_is_the_teachers_own_plan_from_the_same_noise(name, config):
    teacher = build(name, STATE, BATCH, **config).eval()
    condition = teacher.condition(BATCH, Noise(KEYS))
    answer = teacher_answer(Lesson(teacher, condition), Noise(KEYS).normal(16, 4), None)
    assert torch.equal(answer, teacher.generate(condition, Noise(KEYS))[0])
    policy = student_of(teacher).eval()
    found = policy.student(Noise(KEYS).normal(16, 4), policy.condition(BATCH, Noise(KEYS)))
    assert policy.loss(BATCH, Noise(KEYS))[0].item() == pytest.approx((found - answer).square().mean().item(), rel=1e-5)


def test_a_teacher_that_draws_noise_walks_with_ddim():
    ancestral, ddim = (build("diffusion", STATE, BATCH, sampler=sampler, steps=5).eval() for sampler in ("ddpm", "ddim"))
    lessons = [Lesson(teacher, teacher.condition(BATCH, Noise(KEYS))) for teacher in (ancestral, ddim)]
    assert torch.equal(*(teacher_answer(lesson, Noise(KEYS).normal(16, 4), None) for lesson in lessons))
    assert not torch.equal(*(teacher_answer(lessons[0], Noise(KEYS).normal(16, 4), steps) for steps in (5, 9)))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_teacher_that_jumps_by_a_rule_of_its_own_is_asked_for_its_jumps(steps):
    teacher = build("meanflow", STATE, BATCH, steps=steps).eval()
    condition = teacher.condition(BATCH, Noise(KEYS))
    answer = teacher_answer(Lesson(teacher, condition), Noise(KEYS).normal(16, 4), None)
    assert torch.equal(answer, teacher.generate(condition, Noise(KEYS))[0])


def test_it_learns_what_an_exact_teacher_makes_of_each_noise():
    teacher = oracle_policy("flow", two_modes(1, 1.0, 0.05), steps=10)
    policy = build("onestep", COIN, coin_batch(0), **IDENTITY, **COIN_CONFIG)
    policy.normalizer = teacher.normalizer
    policy.follow(teacher)
    train(policy, coin_batch, 400, lr=4e-3)
    taught, found = plans(teacher, 1000)[:, 0, 0], plans(policy, 1000)[:, 0, 0]
    assert (taught - found).abs().mean() < 0.1
    assert 0.4 < (found > 0).float().mean() < 0.6
    assert (found.abs() - 1).abs().mean() < 0.15


def test_the_teacher_is_no_part_of_the_student(tmp_path):
    teacher = build("flow", STATE, BATCH)
    checkpoint.save(tmp_path / "teacher", teacher, recipe={}, extra={})
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    policy = build("onestep", STATE, BATCH, teacher=str(tmp_path / "teacher"))
    policy.begin_training()
    alone = registry.create("onestep", policy.config, policy.spec, policy.normalizer)
    assert policy.state_dict().keys() == alone.state_dict().keys()
    assert sum(p.numel() for p in policy.parameters()) == sum(p.numel() for p in alone.parameters())
    train(policy, lambda step: BATCH, 3)
    assert all(torch.equal(value, before[name]) for name, value in policy._teacher[0].state_dict().items())
    checkpoint.save(tmp_path / "student", policy, recipe={}, extra={})
    (tmp_path / "teacher").rename(tmp_path / "gone")
    loaded = checkpoint.load(tmp_path / "student")
    for one in (loaded, copy.deepcopy(policy)):
        plan, _ = one.act(observation(BATCH), {}, Noise(KEYS))
        assert torch.equal(plan.actions, policy.act(observation(BATCH), {}, Noise(KEYS))[0].actions)
    with pytest.raises(InputError, match="no such folder"):
        loaded.begin_training()


@pytest.mark.parametrize("name", ["onestep", "consistency"])
def test_the_students_normaliser_is_the_teachers(name, tmp_path):
    teacher = build("flow", STATE, random_batch(STATE, 5, seed=9))
    checkpoint.save(tmp_path / "teacher", teacher, recipe={}, extra={})
    kind = registry.policy_class(name)
    config = kind.Config(**SMALL, teacher=str(tmp_path / "teacher"))
    found = kind.fit_normalizer(config, STATE, stats_of(BATCH, STATE), [BATCH]).tensors()
    assert all(torch.equal(value, found[key]) for key, value in teacher.normalizer.tensors().items())
    with pytest.raises(SpecMismatch, match=r"observation field 'observation\.state'"):
        kind.fit_normalizer(config, STATE.subset(["observation.environment_state"]), stats_of(BATCH, STATE), [BATCH])


def test_teachers_that_do_not_fit_are_refused():
    policy = build("onestep", STATE, BATCH)
    for teacher, words in (
        (build("flow", STATE, random_batch(STATE, 5, seed=9)), "its normaliser differs from the student's in 'action.offset'"),
        (build("flow", STATE, BATCH, horizon=12), "its horizon is 12, the student's 16; set policy.horizon to the teacher's"),
        (build("flow", STATE, BATCH, n_obs_steps=1), "its n_obs_steps is 1, the student's 2"),
        (build("flow", STATE, BATCH, observations=["observation.state"]), "has no such field"),
        (build("flow", IMAGE, random_batch(IMAGE, 5)), "observation field 'observation.images.front'"),
    ):
        with pytest.raises(InputError) as error:
            policy.follow(teacher)
        assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["onestep", "consistency"])
def test_a_gripper_that_the_teacher_scales_down_is_not_played_at_a_tenth(name):
    batch = {**BATCH, "action": BATCH["action"].clone()}
    batch["action"][..., 3] = batch["action"][..., 3].sign()
    teacher = build("flow", STATE, batch, two_valued_scale=0.1)
    kind = registry.policy_class(name)
    for scale, fits in ((None, False), (0.1, True)):
        student = registry.create(name, kind.Config(**SMALL, two_valued_scale=scale), STATE, teacher.normalizer)
        if fits:
            student.follow(teacher)
            continue
        with pytest.raises(InputError, match=r"its two_valued_scale is 0\.1, the student's None; set policy\.two_valued_scale to the teacher's"):
            student.follow(teacher)


def test_a_teacher_must_walk_from_noise_to_actions(tmp_path):
    checkpoint.save(tmp_path / "mean", build("regression", STATE, BATCH), recipe={}, extra={})
    with pytest.raises(InputError, match="holds policy 'regression'; a teacher walks from noise to actions"):
        build("onestep", STATE, BATCH, teacher=str(tmp_path / "mean")).begin_training()


def test_without_a_teacher_there_is_nothing_to_learn():
    kind = registry.policy_class("onestep")
    config = kind.Config(**SMALL)
    policy = registry.create("onestep", config, STATE, kind.fit_normalizer(config, STATE, stats_of(BATCH, STATE), [BATCH]))
    with pytest.raises(InputError, match=r"policy 'onestep' learns from another policy: set policy\.teacher"):
        policy.loss(BATCH, Noise(KEYS))


def test_a_teacher_sees_images_by_its_own_encoder():
    batch = random_batch(IMAGE, 4)
    policy = build("onestep", IMAGE, batch)
    policy.loss(batch, Noise(row_keys(0, np.arange(4))))[0].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in policy.cameras.parameters())
    assert all(p.grad is None for p in policy._teacher[0].parameters())
