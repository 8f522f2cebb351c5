"""What `--help` prints: it fits a terminal, and its sentences are short."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from qemu_swalp.cli import parser
from tests.helpers import prose


def parsers(top: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser, those of its commands, and those of theirs."""
    yield top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


ALL = {each.prog: each for each in parsers(parser())}


def test_every_command_and_experiment_is_among_them() -> None:
    assert {"qemu-swalp", "qemu-swalp show", "qemu-swalp reproduce digits"} <= set(ALL)
    assert len(ALL) > 20


@pytest.mark.parametrize("columns", [80, 100])
def test_help_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = [(name, line) for name, each in ALL.items() for line in each.format_help().split("\n")]
    assert [(name, line) for name, line in lines if len(line) > columns] == []


@pytest.mark.parametrize("name", ALL)
def test_no_sentence_of_the_help_is_too_long(name: str) -> None:
    helps = [action.help for action in ALL[name]._actions]
    texts = filter(None, (ALL[name].description, ALL[name].epilog, *helps))
    paragraphs = [p for text in texts for p in prose.of_markdown(text.replace("%%", "%"))]
    assert prose.long_sentences(paragraphs) == []


def test_commands_stand_beside_what_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = ALL["qemu-swalp"].format_help()
    assert "\n  dequantize  the values of" in text
    assert text.count("COMMAND") == 2  # the usage, and how to ask for more
