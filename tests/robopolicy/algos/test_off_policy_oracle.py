"""SAC and TD3 against stable-baselines3: the same weights, batches and noise give the same losses and the same weights afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.logger import Logger

from tests.robopolicy.algos.off_policy_toys import noise, rule, spec, transitions
from tests.robopolicy.algos.stable_baselines import Box, copy_critics, copy_linears, feed, sac_layers

ROWS, UPDATES = 32, 4
WIDE = {"log_std_range": (-20.0, 2.0)}
SMALL = {"net_arch": [16, 16]}


def _logged(model: Any) -> dict[str, Any]:
    model.set_logger(Logger(None, []))
    return model.logger.name_to_value


def _linears(network: Any) -> list[torch.nn.Linear]:
    return [m for m in network if isinstance(m, torch.nn.Linear)]


def _copy_sac(model: Any, ours: Any) -> Any:
    copy_critics(model.critic, ours.critics)
    copy_critics(model.critic_target, ours.target_critics)
    copy_linears(sac_layers(model.actor), ours.policy.network)
    return ours


def _copy_td3(model: Any, ours: Any) -> Any:
    copy_critics(model.critic, ours.critics)
    copy_critics(model.critic_target, ours.target_critics)
    copy_linears(_linears(model.actor.mu), ours.policy.network)
    copy_linears(_linears(model.actor_target.mu), ours.target_actor.network)
    return ours


def _require_equal(ours: Any, theirs: Any, parts: tuple[str, ...]) -> None:
    for part in parts:
        for (name, mine), other in zip(ours.get_submodule(part).named_parameters(), theirs.get_submodule(part).parameters(), strict=True):
            assert (mine - other).abs().max() < 1e-5, f"{part}.{name}"


def _sac() -> tuple[Any, Any]:
    model = SAC("MlpPolicy", Box(3, 2), policy_kwargs={**SMALL}, learning_rate=3e-3, gamma=0.99, ent_coef="auto_0.3", seed=1, device="cpu")
    ours = rule("sac", spec(), policy=WIDE, critic_rate=3e-3, actor_rate=3e-3, temperature_rate=3e-3, temperature=0.3)
    return model, _copy_sac(model, ours)


def test_sac_updates_as_stable_baselines3(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ours = _sac()
    logged, of = _logged(model), spec()
    for step in range(UPDATES):
        batch = transitions(of, ROWS, seed=step)
        drawn = noise(ROWS, step=step).normal(1, 4)[:, 0]
        queue = [drawn[:, :2], drawn[:, 2:]]
        feed(model, batch, 0.99)
        with monkeypatch.context() as patch:
            patch.setattr(torch.distributions.normal, "_standard_normal", lambda *_, q=queue, **__: q.pop(0))
            model.train(1, ROWS)
        assert queue == []
        updated = ours.update([batch], noise(ROWS, step=step))
        for theirs, name in (("critic_loss", "critic_loss"), ("actor_loss", "actor_loss"), ("ent_coef", "temperature")):
            assert float(updated.metrics[name]) == pytest.approx(logged[f"train/{theirs}"], rel=1e-5, abs=1e-5), name
    assert ours.log_temperature.item() == pytest.approx(model.log_ent_coef.item(), abs=1e-6)
    _require_equal(ours, _copy_sac(model, rule("sac", of, policy=WIDE)), ("critics", "target_critics", "policy.network"))


def test_td3_updates_as_stable_baselines3(monkeypatch: pytest.MonkeyPatch) -> None:
    of = spec()
    model = TD3("MlpPolicy", Box(3, 2), policy_kwargs={**SMALL}, learning_rate=3e-3, gamma=0.99, seed=1, device="cpu")
    ours = _copy_td3(model, rule("td3", of, critic_rate=3e-3, actor_rate=3e-3))
    logged, improved = _logged(model), 0
    for step in range(UPDATES):
        batch = transitions(of, ROWS, seed=step)
        drawn = noise(ROWS, step=step).normal(1, 2)[:, 0]
        feed(model, batch, 0.99)
        logged.pop("train/actor_loss", None)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "normal_", lambda x, mean, std, z=drawn: x.copy_(mean + std * z))
            model.train(1, ROWS)
        updated = ours.update([batch], noise(ROWS, step=step))
        assert float(updated.metrics["critic_loss"]) == pytest.approx(logged["train/critic_loss"], rel=1e-5)
        assert ("actor_loss" in updated.metrics) == ("train/actor_loss" in logged)
        if "actor_loss" in updated.metrics:
            improved += 1
            assert float(updated.metrics["actor_loss"]) == pytest.approx(logged["train/actor_loss"], rel=1e-5, abs=1e-6)
    assert improved == UPDATES // 2
    _require_equal(ours, _copy_td3(model, rule("td3", of)), ("critics", "target_critics", "policy.network", "target_actor.network"))


def test_the_comparison_sees_a_small_difference() -> None:
    ours, changed = _sac()[1], rule("sac", spec(), policy=WIDE, critic_rate=3e-3, tau=0.01)
    changed.load_state_dict(ours.state_dict())
    batch = transitions(spec(), ROWS)
    for one in (ours, changed):
        one.update([batch], noise(ROWS))
    with pytest.raises(AssertionError, match="target_critics"):
        _require_equal(ours, changed, ("critics", "target_critics"))
