"""Evaluations that a ledger has already, made as they would be made now: nobody runs them twice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.spec import InputError
from robopolicy.evaluation import ledger
from robopolicy.evaluation.records import Evaluation
from robopolicy.evaluation.rollout import make_world
from robopolicy.evaluation.subject import EXPERT

if TYPE_CHECKING:
    from robopolicy.evaluation.versus import Contest, Entrant


def earlier(out: Path, tasks: Collection[str], env: Mapping[str, Any], *, checkpoint_hash: str | None, block: int, **how: Any) -> dict[str, Evaluation]:
    """Return task -> the newest evaluation in the ledger of ``out`` that one made now would repeat: world (as defined now) and packages too.

    Args:
        out: Folder of the ledger; records that were moved away from it are passed over.
        tasks: Registered names.
        env: Options of the worlds, as they are recorded.
        checkpoint_hash: Of the policy; None: the scripted expert's.
        block: Rows that are asked for.
        how: ``seed0``, ``episodes``, ``noise_seed``, ``threads``, ``device``, ``weights`` and ``execution``, as a row has them.
    """
    file = out / ledger.FILE
    if not file.is_file():
        return {}
    whose = {"checkpoint_hash": checkpoint_hash} if checkpoint_hash is not None else {"checkpoint_hash": None, "policy": EXPERT}
    made = {"env": env, "block": min(block, how["episodes"]), "mode": "synchronous", "packages": ledger.packages()}
    wanted = json.loads(json.dumps({**how, **whose, **made}))
    found: dict[str, Evaluation] = {}
    for row in reversed(list(ledger.read(file))):
        task = str(row.get("task"))
        if task not in tasks or task in found or any(row.get(key) != value for key, value in wanted.items()):
            continue
        if row.get("suite_version") == _suite_version(task, env):
            with contextlib.suppress(InputError):
                found[task] = Evaluation.load(out / str(row.get("results")))
    return found


def of_entrant(contest: Contest, entrant: Entrant, env: Mapping[str, Any], device: str) -> Evaluation | None:
    """Return what :func:`earlier` finds of one policy of a contest in worlds with options ``env``; None for a policy in memory."""
    from policies.checkpoint import fingerprint
    from policies.realtime.registry import to_text
    from robopolicy.execution import method_of

    if not isinstance(entrant.name, str):
        return None
    config, expert = contest.config, entrant.name == EXPERT
    described = None if expert else method_of(entrant.name, entrant.method)
    found = earlier(
        contest.out,
        [contest.task],
        env,
        checkpoint_hash=None if expert else fingerprint(entrant.name),
        block=config.block,
        seed0=int(contest.purpose) + config.seed,
        noise_seed=config.seed,
        episodes=config.episodes,
        threads=config.threads,
        device=device,
        weights=entrant.weights,
        execution=None if described is None else to_text(described),
    )
    return found.get(contest.task)


def _suite_version(task: str, env: Mapping[str, Any]) -> str:
    with contextlib.closing(make_world(task, env, 1)) as world:
        return world.suite_version
