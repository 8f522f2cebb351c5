"""Every example of the README and of the site runs, and the prose is readable."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import pages, prose

ROOT = Path(__file__).parents[2]
SITE = ROOT / "spec" / "docs" / "pages"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(SITE.rglob("*.md"))]
WITH_EXAMPLES = [
    page
    for page in (*PAGES, ROOT / "spec" / "designing-a-format.md")
    if pages.examples(page.read_text(encoding="utf-8"))
]


def short_name(page: Path) -> str:
    return str(page.relative_to(SITE if page.is_relative_to(SITE) else ROOT))


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=short_name)
def test_examples(page: Path, tmp_path: Path) -> None:
    (tmp_path / "spec").symlink_to(ROOT / "spec")
    places = [str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.pages", str(page)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_sentence_of_the_readme_is_too_long() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert prose.long_sentences(prose.of_markdown(text)) == []


def test_the_check_of_prose() -> None:
    assert doctest.testmod(prose).failed == 0


def test_readme_fits() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8192


def test_readme_names_the_commands_that_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in ('pip install --editable ".[test]"', "python -m tests"):
        assert command in readme
        assert command.removeprefix("pip install ") in ci
