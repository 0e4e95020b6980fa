"""Names of tasks: what is listed, how a name is found, and the one line for one that is not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _pytest.outcomes import Failed, Skipped

from policies.spec import InputError
from sim import registry
from sim.suites import metaworld, pusht, two_route
from tests import require as require_module
from tests.require import require

ROOT = Path(__file__).resolve().parents[2]


def test_listing_imports_no_simulator() -> None:
    heavy = ("mujoco", "metaworld", "gymnasium", "gymnasium_robotics", "dm_control", "ogbench", "pymunk", "cv2", "torch")
    code = f"import sys; from sim import registry; registry.names(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_tasks_are_those_of_the_suite() -> None:
    from metaworld import env_dict

    sets = {f"ml{n}-{part}": getattr(env_dict, f"ML{n}_V3")[part] for n in (10, 25, 45) for part in ("train", "test")}
    sets |= {f"mt{n}": getattr(env_dict, f"MT{n}_V3") for n in (10, 25, 50)}
    assert {tag for tag in registry.tags() if tag.startswith(("mt", "ml"))} == set(sets)
    for tag, members in sets.items():
        assert {f"{name.partition('/')[2]}-v3" for name in registry.names(tag)} == set(members), tag
    assert len(registry.names("mt50")) == 50 and set(registry.names("mt50")) <= set(registry.names("expert")) < set(registry.names())
    assert registry.names("multimodal") == ["two-route"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("metaworld/push", "metaworld/push"),
        ("push", "metaworld/push"),
        ("peg-insert-side-v3", "metaworld/peg-insert-side"),
        ("metaworld/peg-insert-side-v3", "metaworld/peg-insert-side"),
        ("Peg_Insert_Side", "metaworld/peg-insert-side"),
        ("pusht", "pusht"),
        ("two_route", "two-route"),
        ("arm/push", "arm/push"),
        ("arm-push", "arm/push"),
        ("arm_reach", "arm/reach"),
    ],
)
def test_names_resolve(name: str, expected: str) -> None:
    assert registry.resolve(name) == expected


@pytest.mark.parametrize(
    ("name", "hint"),
    [("peg-insert", "did you mean 'peg-insert-side'?"), ("metaworld/pusj", "did you mean 'metaworld/push'?"), ("pushtee", "did you mean 'pusht'?")],
)
def test_an_unknown_name_gets_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        registry.resolve(name)
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_tag_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'metaworld'"):
        registry.names("metawrld")


def test_an_ambiguous_last_segment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = dict(registry._entries())
    entries["other/push"] = replace(entries["metaworld/push"], name="other/push")
    monkeypatch.setattr(registry, "_entries", lambda: entries)
    with pytest.raises(InputError, match=r"could be any of metaworld/push, other/push"):
        registry.resolve("push")


def test_a_suite_that_is_not_installed_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {n: replace(e, requires=("a_suite_that_is_not_there",)) for n, e in registry._entries().items()}
    monkeypatch.setattr(registry, "_entries", lambda: entries)
    assert not registry.entry("push").installed
    with pytest.raises(InputError, match=r"needs a_suite_that_is_not_there, not installed here: run `robopolicy install metaworld`"):
        registry.make("push")
    with pytest.raises(InputError, match=r"pip install 'robopolicy\[sim\]'"):
        registry.make("pusht")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observations": "states"}, "did you mean 'state'"),
        ({"observations": "image"}, "has no camera"),
        ({"image_size": 0}, "at least 8 px, found 0"),
        ({"num_worlds": 0}, "at least 1, found 0"),
    ],
)
def test_bad_options_get_one_line(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        registry.make("two-route", **options)


@pytest.mark.parametrize("module", [metaworld, pusht, two_route])
def test_entries_agree_with_the_worlds(module) -> None:
    item = module.entries()[-1]
    if item.name == "pusht":
        require("libgl")
    env = registry.make(item.name)
    assert env.task == item.name and env.spec.action.rate_hz == env.spec.observation.rate_hz == item.rate_hz
    assert env.max_episode_steps == item.max_episode_steps and env.suite_version
    env.reset(np.array([0]))
    assert env.expert_action().shape == (1, env.spec.action.dim)
    env.close()


@pytest.mark.parametrize("name", ["num_worlds", "threads", "max_episode_steps"])
@pytest.mark.parametrize("task", ["classic/cartpole", "two-route"])
@pytest.mark.parametrize("number", [0, 2.5, "4"])
def test_counts_that_are_none_are_refused_by_name(task: str, name: str, number: object) -> None:
    with pytest.raises(InputError, match=f"{name} of task '{task}': expected a whole number of at least 1, found {number!r}"):
        registry.make(task, **{name: number})


def test_a_task_that_cannot_run_here_is_listed_and_where_all_is_required_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {n: replace(e, requires=("a_suite_that_is_not_there",)) for n, e in registry._entries().items()}
    listed: list[tuple[str, str]] = []
    monkeypatch.setattr(registry, "_entries", lambda: entries)
    monkeypatch.setattr(require_module, "absent", listed)
    monkeypatch.delenv("REQUIRE_ALL", raising=False)
    with pytest.raises(Skipped, match="needs a_suite_that_is_not_there for task robotics/fetch-push"):
        require_module.require_task("robotics/fetch-push")
    monkeypatch.setenv("REQUIRE_ALL", "1")
    with pytest.raises(Failed, match=r"lacks it: .*pip install 'robopolicy\[suites\]'"):
        require_module.require_task("robotics/fetch-push")
    assert [test.partition("::")[0] for test, _ in listed] == ["tests/sim/test_registry.py"] * 2
