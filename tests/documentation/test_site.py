"""The site builds strictly and without the network; it shows all public names and presets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import qemu_swalp_torch

import qemu_swalp as q
from qemu_swalp import training
from tests.helpers import prose

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "spec" / "docs" / "mkdocs.yml"
FETCHED = re.compile(r'<(?:script|img|iframe|source)[^>]*\ssrc="(?:https?:)?//|url\((?:https?:)?//')
STYLES = re.compile(r'<link[^>]*rel="(?:stylesheet|preconnect|preload)"[^>]*href="(?:https?:)?//')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `mkdocs build --strict` makes it: broken links and anchors fail."""
    folder = tmp_path_factory.mktemp("site")
    command = ["mkdocs", "build", "--strict", "-q", "-f", str(CONFIG), "-d", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[:2000]
    return folder


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    pages = [page for page in site.rglob("*") if page.suffix in (".html", ".css")]
    assert len(pages) > 20
    assert [p for p in pages if FETCHED.search(text(p)) or STYLES.search(text(p))] == []


def test_no_marker_is_left(site: Path) -> None:
    assert [page for page in site.rglob("*.html") if "generated: " in text(page)] == []


def test_no_sentence_is_too_long(site: Path) -> None:
    """The specification, notebooks and the reference, which docstrings make, included."""
    pages = {str(p.parent.relative_to(site)): text(p) for p in site.rglob("index.html")}
    found = {name: prose.of_html(page, "article") for name, page in pages.items()}
    assert sum(map(len, found.values())) > 1000
    assert [(name, s) for name, page in found.items() for s in prose.long_sentences(page)] == []


@pytest.mark.parametrize(
    ("page", "module"), [("core", q), ("training", training), ("torch", qemu_swalp_torch)]
)
def test_the_reference_has_every_public_name(site: Path, page: str, module: Any) -> None:
    reference = text(site / "api" / page / "index.html")
    names = [f"{module.__name__}.{name}" for name in module.__all__]
    assert [name for name in names if f'id="{name}"' not in reference] == []


def test_the_reference_has_every_public_name_of_keras(site: Path) -> None:
    """Which is not imported here, since this process may have chosen a backend."""
    source = text(ROOT / "adapters" / "qemu_swalp_keras" / "__init__.py")
    names = re.findall(r'"(\w+)",', source.partition("__all__")[2])
    reference = text(site / "api" / "keras" / "index.html")
    assert len(names) > 10
    assert [name for name in names if f'id="qemu_swalp_keras.{name}"' not in reference] == []


def test_tables_have_every_format_and_preset(site: Path) -> None:
    formats, recipes = text(site / "formats" / "index.html"), text(site / "recipes" / "index.html")
    assert [name for name in q.formats.names() if f"<code>{name}</code>" not in formats] == []
    assert [name for name in training.recipe_names() if f'id="{name}"' not in recipes] == []
