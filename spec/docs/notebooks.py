"""Pages of the site from notebooks: their text, code and outputs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple


class Page(NamedTuple):
    """Markdown, and the pictures that it shows: file name → content."""

    markdown: str
    pictures: dict[str, bytes]


def page_of(notebook: Path) -> Page:
    """The page that shows a notebook as it was run."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for number, cell in enumerate(content["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            parts.append(_output(output, f"{notebook.stem}-{number}", pictures))
    run = f'[Download the notebook]({notebook.name}){{ download="{notebook.name}" }}'
    return Page("\n\n".join([*parts, run]) + "\n", pictures)


def _output(output: dict[str, Any], name: str, pictures: dict[str, bytes]) -> str:
    data = output.get("data", {})
    if "image/svg+xml" in data:
        pictures[f"{name}.svg"] = "".join(data["image/svg+xml"]).encode()
        return f"![What the cell above draws]({name}.svg){{ .drawn }}"
    if "image/png" in data:
        pictures[f"{name}.png"] = base64.b64decode("".join(data["image/png"]))
        return f"![What the cell above draws]({name}.png){{ .drawn }}"
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```"
