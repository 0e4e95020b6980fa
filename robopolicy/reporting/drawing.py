"""Drawings that stand alone: charts side by side over one legend, as an SVG file in the colours of the pages by day."""

from __future__ import annotations

import html
from collections.abc import Sequence

from robopolicy.reporting.plots import HEIGHT, LEFT, WIDTH

#: Colours of the pages by day, as style rules.
LIGHT = "--ink:#1c2430;--soft:#5a6675;--hair:#dfe4ea;--neutral:#7b8794;"
LIGHT += "--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b8588f;--c4:#c28400;--c5:#3a9bd4;--c6:#6b4ea0"
COLOURS = 7
_NAME, _ROW, _TITLE = 190, 22, 28  # pixels of one name in the legend, of a row of it, and of the titles
_STYLE = (
    f"svg{{{LIGHT};background:#fff}}text{{font:12.5px system-ui,sans-serif;fill:var(--soft)}}.label{{fill:var(--ink)}}.grid{{stroke:var(--hair)}}"
    ".axis,.mark{stroke:var(--neutral)}.line{fill:none;stroke-width:2}.band{opacity:.12}"
)


def swatch(place: int, x: float = 0, y: float = 5) -> str:
    """Return the line, 22 pixels of ``<line>``, that stands for the name at ``place``; from the eighth name on colours come again, dashed."""
    dash = ' stroke-dasharray="6 3"' if place >= COLOURS else ""
    return f'<line x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}" stroke="var(--c{place % COLOURS})" stroke-width="3"{dash}/>'


def side_by_side(charts: Sequence[str], names: Sequence[str], titles: Sequence[str] = ()) -> str:
    """Return ``charts``, each an ``<svg>`` of ``plots.line_chart``, as one SVG file over a legend.

    Args:
        charts: Drawn with the colours of ``names`` in their order.
        names: Of the legend.
        titles: One above each chart; none: no room is left for them.
    """
    top, out = _TITLE if titles else 0, []
    for i, title in enumerate(titles):
        out.append(f'<text class="label" x="{i * WIDTH + LEFT}" y="20" font-weight="600">{html.escape(title)}</text>')
    for i, chart in enumerate(charts):
        out.append(chart.replace("<svg ", f'<svg x="{i * WIDTH}" y="{top}" width="{WIDTH}" height="{HEIGHT}" ', 1))
    a_row = max(1, len(charts) * WIDTH // _NAME)
    for i, name in enumerate(names):
        x, y = LEFT + i % a_row * _NAME, HEIGHT + top + 24 + i // a_row * _ROW
        out.append(f'{swatch(i, x, y - 4)}<text x="{x + 28}" y="{y}">{html.escape(name)}</text>')
    size = f"0 0 {len(charts) * WIDTH} {HEIGHT + top + 24 + -(-len(names) // a_row) * _ROW}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}"><style>{_STYLE}</style>{"".join(out)}</svg>\n'
