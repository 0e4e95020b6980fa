"""Where commands print their tables."""

from __future__ import annotations

from rich.console import Console

_COLUMNS = 240  # of what is no terminal: enough that nothing is cut off


def wide(markup: bool = False) -> Console:
    """Return a console on standard output: the width of the terminal, and in a file or pipe one in which nothing of a table is cut off.

    Args:
        markup: Whether brackets in what is printed are Rich's markup; names, values and intervals may hold brackets.
    """
    console = Console(markup=markup)
    return console if console.is_terminal else Console(width=_COLUMNS, markup=markup)
