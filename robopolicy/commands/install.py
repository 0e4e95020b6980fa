"""``robopolicy install``: benchmark suites whose pins clash with ours, from the pinned lists in the wheel."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def install(
        suites: Annotated[list[str] | None, typer.Argument(metavar="[SUITE]...", help="metaworld, gym-aloha; none: list them.")] = None,
    ) -> None:
        """Install benchmark suites that do not resolve beside robopolicy, without their dependencies.

        Uses pip, or uv where the environment has no pip. A suite that is there already is left alone.
        """
        from rich.console import Console

        from robopolicy.install import install as install_suite
        from robopolicy.install import suite, suite_names

        console = Console(soft_wrap=True, highlight=False)
        if not suites:
            for name in suite_names():
                found = suite(name)
                console.print(f"{name} {found.version}: {'installed' if found.installed else f'robopolicy install {name}'}")
            return
        wanted = [suite(name) for name in suites]  # a misspelt name stops everything before anything is installed
        for one in wanted:
            if one.installed:
                console.print(f"{one.name} {one.version} is installed already")
                continue
            console.print(f"installing {one.name} {one.version} ...")
            console.print(f"installed {', '.join(install_suite(one.name))}")
