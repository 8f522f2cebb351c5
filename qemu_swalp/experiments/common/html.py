"""Results of any experiments as one HTML page that needs nothing else: tables, pictures, commands,
environments.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .report import RUNS, Row, read_lines, spread

STYLE = """
:root { color-scheme: light dark; --rule: #8888; --soft: #8882; --link: light-dark(#0b57d0, #8ab4f8); }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; } h2 { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
a { color: var(--link); } :focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip:not(:focus) { position: absolute; left: -100vw; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; white-space: nowrap; }
td.number { text-align: right; }
thead th { border-bottom: 2px solid var(--rule); } tbody tr:hover { background: var(--soft); }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; background: #fff; }
figcaption { font-size: .9rem; } details { margin: .6rem 0; } summary { cursor: pointer; }
pre, code { font: .875rem/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; background: var(--soft); padding: .7rem; }
@media print { details > * { display: block; } .skip { display: none; } }
"""


def read(places: Iterable[Path]) -> list[tuple[Path, Row]]:
    """(file, content) of each results.json: given as such, or found in a folder or anywhere below
    it.

    FileNotFoundError, ValueError where there is none, or it is no results.json of `qemu-swalp
    reproduce`.
    """
    found = []
    for place in places:
        files = sorted(place.rglob("results.json")) if place.is_dir() else [place]
        if not files or not files[0].is_file():
            raise FileNotFoundError(
                f"{place} holds no results.json; give the file, or the folder that "
                "`qemu-swalp reproduce --out` named"
            )
        for file in files:
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{file} is not a results.json: {error}") from error
            keys = {
                "experiment",
                "command",
                "settings",
                "environment",
                "seconds",
                "text",
                "summary",
            }
            if not isinstance(content, dict) or not keys <= set(content):
                raise ValueError(
                    f"{file} is not a results.json of this version, with {', '.join(sorted(keys))};"
                    " run `qemu-swalp reproduce` again"
                )
            found.append((file, content))
    return found


def page(results: Sequence[tuple[Path, Row]], title: str = "qemu-swalp: results") -> str:
    """The page of all results, in the order given."""
    names = [content["experiment"] for _, content in results]
    anchors = [f"result-{place}" for place in range(1, len(names) + 1)]
    contents = "".join(
        f'<li><a href="#{anchor}">{escape(name)}</a></li>'
        for anchor, name in zip(anchors, names, strict=True)
    )
    sections = "".join(
        _section(anchor, file, content)
        for anchor, (file, content) in zip(anchors, results, strict=True)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta'
        f' charset="utf-8"><title>{escape(title)}</title>\n<meta name="viewport"'
        f' content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n<body><a'
        ' class="skip" href="#main">Skip to the'
        f" results</a>\n<header><h1>{escape(title)}</h1><nav"
        f' aria-label="Experiments"><ul>{contents}</ul></nav></header>\n<main'
        f' id="main">{sections}</main></body></html>\n'
    )


def _section(anchor: str, file: Path, content: Row) -> str:
    name = str(content["experiment"])
    settings = {key: _written(value) for key, value in content["settings"].items()}
    environment = dict(content["environment"])
    environment |= environment.pop("versions", {})
    return "\n".join(
        [
            f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(name)}</h2>',
            (
                f"<p>Made by <code>{escape(content['command'])}</code> in"
                f" {content['seconds']:,.0f} s.</p>"
            ),
            _summary(name, content["summary"]),
            _picture(file.with_name(f"{name}.png"), name),
            _details("As printed", f"<pre>{escape(content['text'])}</pre>"),
            _details(
                "Settings", _table(f"Settings of {name}", ("setting", "value"), settings.items())
            ),
            _details(
                "Environment",
                _table(f"Environment of {name}", ("what", "which"), environment.items()),
            ),
            _runs(name, read_lines(file.with_name(RUNS))),
            "</section>",
        ]
    )


def _summary(name: str, rows: Sequence[Row]) -> str:
    """Every row of the summary; columns that are empty throughout are left out."""
    columns = [
        column
        for column in dict.fromkeys(key for row in rows for key in row)
        if column != "key" and any(row.get(column) not in (None, "") for row in rows)
    ]
    body = [[_cell(column, row.get(column)) for column in columns] for row in rows]
    return _table(f"Results of {name}: mean ± standard deviation over the seeds", columns, body)


def _runs(name: str, lines: Sequence[Row]) -> str:
    """Where and how each single run was made: it may have been another day, on another machine."""
    if not lines:
        return ""
    columns = ("kind", "word", "seed", "seconds", "device", "processor", "command")
    body = [
        [
            _written(line.get(column, line["environment"].get(column))) or "float32"
            for column in columns
        ]
        for line in lines
    ]
    return _details("Single runs", _table(f"Single runs of {name}", columns, body))


def _cell(column: str, value: Any) -> str:
    if not isinstance(value, dict):
        return _written(value)
    if value["mean"] is None or value["std"] is None:
        return "diverged"
    return spread(value, 2 if column == "test_error" else 4)


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_written, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _table(caption: str, header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """The first column names its line."""
    heads = "".join(
        f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in header
    )
    body = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        + "".join(_data(str(cell)) for cell in rest)
        + "</tr>"
        for first, *rest in lines
    )
    return (
        '<div class="wide" tabindex="0" role="region"'
        f' aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _data(cell: str) -> str:
    number = cell[:1].isdigit() or cell[:1] in ("(", "-")
    return (
        f'<td class="number">{escape(cell)}</td>'
        if number
        else f"<td>{escape(cell)}</td>"
    )


def _picture(file: Path, name: str) -> str:
    if not file.is_file():
        return f"<p>No picture: {escape(file.name)} is not beside the results.</p>"
    data = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="Curves of {escape(name)};'
        ' the final values are in the table above."><figcaption>Curves of'
        f" {escape(name)}.</figcaption></figure>"
    )


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"
