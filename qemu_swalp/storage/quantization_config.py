"""What config.json beside a checkpoint says of its quantization."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def quantization_config(path: Path) -> dict[str, Any]:
    """The part of config.json beside a checkpoint that readers ask; {} without one.

    Raises ValueError if the file is damaged, or if an entry that is asked is of another kind.
    """
    config = (path if path.is_dir() else path.parent) / "config.json"
    if not config.is_file():
        return {}
    content = json_object(config)
    found = content.get("quantization_config") or content.get("compression_config") or {}
    _check(config, "quantization_config", found, *_OBJECT)
    for name, (fits, expected) in _ENTRIES.items():
        _check(config, name, found.get(name), fits, expected)
    for group, said in (found.get("config_groups") or {}).items():
        if isinstance(said, list):
            continue  # the targets of a scheme that goes by its name
        _check(config, f"config_groups.{group}", said, *_OBJECT)
        weights = (said or {}).get("weights")
        _check(config, f"config_groups.{group}.weights", weights, *_OBJECT)
        for name, (fits, expected) in _OF_WEIGHTS.items():
            value = (weights or {}).get(name)
            _check(config, f"config_groups.{group}.weights.{name}", value, fits, expected)
    return dict(found)


def weights_said(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What compressed-tensors' groups say of weights."""
    groups = (config.get("config_groups") or {}).values()
    return [group.get("weights") or {} for group in groups if isinstance(group, Mapping)]


def json_object(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object. ValueError, with the path, for another."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_tile(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


_OBJECT = (lambda value: isinstance(value, dict), "an object")
_COUNT = (_is_count, "a number of bits")
_TILE = (_is_tile, "two lengths, as in [128, 128]")
_ENTRIES: dict[str, tuple[Callable[[object], bool], str]] = {
    "config_groups": _OBJECT,
    "weight_block_size": _TILE,
    "bits": _COUNT,
    "w_bit": _COUNT,
}
_OF_WEIGHTS: dict[str, tuple[Callable[[object], bool], str]] = {
    "block_structure": _TILE,
    "num_bits": _COUNT,
}
"""Entry → whether a value is of its kind, and the words for it. None stands for no entry."""


def _check(
    path: Path, name: str, value: object, fits: Callable[[object], bool], expected: str
) -> None:
    if value is not None and not fits(value):
        raise ValueError(f"{path}: {name} must be {expected}, got {value!r}")
