"""How the sums of a matrix product are rounded (clauses SUM of `spec/semantics.md`)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

from .._util.checks import check_int
from ..formats import Format
from ..formats.base import forget_on_redefinition
from ..reference.accumulation import AccumulationTargets
from ..reference.context import element_of
from .quantizer import Quantizer

PRECISION = 51
"""Most significant bits of a sum (clause SUM-4)."""
MOST_TERMS = 2**31 - 1


@dataclass(frozen=True)
class Accumulation:
    """How a·b is accumulated where the adder is narrow: each partial sum is rounded once, from its
    exact value.

    Written as its sum, then what else there is, as in "float<6,9>/nearest_even; chunk=64" (clause
    STR-3).

    Parameters
    ----------
    sum : quantizer of the running sum, of an element format: a Quantizer or a `FORMAT/ROUNDING`
        string.
    product : quantizer of each product before it is added; None adds exact products, as fused
        multiply-add does.
    group : number of products that are added between roundings, as in units that add several at
        once. Default: 1.
    chunk : number of products in each partial sum that is added to a total (Wang et al. 2018, arXiv
        1812.08011); a multiple of `group`. None: all of them, without a total.
    total : quantizer of the total; the sum's by default.

    Raises
    ------
    TypeError: if a quantizer is not a Quantizer, a format or a string.
    ValueError: if a format is a block format or has more than 51 significant bits, if `chunk` is
        not a multiple of `group`, or if there is a total without chunks.

    >>> str(Accumulation("fp16/nearest_even", chunk=64))
    'fp16/nearest_even; chunk=64'
    >>> Accumulation.parse("float<8,13>/toward_zero; chunk=128; total=tf32/nearest_even").chunk
    128
    """

    sum: Quantizer
    product: Quantizer | None
    group: int
    chunk: int | None
    total: Quantizer | None

    def __init__(
        self,
        sum: Quantizer | Format | str,
        product: Quantizer | Format | str | None = None,
        group: int = 1,
        chunk: int | None = None,
        total: Quantizer | Format | str | None = None,
    ) -> None:
        check_int("group", group, 1, MOST_TERMS)
        if chunk is not None:
            check_int("chunk", chunk, 1, MOST_TERMS)
            if chunk % group:
                raise ValueError(f"chunk must be a multiple of group={group}, got {chunk}")
        elif total is not None:
            raise ValueError(
                f"total={total} needs chunk=, the number of products in each sum that is added"
                " to it"
            )
        for name, quantized in (("sum", sum), ("product", product), ("total", total)):
            quantizer = None if quantized is None else Quantizer.parse(quantized)
            if quantizer is not None:
                check_element(name, quantizer)
            object.__setattr__(self, name, quantizer)
        object.__setattr__(self, "group", group)
        object.__setattr__(self, "chunk", chunk)

    @property
    def of_chunks(self) -> Quantizer | None:
        """The quantizer of the total; None without chunks."""
        return None if self.chunk is None else self.total or self.sum

    @property
    def stochastic(self) -> bool:
        """Whether a product needs random bits."""
        return any(
            q.rounding.stochastic for q in (self.sum, self.product, self.total) if q is not None
        )

    def parts(self) -> list[tuple[str, Quantizer]]:
        """Its quantizers, each after what is to be added to the name of the sum in a table."""
        counts = ", ".join(
            f"{name}={count}"
            for name, count in (("group", self.group), ("chunk", self.chunk))
            if count not in (1, None)
        )
        named = (("", self.sum), (" of products", self.product), (" of chunks", self.of_chunks))
        return [
            (f"{name} ({counts})" if counts and not name else name, q)
            for name, q in named
            if q is not None
        ]

    @property
    def targets(self) -> AccumulationTargets:
        """What it rounds to, for the functions that compute."""
        product, total = (None if q is None else q.target for q in (self.product, self.of_chunks))
        return AccumulationTargets(product, self.sum.target, total, self.group, self.chunk)

    def __str__(self) -> str:
        """As `parse` reads it."""
        further = {
            "product": self.product,
            "group": self.group if self.group > 1 else None,
            "chunk": self.chunk,
            "total": self.total,
        }
        return "; ".join(
            [
                str(self.sum),
                *(f"{name}={value}" for name, value in further.items() if value is not None),
            ]
        )

    @staticmethod
    def parse(accumulation: Accumulation | Quantizer | Format | str) -> Accumulation:
        """From an accumulation, its string, or the quantizer of its sum alone."""
        if isinstance(accumulation, str):
            return _parsed(accumulation)
        if isinstance(accumulation, Accumulation):
            return accumulation
        return Accumulation(accumulation)


@forget_on_redefinition
@lru_cache(maxsize=256)
def _parsed(text: str) -> Accumulation:
    first, *further = (part.strip() for part in text.split(";"))
    known = [field.name for field in fields(Accumulation)][1:]
    options: dict[str, str] = {}
    for part in further:
        name, is_there, value = part.partition("=")
        if not is_there or name not in known or name in options:
            raise ValueError(
                f"after its sum an accumulation may have {', '.join(f'{name}=' for name in known)}"
                f" once each, set apart by semicolons; got {part!r} in {text!r}"
            )
        if name in ("group", "chunk") and not value.isdecimal():
            raise ValueError(f"{name} must be a number of products, got {value!r} in {text!r}")
        options[name] = value
    numbers = {name: int(options.pop(name)) for name in ("group", "chunk") if name in options}
    return Accumulation(first, **options, **numbers)  # type: ignore[arg-type]


def check_element(name: str, quantizer: Quantizer) -> None:
    """ValueError unless it is of an element format that clause SUM-1 admits."""
    element = element_of(quantizer.format)
    if element is not quantizer.format:
        raise ValueError(
            f"{name} must be of an element format, whose values do not depend on their neighbours,"
            f" got {quantizer.format}"
        )
    if name != "product" and element.precision > PRECISION:
        raise ValueError(
            f"{name} may have up to {PRECISION} significant bits, got {quantizer.format} with "
            f"{element.precision}; leave it out to compute in the arrays' own dtype"
        )
