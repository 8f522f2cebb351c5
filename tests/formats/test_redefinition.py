"""A format class that is declared again, as by a notebook cell that is run again."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp.formats.base import define_family
from qemu_swalp.training import Recipe

X = np.float32([2.9, 5.0, 30.0])


def declare(base: int, **kwargs: bool) -> type[q.Format]:
    """The powers of a base."""

    @dataclasses.dataclass(frozen=True, **kwargs)
    class Powers(q.TableFormat, family="powers_test"):
        count: int

        @property
        def table(self) -> list[float]:
            return [0.0, *(float(base) ** k for k in range(self.count))]

    return Powers


def declare_grid(bits: int) -> type[q.Format]:
    @dataclasses.dataclass(frozen=True)
    class Grid(q.BinadeFormat, family="grid_test"):
        max = 8.0

        def quantum(self, binade, xp):  # type: ignore[no-untyped-def]
            return xp.maximum(binade - bits, -8)

    return Grid


READERS: dict[str, Callable[[str], object]] = {
    "parse": lambda text: q.quantize(X, q.parse(text)).tolist(),
    "quantize": lambda text: q.quantize(X, text).tolist(),
    "encode": lambda text: q.encode(X, text, "nearest_even").tolist(),
    "decode": lambda text: q.decode(np.uint8([1, 2, 3]), text).tolist(),
    "quantizer": lambda text: q.Quantizer(f"{text}/nearest_even")(X).tolist(),
    "accumulation": lambda text: (
        q.Accumulation.parse(f"{text}/nearest_even; group=2").sum(X).tolist()
    ),
    "recipe": lambda text: Recipe(weight=f"{text}/nearest_even").weight(X).tolist(),
    "elementwise": lambda text: q.add(X, X, f"{text}/nearest_even").tolist(),
    "analysis": lambda text: q.analyze(X, text).error,
}


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("reader", READERS)
def test_strings_have_the_new_numbers(
    reader: str, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qemu_swalp.kernels._enabled", kernels)
    results = []
    for base in (2, 3):
        declare(base)
        results.append(READERS[reader]("powers_test<5>"))
    assert results[0] != results[1]
    declare(2)
    assert READERS[reader]("powers_test<5>") == results[0]


def test_torch_adapter_has_the_new_numbers() -> None:
    torch = pytest.importorskip("torch")
    from qemu_swalp_torch import quantize

    results = []
    for base in (2, 3):
        declare(base)
        results.append(quantize(torch.tensor(X), "powers_test<5>").tolist())
    assert results == [[2.0, 4.0, 16.0], [3.0, 3.0, 27.0]]


def test_formats_within_formats_have_the_new_numbers() -> None:
    results = []
    for bits in (1, 4):
        declare_grid(bits)
        results.append(q.quantize(X / 64, "block<grid_test<>,axis=-1,size=2,scale=bf16>").tolist())
    assert results[0] != results[1]


def test_two_classes_of_one_family_differ() -> None:
    old, new = declare(2)(5), declare(3)(5)
    assert old != new
    assert q.parse("powers_test<5>") == new
    assert not old.is_current
    assert new.is_current
    assert q.quantize(X, old).tolist() != q.quantize(X, new).tolist()


def test_registered_names_follow_and_may_be_given_again() -> None:
    try:
        q.register("my_powers_test", declare(2)(5))
        new = declare(3)(5)
        assert q.parse("my_powers_test") == new
        assert q.register("my_powers_test", new) == new
        with pytest.raises(ValueError, match=r"choose another, or unregister\('my_powers_test'\)"):
            q.register("my_powers_test", "e4m3fn")
    finally:
        q.unregister("my_powers_test")


def test_a_dataclass_with_slots_is_the_class_that_strings_give() -> None:
    made = declare(2, slots=True)
    assert type(q.parse("powers_test<5>")) is made


def test_built_in_families_cannot_be_taken() -> None:
    with pytest.raises(ValueError, match="family 'float' is built in; choose another name"):

        class Mine(q.TableFormat, family="float"):
            pass

    with pytest.raises(ValueError, match="'bfp' is built in"):
        define_family("bfp", declare(2))
    assert str(q.parse("float<4,3>")) == "e4m3"
    assert "qemu_swalp.formats.floating" in sys.modules
