"""SAC and TD3 against stable-baselines3: the same weights, batches and noise give the same losses and the same weights afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure

from tests.robopolicy.algos.off_policy_toys import noise, rule, spec, transitions
from tests.robopolicy.algos.stable_baselines import Box, copy_critics, copy_linears, feed, sac_layers

ROWS, UPDATES = 32, 3


def _logged(model: Any) -> dict[str, Any]:
    model.set_logger(configure(None, []))
    return model.logger.name_to_value


def _sac_pair() -> tuple[Any, Any]:
    model = SAC("MlpPolicy", Box(3, 2), policy_kwargs={"net_arch": [16, 16]}, learning_rate=3e-3, gamma=0.99, ent_coef="auto_0.3", seed=1, device="cpu")
    ours = rule("sac", spec(), policy={"log_std_range": (-20.0, 2.0)}, critic_rate=3e-3, actor_rate=3e-3, temperature_rate=3e-3, temperature=0.3)
    copy_critics(model.critic, ours.critics)
    copy_critics(model.critic_target, ours.target_critics)
    copy_linears(sac_layers(model.actor), ours.policy.network)
    return model, ours


def test_sac_updates_as_stable_baselines3(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ours = _sac_pair()
    logged, of = _logged(model), spec()
    for step in range(UPDATES):
        batch = transitions(of, ROWS, seed=step)
        drawn = noise(ROWS, step=step).normal(1, 4)[:, 0]
        queue = [drawn[:, :2], drawn[:, 2:]]
        monkeypatch.setattr(torch.distributions.normal, "_standard_normal", lambda *_, q=queue, **__: q.pop(0))
        feed(model, batch, 0.99)
        model.train(1, ROWS)
        assert queue == []
        updated = ours.update([batch], noise(ROWS, step=step))
        for theirs, name in (("critic_loss", "critic_loss"), ("actor_loss", "actor_loss"), ("ent_coef", "temperature")):
            assert float(updated.metrics[name]) == pytest.approx(logged[f"train/{theirs}"], rel=1e-5, abs=1e-5), name
    check = rule("sac", of, policy={"log_std_range": (-20.0, 2.0)})
    copy_critics(model.critic, check.critics)
    copy_critics(model.critic_target, check.target_critics)
    copy_linears(sac_layers(model.actor), check.policy.network)
    assert ours.log_temperature.item() == pytest.approx(model.log_ent_coef.item(), abs=1e-6)
    for part in ("critics", "target_critics", "policy.network"):
        for (name, mine), other in zip(ours.get_submodule(part).named_parameters(), check.get_submodule(part).parameters(), strict=True):
            assert (mine - other).abs().max() < 1e-5, f"{part}.{name}"


def test_the_comparison_with_sac_sees_a_small_difference() -> None:
    ours = _sac_pair()[1]
    changed = rule("sac", spec(), tau=0.01)
    changed.load_state_dict(ours.state_dict())
    batch = transitions(spec(), ROWS)
    ours.update([batch], noise(ROWS))
    changed.update([batch], noise(ROWS))
    gaps = [(a - b).abs().max() for a, b in zip(ours.target_critics.parameters(), changed.target_critics.parameters(), strict=True)]
    assert max(gaps) > 1e-5
