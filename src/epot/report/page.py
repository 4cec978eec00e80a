"""One HTML file that needs nothing else: no network, no scripts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #52606d; --line: #d9e2ec; --tint: #f5f7fa; --blue: #2563a8; }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: var(--ink); margin: 0; }
header { background: var(--ink); color: #fff; padding: 1.6rem max(1.2rem, calc(50vw - 30rem)); }
header h1 { margin: 0; font-size: 1.5rem; } header p { margin: .3rem 0 0; color: #cbd2d9; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem 1.2rem 4rem; }
nav { font-size: .9rem; padding: .6rem 0; border-bottom: 1px solid var(--line); }
nav a { margin-right: 1rem; color: var(--blue); text-decoration: none; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { max-width: 48rem; } .soft { color: var(--soft); font-size: .9rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; max-width: 100%; }
figure svg { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .85rem; color: var(--soft); max-width: 27rem; padding: .2rem .3rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--tint); font-weight: 600; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.card { background: var(--tint); border-left: 4px solid var(--blue); padding: .6rem 1rem; min-width: 10rem; }
.card b { display: block; font-size: 1.25rem; } .card span { color: var(--soft); font-size: .85rem; }
.ok { color: #22543d; } .warning { color: #975a16; } .error { color: #9b2c2c; font-weight: 600; }
pre { background: var(--tint); padding: .7rem 1rem; border-radius: 6px; overflow-x: auto; font-size: .82rem; }
@media print { nav { display: none; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""


def escape(text: Any) -> str:
    """Text that comes from data never becomes markup."""
    return html.escape(str(text), quote=True)


def cell(value: Any) -> str:
    """A table cell; numbers to three or four figures, on the right."""
    if isinstance(value, bool) or value is None:
        return f"<td>{'' if value is None else 'yes' if value else 'no'}</td>"
    if isinstance(value, (int, float)):
        return (
            f'<td class="number">{value:,}</td>' if isinstance(value, int) else f'<td class="number">{value:.4g}</td>'
        )
    return f"<td>{escape(value)}</td>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with a head."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join(f"<tr>{''.join(cell(v) for v in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(values: Mapping[str, Any]) -> str:
    """A table of names and values."""
    body = "".join(f"<tr><th>{escape(k)}</th>{cell(v)}</tr>" for k, v in values.items())
    return f'<div class="scroll"><table><tbody>{body}</tbody></table></div>'


def figure(svg: str, caption: str) -> str:
    """A picture with what it shows."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def cards(values: Mapping[str, str]) -> str:
    """The few numbers that a reader looks for first."""
    inner = "".join(f'<div class="card"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in values.items())
    return f'<div class="cards">{inner}</div>'


def page(title: str, subtitle: str, sections: Mapping[str, str]) -> str:
    """The whole file: a head, links to the sections, and the sections that are not empty."""
    shown = {name: body for name, body in sections.items() if body}
    anchor = {name: "".join(c if c.isalnum() else "-" for c in name.lower()) for name in shown}
    links = "".join(f'<a href="#{anchor[n]}">{escape(n)}</a>' for n in shown)
    body = "".join(f'<section id="{anchor[n]}"><h2>{escape(n)}</h2>{text}</section>' for n, text in shown.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>"
        f"<main><nav>{links}</nav>{body}</main></body></html>\n"
    )
