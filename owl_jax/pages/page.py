"""An HTML page that is one file: its frame and style, grids, and tables with bars.

Nothing is fetched from anywhere and nothing needs a script. The page follows the reader's light or
dark mode, and a phone's width. All text that is passed in is escaped here, but for `body` and
`cells`, which are HTML. The style of the charts is here, too: a page has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --card: #fff; --ink: #1d2327; --soft: #5b666e;
  --rule: #dde1e4; --lines-0: #1f6fb2; --lines-1: #b4531a; --lines-2: #5a7d1c; --lines-3: #8a3fa0;
  --right: #1b7a3d; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181b; --card: #1c2226; --ink: #e6e9eb; --soft: #9aa5ad; --rule: #343c42;
    --lines-0: #6cb2ee; --lines-1: #f0a070; --lines-2: #a5cc62; --lines-3: #cf9be0;
    --right: #6fd08f; --wrong: #ff8f85; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 66rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(var(--cell), 100%), 1fr)); }
.card, figure { margin: 0; padding: .75rem; background: var(--card); border-radius: 6px;
  border: 1px solid var(--rule); min-width: 0; }
.card p { margin: .35rem 0 0; }
table { border-collapse: collapse; table-layout: fixed; width: 100%; max-width: 46rem; }
th { text-align: left; font-weight: normal; padding: .2rem .75rem .2rem 0; }
td { padding: .2rem 0; }
.inner th { padding-left: 1.25rem; color: var(--soft); }
td.bar { width: 25%; padding-right: .5rem; }
td.bar div { height: .6rem; background: var(--lines-0); border-radius: 2px; min-width: 1px; }
.inner td.bar div { background: var(--soft); }
table.narrow { width: auto; }
table.narrow td { padding-left: 1.5rem; }
td.number { width: 4rem; text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
figcaption { font-weight: 600; font-size: .9rem; }
figcaption span { font-weight: normal; margin-left: .9rem; white-space: nowrap; }
figcaption svg { width: 1.6rem; height: .6rem; }
figure > svg { display: block; width: 100%; height: auto; font-size: 11px; }
svg text { fill: var(--soft); }
svg path { fill: none; stroke-linecap: round; stroke-linejoin: round;
  vector-effect: non-scaling-stroke; }
svg .axis { stroke: var(--rule); stroke-width: 1; }
svg .mean { stroke-width: 1.8; }
svg .mark { stroke-width: 1.8; }
svg .bar { fill: var(--lines-0); }
svg .raw { stroke-width: 1; opacity: .35; }
.media { display: flex; gap: .3rem; }
.media img { flex: 0 1 8rem; min-width: 0; width: 8rem; height: auto; border-radius: 3px; }
.right, .wrong { font-weight: 600; white-space: nowrap; }
.right { color: var(--right); }
.wrong { color: var(--wrong); }
code { font: .9em ui-monospace, monospace; }
"""


@dataclass(frozen=True)
class Share:
    """A row of a bar table: a share between 0 and 1. inner: set in, and its bar grey."""

    label: str
    value: float
    inner: bool = False


def page(title: str, body: str, style: str = "") -> str:
    """The whole file. body: HTML, everything in it escaped. style: CSS of this page alone."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def grid(cells: Iterable[str], cell_width: str = "19rem") -> str:
    """Cells beside each other, as many as there is room for."""
    return f'<div class="grid" style="--cell:{cell_width}">\n{"".join(cells)}\n</div>'


def bar_table(shares: Sequence[Share]) -> str:
    """A table of labels, bars and per cent."""
    rows = "".join(
        f'<tr class="{"inner" if share.inner else "main"}"><th>{escape(share.label)}</th>'
        f'<td class="bar"><div style="width:{100 * share.value:.1f}%"></div></td>'
        f'<td class="number">{share.value:.1%}</td></tr>\n'
        for share in shares
    )
    return f"<table>\n{rows}</table>"
