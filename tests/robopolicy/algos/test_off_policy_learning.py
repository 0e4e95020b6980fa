"""Every off-policy rule learns to bring a point to rest, where its untrained policy does not; mirror descent reaches its closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.algos.actor_critic import Seen
from tests.robopolicy.algos.off_policy_toys import noise, rule, spec
from tests.robopolicy.algos.point_mass import SPEC, learn, returns

FAST = {"hidden": [32, 32], "critic_rate": 3e-3, "actor_rate": 3e-3, "tau": 0.02}
SOFT = {"temperature": 0.1, "temperature_rate": 3e-3}
SETTINGS: dict[str, dict[str, Any]] = {
    "sac": SOFT,
    "td3": {},
    "dsact": {**SOFT, "tau": 0.04},
    "rlpd": {**SOFT, "members": 5},
    "off_policy_mdpo": {"step": 2.0, "policy_steps": 50, "entropy": 0.01},
}
#: Episodes and updates a control step; RLPD's policy learns once a step, DSAC-T's every second update.
LENGTH = {"dsact": (8, 8), "rlpd": (10, 4)}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_it_learns_to_bring_a_point_to_rest(name: str) -> None:
    made = rule(name, SPEC, policy={"hidden": [32, 32]}, **{**FAST, **SETTINGS[name]})
    untrained, expert = returns(made.policy), returns(None, expert=True)
    wanted = expert + 0.35 * (untrained - expert)
    assert untrained < wanted
    episodes, updates = LENGTH.get(name, (6, 6))
    learn(made, episodes, updates=updates)
    assert returns(made.policy) > wanted


def test_a_rule_whose_reward_says_nothing_learns_nothing() -> None:
    """The test above is one that can fail: with the critics' learning switched off in effect, the policy stays bad."""
    made = rule("td3", SPEC, policy={"hidden": [32, 32]}, **{**FAST, "critic_rate": 1e-12})
    untrained, expert = returns(made.policy), returns(None, expert=True)
    learn(made, 4, updates=4)
    assert returns(made.policy) < expert + 0.35 * (untrained - expert)


class _Quadratic(torch.nn.Module):
    """Q = -(h / 2) (u - c)^2 of the action before its tanh, u."""

    h, c = 3.0, 0.7

    def forward(self, features: torch.Tensor, action: torch.Tensor, members: Any = None) -> torch.Tensor:
        """Return what two equal critics say, (2, B)."""
        value = -0.5 * self.h * (torch.atanh(action) - self.c).square().sum(-1)
        return torch.stack([value, value])


def test_mdpo_reaches_the_last_policy_times_exp_of_q() -> None:
    """pi_k N(m, s^2) and Q quadratic: pi_k exp(t Q) / Z has precision 1 / s^2 + t h and mean (m / s^2 + t h c) / that."""
    t, rows, q = 0.5, 256, _Quadratic()
    made = rule("off_policy_mdpo", spec(states=1, actions=1), actor_rate=1e-2, step=t)
    made.critics = q
    state = torch.zeros(rows, 1)
    seen = Seen(state, state)
    with torch.no_grad():
        made.policy.network[-1].bias.copy_(torch.tensor([-0.4, np.log(0.6)]))
        made.previous.load_state_dict({n: v for n, v in made.policy.state_dict().items() if not n.startswith("encoder")})
    law = made.policy.distribution(state[:1])
    mean, std = law.mean.item(), law.std.item()
    for k in range(2):
        precision = std**-2 + t * q.h
        mean, std = (mean * std**-2 + t * q.h * q.c) / precision, precision**-0.5
        for group in made.optimizers()["actor"].param_groups:
            group["lr"] = 1e-2
        for step in range(200):
            if step == 130:
                made.optimizers()["actor"].param_groups[0]["lr"] = 1e-3
            made._descend("actor", made.actor_loss(seen, noise(rows, step=1000 * k + step).normal(1))[0])
        found = made.policy.distribution(state[:1])
        assert found.mean.item() == pytest.approx(mean, abs=0.02)
        assert found.std.item() == pytest.approx(std, rel=0.03)
        assert abs(found.mean.item() - q.c) > 0.15  # not yet the best action: the step is held back
        made.after(made.config.policy_steps)
