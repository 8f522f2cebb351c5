"""Writes vectors/ from the oracle: `python spec/generate.py`.

With `--check` it writes nothing and names, for each file that differs, the first line that does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import oracle
from generator import (
    arithmetic_file,
    blocks_file,
    codes_file,
    ggml_file,
    given_file,
    policies_file,
    round_files,
    scaled_file,
    searches_file,
    stochastic_file,
    strings_file,
    sums_file,
    table,
    tables_file,
    variants_file,
)

VECTORS = Path(__file__).with_name("vectors")

# ------------------------------------------------------------------------------------------
# random bits

# Random123, tests/kat_vectors, its three lines "philox4x32 10": what the oracle must give, never
# what it gave.
KNOWN_ANSWERS = (
    "00000000,00000000,00000000,00000000 00000000,00000000 6627e8d5,e169c58d,bc57ac4c,9b00dbd8",
    "ffffffff,ffffffff,ffffffff,ffffffff ffffffff,ffffffff 408f276d,41c83b0e,a20bc7c6,6d5451fd",
    "243f6a88,85a308d3,13198a2e,03707344 a4093822,299f31d0 d16cfe09,94fdcceb,5001e420,24126ea1",
)
SEEDS = (0, 1, 0xFFFFFFFF, 2**32, 0x0123456789ABCDEF, 2**64 - 1)
ROLES = (
    "weight",
    "activation",
    "error",
    "gradient",
    "momentum",
    "accumulator",
    "average",
    "",
    "exp_avg_sq",
    "Größe",
)


def streams_file() -> str:
    """Keys of streams."""
    rows = (
        f"{seed} {stream} {','.join(f'{word:08x}' for word in oracle.stream_key(seed, stream))}"
        for seed, stream in product(SEEDS, SEEDS)
    )
    return table("RNG-2", "seed stream key; key is hexadecimal", rows)


def roles_file() -> str:
    """Ids of streams; the role comes last, since it may be empty."""
    rows = (
        f"{tensor} {oracle.stream_id(role, tensor)} {role}"
        for role in ROLES
        for tensor in (0, 1, 2**32 - 1)
    )
    return table("RNG-4", "tensor stream role; role is the rest of the line", rows)


def words_file() -> str:
    """Words of elements: the first of several streams, and the last of all."""
    places = list(zip(SEEDS, reversed(SEEDS), (0, 1, 2, 7, 2**31, 2**32 - 1), strict=True))
    indices = (*range(18), 2**16 + 3, 2**31 - 1, 2**31, 2**32, 2**33 + 5, 2**34 - 1)
    rows = (
        f"{seed} {stream} {step} {index} {oracle.element_word(seed, stream, step, index):08x}"
        for seed, stream, step in places
        for index in indices
    )
    return table("RNG-2 RNG-3", "seed stream step element word; word is hexadecimal", rows)


# ------------------------------------------------------------------------------------------
# the files

FILES: dict[str, Callable[[], str]] = {
    "round_variants.txt": variants_file,
    "policies.txt": policies_file,
    "stochastic.txt": stochastic_file,
    "blocks.txt": blocks_file,
    "scaled.txt": scaled_file,
    "scaled_tables.txt": tables_file,
    "scaled_searches.txt": searches_file,
    "scaled_ggml.txt": ggml_file,
    "scaled_given.txt": given_file,
    "sums.txt": sums_file,
    "arithmetic.txt": arithmetic_file,
    "codes.txt": codes_file,
    "strings.txt": strings_file,
    "philox.txt": lambda: table("RNG-1", "counter key words; all hexadecimal", KNOWN_ANSWERS),
    "streams.txt": streams_file,
    "roles.txt": roles_file,
    "words.txt": words_file,
}


def vectors() -> dict[str, bytes]:
    """Every file of vectors/, by name."""
    named = {name: write() for name, write in FILES.items()}
    return {name: content.encode() for name, content in {**dict(round_files()), **named}.items()}


def difference(name: str, expected: bytes) -> str | None:
    """What is wrong with a file as it stands, or None."""
    path = VECTORS / name
    if not path.exists():
        return f"{name}: missing"
    if path.read_bytes() == expected:
        return None
    found, wanted = path.read_bytes().split(b"\n"), expected.split(b"\n")
    pairs = enumerate(zip(found, wanted, strict=False))
    line = next((i for i, (a, b) in pairs if a != b), min(len(found), len(wanted)))
    there, here = (
        lines[line].decode() if line < len(lines) else "nothing" for lines in (found, wanted)
    )
    return f"{name}: line {line + 1} is {there!r}, the oracle says {here!r}"


def check(expected: dict[str, bytes]) -> list[str]:
    """Every disagreement between vectors/ and the oracle."""
    strays = sorted({path.name for path in VECTORS.glob("*")} - set(expected))
    unknown = [f"{name}: not a file of the generator" for name in strays]
    return unknown + [
        problem for name, content in expected.items() if (problem := difference(name, content))
    ]


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="compare vectors/ with the oracle and write nothing"
    )
    checking = parser.parse_args().check
    expected = vectors()
    if checking:
        problems = check(expected)
        print(
            "\n".join(problems) or "vectors/ is what the oracle says",
            file=sys.stderr if problems else sys.stdout,
        )
        return 1 if problems else 0
    VECTORS.mkdir(exist_ok=True)
    for name, content in expected.items():
        (VECTORS / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
