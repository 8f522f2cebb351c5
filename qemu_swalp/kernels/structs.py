"""The structures of `src/*.h` that Python fills in, as ctypes lays them out."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p

MOST_AXES = 8


class Element(Structure):
    """A binade format in a carrier."""

    _fields_ = [
        *((name, c_int32) for name in ("knee", "floor", "fraction", "table_first", "table_count")),
        ("table", c_void_p),
        *(
            (name, c_int32)
            for name in (
                "max_exponent",
                "min_exponent",
                "least_exponent",
                "is_signed",
                "has_zero",
                "has_negative_zero",
            )
        ),
        ("max_significand", c_uint64),
        ("min_significand", c_uint64),
        *(
            (name, c_int32)
            for name in (
                "above",
                "below",
                "positive_infinity",
                "negative_infinity",
                "zero",
                "random_bits",
            )
        ),
    ]


class Scaling(Structure):
    """The scales of a block format."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in ("rule", "least_power", "greatest_power", "even_bits", "spoiled_from")
        ),
        *(
            (name, c_uint32)
            for name in ("element_max32", "scale_max32", "scale_least32", "full_range32")
        ),
        ("scale", Element),
    ]


class Frame(Structure):
    """One sign's view of a table."""

    _fields_ = [
        *((name, c_void_p) for name in ("keys", "bits", "ulp_exponents", "starts", "divisors")),
        ("key_count", c_int32),
        ("not_positive", c_int32),
    ]


class Table(Structure):
    """A table format in a carrier."""

    _fields_ = [
        ("steps", c_void_p),
        ("values", c_void_p),
        *((name, c_int32) for name in ("count", "random_bits", "has_negative_zero")),
        ("low", c_int64),
        ("high", c_int64),
        *((name, c_int32) for name in ("above", "below", "positive_infinity", "negative_infinity")),
        ("positive", Frame),
        ("negative", Frame),
    ]


class Plan(Structure):
    """A format, a rounding and a policy in a carrier."""

    _fields_ = [
        *((name, c_int32) for name in ("dtype", "family", "mode", "random_bits")),
        ("element", Element),
        ("element32", Element),
        ("scaling", Scaling),
        ("table", Table),
    ]


class Layout(Structure):
    """Two arrays of one shape, and the shape of their blocks."""

    _fields_ = [
        ("axes", c_int32),
        *(
            (name, c_int64 * MOST_AXES)
            for name in ("lengths", "extents", "source_strides", "target_strides")
        ),
    ]


class Random(Structure):
    """Which random words."""

    _fields_ = [
        ("words", c_void_p),
        ("step_at", c_void_p),
        ("offset", c_uint64),
        ("step", c_uint32),
        ("key", c_uint32 * 2),
    ]


class Counts(Structure):
    """How many block rows there are, of what size."""

    _fields_ = [
        (name, c_int64) for name in ("columns", "segment", "segments", "count", "most_rows")
    ]


class Call(Structure):
    """What a kernel on a GPU is called with."""

    _fields_ = [
        ("plan", Plan),
        ("layout", Layout),
        ("counts", Counts),
        ("random", Random),
        *((name, c_void_p) for name in ("source", "target", "extremes", "whole")),
        ("row_step", c_int64),
        ("column_step", c_int64),
        *((name, c_uint64) for name in ("row_parts", "column_parts", "windows")),
        ("width", c_int32),
    ]


class Role(Structure):
    """How a role is rounded in chunks."""

    _fields_ = [("plan", c_void_p), ("chunk", c_void_p), ("last", c_void_p), ("random", Random)]


class Sgd(Structure):
    """One tensor's step of SGD."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in ("dtype", "nesterov", "maximize", "has_momentum", "has_decay")
        ),
        ("elements", c_int64),
        ("chunk_elements", c_int64),
        *((name, c_double) for name in ("learning_rate", "momentum", "gain", "weight_decay")),
        *(
            (name, c_void_p)
            for name in (
                "gradient",
                "weight",
                "velocity",
                "accumulator",
                "new_weight",
                "new_velocity",
                "new_accumulator",
            )
        ),
        *(
            (name, Role)
            for name in ("gradient_role", "momentum_role", "accumulator_role", "weight_role")
        ),
    ]


class Plans(Structure):
    """How the roundings of a product of matrices go."""

    _fields_ = [(name, c_void_p) for name in ("product", "sum", "total")]


class Products(Structure):
    """A product of matrices."""

    _fields_ = [
        *((name, c_int32) for name in ("dtype", "group", "chunk")),
        *((name, c_int64) for name in ("batches", "rows", "columns", "terms")),
        *((name, c_void_p) for name in ("first_a", "first_b", "a", "b", "out")),
        ("plans", Plans),
        ("random", Random),
        ("seed", c_uint32 * 2),
        ("stream", c_uint32 * 2),
    ]


class SpanCall(Structure):
    """What the kernel that looks at two arrays before their product is called with."""

    _fields_ = [("arrays", c_void_p * 2), ("counts", c_int64 * 2), ("spans", c_void_p)]


class ProductsCall(Structure):
    """What the kernel of products on a GPU is called with."""

    _fields_ = [("products", Products), ("single", Plans), ("spans", c_void_p), ("limit", c_int32)]


class SgdCall(Structure):
    """What the kernel of many steps on a GPU is called with."""

    _fields_ = [("tensors", c_void_p), ("first_task", c_void_p), ("count", c_int32)]


PlanPointer, LayoutPointer, RandomPointer = POINTER(Plan), POINTER(Layout), POINTER(Random)
