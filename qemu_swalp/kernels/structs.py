"""The structures of `src/common/*.h` that Python fills in, as ctypes lays them out."""

from __future__ import annotations

from ctypes import (
    Structure,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
)

MOST_AXES = 8


class Element(Structure):
    """A binade format in a source dtype."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in ("breakpoint", "ulp_exponent", "fraction", "table_first", "table_count")
        ),
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


class Top(Structure):
    """What amax is brought to."""

    _fields_ = [("exponent", c_int32), ("bits32", c_uint32), ("significand", c_uint64)]


class Scaling(Structure):
    """The scales of a block format."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in (
                "rule",
                "least_power",
                "greatest_power",
                "even_bits",
                "spoiled_from",
                "in_table",
                "top_count",
            )
        ),
        ("top", Top),
        ("tops", c_void_p),
        *((name, c_uint32) for name in ("scale_max32", "scale_least32", "full_range32")),
        ("scale", Element),
    ]


class SignView(Structure):
    """One sign's view of a table."""

    _fields_ = [
        *((name, c_void_p) for name in ("keys", "bits", "ulp_exponents", "starts", "divisors")),
        ("key_count", c_int32),
        ("not_positive", c_int32),
    ]


class TableIndex(Structure):
    """Where the values of a table are found by the leading bits of a magnitude."""

    _fields_ = [
        ("first", c_void_p),
        ("entries", c_void_p),
        ("shift", c_int32),
        ("levels", c_int32),
        ("low", c_int64),
        ("high", c_int64),
    ]


class TableSpacing(Structure):
    """Where the values of a table lie in each binade."""

    _fields_ = [
        ("binades", c_void_p),
        ("period", c_void_p),
        ("first", c_int32),
        ("count", c_int32),
        *((name, c_int64) for name in ("step", "least", "greatest")),
    ]


class Table(Structure):
    """A table format in a source dtype."""

    _fields_ = [
        ("thresholds", c_void_p),
        ("values", c_void_p),
        *((name, c_int32) for name in ("count", "random_bits", "has_negative_zero")),
        ("low", c_int64),
        ("high", c_int64),
        *((name, c_int32) for name in ("above", "below", "positive_infinity", "negative_infinity")),
        ("positive", SignView),
        ("negative", SignView),
        ("index", TableIndex),
        ("spacing", TableSpacing),
    ]


class Plan(Structure):
    """A format, a rounding and a policy in a source dtype."""

    _fields_ = [
        *((name, c_int32) for name in ("dtype", "family", "mode", "random_bits")),
        ("element", Element),
        ("element32", Element),
        ("scaling", Scaling),
        ("table", Table),
        ("table32", Table),
    ]


class Given(Structure):
    """Scales and zero points that the caller gives."""

    _fields_ = [
        ("scales", c_void_p),
        ("zero_points", c_void_p),
        ("scale_step", c_int64),
        ("zero_point_step", c_int64),
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


class QuantizeCall(Structure):
    """What the kernels of `cuda/quantize.cu` are called with."""

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


class ChunkedRounding(Structure):
    """How a tensor is rounded in chunks."""

    _fields_ = [
        *((name, c_void_p) for name in ("plan", "chunk", "last", "order")),
        ("random", Random),
    ]


class TensorRounding(Structure):
    """A tensor to round."""

    _fields_ = [
        ("dtype", c_int32),
        ("elements", c_int64),
        ("chunk_elements", c_int64),
        ("source", c_void_p),
        ("target", c_void_p),
        ("rounding", ChunkedRounding),
    ]


class SgdTensor(Structure):
    """One tensor's step of SGD."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in ("dtype", "nesterov", "maximize", "has_momentum", "has_decay", "stored")
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
            (f"{role}_rounding", ChunkedRounding)
            for role in ("gradient", "momentum", "accumulator", "weight")
        ),
    ]


class MatmulPlans(Structure):
    """How products, sums and totals are rounded."""

    _fields_ = [(name, c_void_p) for name in ("product", "sum", "total")]


class Matmul(Structure):
    """A product of matrices."""

    _fields_ = [
        *((name, c_int32) for name in ("dtype", "group", "chunk", "plain")),
        *((name, c_int64) for name in ("batches", "rows", "columns", "terms")),
        *((name, c_void_p) for name in ("first_a", "first_b", "a", "b", "out")),
        ("plans", MatmulPlans),
        ("random", Random),
        ("seed", c_uint32 * 2),
        ("stream", c_uint32 * 2),
    ]


class Span(Structure):
    """What the numbers of an array need."""

    _fields_ = [(name, c_uint32) for name in ("bits", "far", "most")]


class SpanCall(Structure):
    """What the kernel that looks at two arrays before their product is called with."""

    _fields_ = [("arrays", c_void_p * 2), ("counts", c_int64 * 2), ("spans", c_void_p)]


class MatmulCall(Structure):
    """What the kernel of `cuda/matmul.cu` is called with."""

    _fields_ = [
        ("matmul", Matmul),
        ("single", MatmulPlans),
        ("batches", Layout),
        ("spans", c_void_p),
        ("limit", c_int32),
    ]


class RoundManyCall(Structure):
    """What the kernel of `cuda/round_many.cu` is called with."""

    _fields_ = [("tensors", c_void_p), ("first_task", c_void_p), ("count", c_int32)]


class SgdCall(Structure):
    """What the kernel of `cuda/sgd.cu` is called with."""

    _fields_ = [
        ("tensors", c_void_p),
        ("first_task", c_void_p),
        ("count", c_int32),
        ("room", c_int64),
        ("waiting", c_void_p),
    ]


class StoredCall(Structure):
    """The first bytes of a call that programs of other libraries hold."""

    _fields_ = [
        ("layouts", c_uint64),
        *((name, c_int32) for name in ("random", "scales", "most_zero_point", "rank")),
        ("extents", c_int64 * MOST_AXES),
        ("least_scale", c_double),
        ("pointer_count", c_uint64),
        ("plan", Plan),
        ("scale_plan", Plan),
    ]


class LayoutEntry(Structure):
    """A row of the table of sizes and offsets that the library exports (`common/layouts.h`)."""

    _fields_ = [("name", c_char_p), ("value", c_int64)]
