"""What the site shows beside the pages: texts of the repository, generated tables and pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import notebooks
import tables
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
TEXTS = {
    "semantics.md": "spec/semantics.md",
    "architecture.md": "spec/architecture.md",
    "designing-a-format.md": "spec/designing-a-format.md",
    "contributing.md": "CONTRIBUTING.md",
}
"""Page of the site → file of the repository that it shows."""
MARKER = re.compile(r"^<!-- generated: (\S+)((?: \S+)*) -->$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the texts of the repository, and the pages of the notebooks."""
    for page, source in TEXTS.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        for other, shown in TEXTS.items():
            text = text.replace(f"]({shown})", f"]({other})")
        files.append(File.generated(config, page, content=text))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        markdown, pictures = notebooks.page_of(Path(file.abs_src_path))
        folder = file.src_uri.rpartition("/")[0]
        added = {f"{Path(file.name).stem}.md": markdown.encode(), **pictures}
        for name, content in added.items():
            files.append(File.generated(config, f"{folder}/{name}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put tables where a page has `<!-- generated: NAME ARGUMENTS -->`."""
    return MARKER.sub(lambda m: tables.GENERATED[m[1]](*m[2].split()), markdown)
