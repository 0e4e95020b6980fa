"""What every part of the report's page is made of: escaped text, colours, cards, tables."""

from __future__ import annotations

import html
from collections.abc import Sequence

from robopolicy.evaluation.records import Evaluation
from robopolicy.reporting.report import Findings

NEUTRAL = -1


def esc(value: object) -> str:
    """Return ``value`` as text that is safe in HTML and in attributes."""
    return html.escape(str(value), quote=True)


class Palette:
    """One colour per policy, the same in every part of the page; the expert is neutral."""

    def __init__(self, names: Sequence[str]) -> None:
        """Give colours to ``names`` in order."""
        self._index: dict[str, int] = {}
        for name in names:
            self._index.setdefault(name, len(self._index))

    @classmethod
    def of(cls, found: Findings) -> Palette:
        """Colour every learnt policy and every run; a run whose name is a policy's shares its colour."""
        labels = [e.label for e in found.evaluations if e.policy != "expert"]
        return cls([*labels, *(r.label for r in found.runs), *(x.label for x in found.learners)])

    def __getitem__(self, name: str) -> int:
        return self._index.get(name, NEUTRAL)

    def style(self, name: str) -> str:
        """Return the attribute that sets ``--colour``."""
        index = self[name]
        return f'style="--colour:var(--{"neutral" if index < 0 else f"c{index % 7}"})"'

    def dot(self, name: str) -> str:
        """Return the name behind its colour."""
        return f'<span class="dot" {self.style(name)}></span>{esc(name)}'


def card(title: str, say: str, inside: str) -> str:
    """Return one card of the page; all three are HTML."""
    told = f'<p class="say">{say}</p>' if say else ""
    return f'<section class="card"><h3>{title}</h3>{told}{inside}</section>\n'


def html_table(heads: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """Return a table that scrolls sideways where it is too wide; ``heads`` and ``rows`` are HTML."""
    cells = "".join(f"<th>{head}</th>" for head in heads)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def interval_text(interval: tuple[float, float]) -> str:
    """Return an interval of shares, in per cent."""
    return f"{100 * interval[0]:.0f}&ndash;{100 * interval[1]:.0f}%"


def badge(e: Evaluation) -> str:
    """Return what marks an evaluation that is not for reporting, else nothing."""
    if e.purpose == "report":
        return ""
    return f'<span class="badge" title="not for reporting: these initial states are for choosing">{esc(e.purpose)} seeds</span>'


def or_dash(value: float | None, form: str) -> str:
    """Return a number, or a dash for none."""
    return "&ndash;" if value is None else form.format(value)


def anchor(task: str) -> str:
    """Return the name of a task's part, for links."""
    return "task-" + "".join(c if c.isalnum() else "-" for c in task)
