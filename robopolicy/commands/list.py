"""``robopolicy list``: tasks, their tags, policies, methods of execution, update rules, recipes and robots, without importing what they need."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from policies.spec import InputError


class Kind(str, enum.Enum):
    """What can be listed."""

    tasks = "tasks"
    tags = "tags"
    policies = "policies"
    methods = "methods"
    rules = "rules"
    recipes = "recipes"
    robots = "robots"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command("list")
    def list_(
        kind: Annotated[Kind, typer.Argument(help="What to list.")],
        tag: Annotated[str | None, typer.Option(help="Only tasks with this tag, e.g. metaworld, expert.", show_default=False)] = None,
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is standard output.")] = None,
    ) -> None:
        """List tasks, their tags, policies, methods of execution, rules of learning by trial, recipes or robots, with one line on each.

        Example: robopolicy list tasks --tag mt10. What a task counts as solved is in the JSON.
        """
        from robopolicy.json_output import emit_json

        if tag is not None and kind is not Kind.tasks:
            raise InputError(f"--tag is for tasks; {kind.value} carry none")
        lists = {Kind.tags: _tags, Kind.policies: _policies, Kind.methods: _methods, Kind.rules: _rules, Kind.recipes: _recipes, Kind.robots: _robots}
        rows = _tasks(tag) if kind is Kind.tasks else lists[kind]()
        if json_file is not None:
            emit_json(rows, json_file)
        if str(json_file) != "-":
            _print(rows, hidden=("success",))
            if kind is Kind.tasks:
                typer.echo(_counted(rows, tag))


def _tasks(tag: str | None) -> list[dict[str, Any]]:
    from sim import registry

    out = []
    for name in registry.names(tag):
        entry = registry.entry(name)
        out.append(
            {
                "name": name,
                "rate_hz": entry.rate_hz,
                "steps": entry.max_episode_steps,
                "tags": list(entry.tags),
                "description": entry.description,
                "success": entry.success,
                "needs": "" if entry.installed else entry.install,
            }
        )
    return out


def _counted(rows: Sequence[Mapping[str, Any]], tag: str | None) -> str:
    """Return how many tasks were listed, how many have an expert, and what brings those that are not installed."""
    experts, missing = sum("expert" in row["tags"] for row in rows), [row["needs"] for row in rows if row["needs"]]
    line = f"{len(rows)} task{'s' * (len(rows) != 1)}{f' tagged {tag}' if tag else ''}, {experts} with an expert"
    commands = ", ".join(dict.fromkeys(missing))
    return f"{line}; {len(missing)} not installed: {commands}" if missing else line


def _tags() -> list[dict[str, Any]]:
    from sim import registry

    out = []
    for tag in registry.tags():
        entries = [registry.entry(name) for name in registry.names(tag)]
        needs = ", ".join(dict.fromkeys(entry.install for entry in entries if not entry.installed))
        out.append({"name": tag, "tasks": len(entries), "experts": sum(entry.has_expert for entry in entries), "needs": needs})
    return out


def _policies() -> list[dict[str, Any]]:
    import policies
    from policies.registry import policy_names

    folder = Path(policies.__file__ or "").parent
    return [{"name": name, "description": first_line(folder / f"{name}.py")} for name in policy_names()]


def _methods() -> list[dict[str, Any]]:
    from policies.realtime.registry import description, method_names

    return [{"name": name, "description": description(name)} for name in method_names()]


def _rules() -> list[dict[str, Any]]:
    from robopolicy.algos.registry import algo_names, description

    return [{"name": name, "description": description(name)} for name in algo_names()]


def _recipes() -> list[dict[str, Any]]:
    from robopolicy.config import find_recipe, read_yaml, recipe_names

    out = []
    for name in recipe_names():
        path = find_recipe(name)
        values = read_yaml(path)
        comment = next(iter(path.read_text(encoding="utf-8").splitlines()), "")
        policy, algo = values.get("policy"), values.get("algo")
        out.append(
            {
                "name": name,
                "task": str(values.get("task", "")),
                "policy": str(policy.get("type", "")) if isinstance(policy, Mapping) else "",
                "rule": str(algo.get("type", "")) if isinstance(algo, Mapping) else "",
                "description": comment.lstrip("# ").strip() if comment.startswith("#") else "",
            }
        )
    return out


def _robots() -> list[dict[str, Any]]:
    from real import robots

    folder = Path(robots.__file__ or "").parent
    return [{"name": name, "description": first_line(folder / f"{name}.py")} for name in robots.robot_names()]


def first_line(path: Path) -> str:
    """Return the first sentence line of a module's docstring, read without importing it."""
    import ast

    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _print(rows: Sequence[Mapping[str, Any]], hidden: Sequence[str] = ()) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=240)  # one row a line, for grep
    columns = [key for key in (rows[0] if rows else ()) if key not in hidden and any(row[key] not in ("", []) for row in rows)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in columns:
        table.add_column(key.replace("rate_hz", "Hz"), no_wrap=key == "name", overflow="fold")
    for row in rows:
        shown = (row[key] for key in columns)
        table.add_row(*(escape(", ".join(v) if isinstance(v, list) else f"{v:g}" if isinstance(v, float) else str(v)) for v in shown))
    console.print(table if rows else "none")
