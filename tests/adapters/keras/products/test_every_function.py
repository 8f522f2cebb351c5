"""Every function of keras.ops has a class: its products are rounded, it is told by name, it is a
loop or a branch of what the caller gives, or it makes no product.
"""

import contextlib
import inspect
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import UncoveredError, _compat, quantize_elementwise, quantize_gemms
from qemu_swalp_keras.calls import unknown
from qemu_swalp_keras.products.axes import AXES
from qemu_swalp_keras.products.composed import COMPOSED

from qemu_swalp import quantize
from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, normal, numpy, same
from tests.helpers.keras_products import watched
from tests.helpers.keras_training import gradients

ROUNDED = {"einsum", "conv", "depthwise_conv", "conv_transpose"}
ROUNDED |= {name.rpartition(".")[2] for name in (*AXES, *COMPOSED)}
TOLD = {name.rpartition(".")[2] for name in (*unknown.PRODUCTS, *unknown.MADE)}
OF_FUNCTIONS = {"scan", "map", "fori_loop", "while_loop", "vectorized_map", "associative_scan"}
OF_FUNCTIONS |= {"cond", "switch"}
_NAMES = """
abs absolute adaptive_average_pool adaptive_max_pool add affine_transform all allclose amax amin
angle any append arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin
argpartition argsort array array_split average average_pool bartlett batch_normalization
binary_crossentropy bincount bitwise_and bitwise_invert bitwise_left_shift bitwise_not
bitwise_or bitwise_right_shift bitwise_xor blackman broadcast_to cast categorical_crossentropy
cbrt cdist ceil celu clip concatenate conj conjugate convert_to_numpy convert_to_tensor copy cos
cosh count_nonzero crop_images cross ctc_decode cumprod cumsum deg2rad depth_to_space diag
diagflat diagonal diff digitize divide divide_no_nan dsplit dstack dtype elu empty empty_like
equal erf erfc erfinv exp exp2 expand_dims expm1 extract_patches extract_patches_3d
extract_sequences eye fabs flip fliplr flipud floor floor_divide fmax fmin fmod fold full
full_like gcd gelu geomspace get_item glu greater greater_equal hamming hanning hard_shrink
hard_sigmoid hard_silu hard_swish hard_tanh heaviside histogram hsplit hstack hsv_to_rgb hypot
i0 identity imag in_top_k is_tensor isclose isfinite isin isinf isnan isneginf isposinf isreal
kaiser layer_normalization lcm ldexp leaky_relu left_shift less less_equal linspace log log10
log1p log2 log_sigmoid log_softmax logaddexp logaddexp2 logical_and logical_not logical_or
logical_xor logspace logsumexp map_coordinates max max_pool maximum mean median meshgrid min
minimum mod moments moveaxis multi_hot multiply nan_to_num nanargmax nanargmin nancumprod
nancumsum nanmax nanmean nanmedian nanmin nanpercentile nanprod nanquantile nanstd nansum nanvar
ndim negative nextafter nonzero norm normalize not_equal one_hot ones ones_like pad pad_images
percentile perspective_transform polar power prod psnr ptp quantile rad2deg ravel real rearrange
reciprocal relu relu6 repeat reshape resize rgb_to_hsv right_shift rms_normalization roll rot90
round rsqrt saturate_cast scale_and_translate scatter scatter_update searchsorted segment_max
segment_min segment_prod segment_sum select selu shape sigmoid sign signbit silu sin sinc sinh
size slice slice_update soft_shrink softmax softplus softsign sort space_to_depth
sparse_categorical_crossentropy sparse_plus sparse_sigmoid sparsemax split sqrt square
squareplus squeeze ssim stack std stop_gradient subtract sum swapaxes swish take take_along_axis
tan tanh tanh_shrink threshold tile top_k trace transpose trapezoid tri tril triu true_divide
trunc unfold unique unravel_index unstack vander var view view_as_complex view_as_real vsplit
vstack where zeros zeros_like
"""
WITHOUT = set(_NAMES.split())
EXACT = {name.rpartition(".")[2] for name in (*unknown.INTERPOLATIONS, *unknown.SELECTIONS)}
EXACT |= {"extract_patches", "extract_patches_3d"}
RECIPE = Recipe(operands=dict.fromkeys(("input", "weight", "error"), "fixed<8,4>"))


def functions():
    homes = (ops, ops.image, ops.linalg, ops.nn)
    found = {name: getattr(home, name) for home in homes for name in dir(home)}
    return {n: f for n, f in found.items() if callable(f) and not n.startswith("_")}


def test_each_is_classed():
    classes = [ROUNDED, TOLD, OF_FUNCTIONS, WITHOUT]
    assert set(functions()) == set.union(*classes)
    assert sum(map(len, classes)) == len(functions())


def tried():
    """Arguments, some of which a function takes."""
    x = ops.convert_to_tensor(np.eye(3, dtype="float32") * 3 + np.abs(normal((3, 3), 1)))
    images = ops.convert_to_tensor(normal((2, 4, 4, 3), 2))
    whole = ops.convert_to_tensor(np.int32([0, 1, 1]))
    return [(x,), (x, x), (images,), (x, 1), (x, whole), (images, 2), (x, x, x), (whole, whole)]


def seen_products(function, args):
    """Of the forward and of the backward pass."""
    given = [x for x in args if ops.is_tensor(x) and "float" in str(x.dtype)]

    def total(*tensors):
        held = iter(tensors)
        y = function(*(next(held) if any(x is t for t in given) else x for x in args))
        parts = [p for p in keras.tree.flatten(y) if "float" in str(getattr(p, "dtype", ""))]
        return sum((ops.sum(p) for p in parts), ops.zeros(()))

    seen = []
    if BACKEND == "jax":
        import jax

        program = jax.make_jaxpr(jax.grad(total, range(len(given))))(*given)
        seen = _compat.operations_in_program(program)
        return [s.operation for s in seen if s.section == "products"]
    with _compat.dispatched_operations(seen.append):
        if BACKEND == "torch":
            leaves = [x.detach().clone().requires_grad_() for x in given]
            loss = total(*leaves)
            if loss.requires_grad:
                loss.backward()
        else:
            import tensorflow as tf

            with tf.GradientTape() as tape:
                for x in given:
                    tape.watch(x)
                loss = total(*given)
            tape.gradient(loss, given)
    return [s.operation for s in seen if s.section == "products"]


SEQUENCES = ([0.25, 0.5, 1.0], (0.25, 0.5, 1.0))
AXIS = np.int64(1)


def variants(function):
    """Options by which a function may compute something else."""
    x = tried()[0][0]
    values = {
        "ord": (1, -1, 2, -2, "nuc", float("inf")),
        "weights": (x, x[0], *SEQUENCES),
        "axis": (0, (0, 1), np.int64(1)),
    }
    names = set(values) & set(inspect.signature(function).parameters)
    single = [{name: value} for name in sorted(names) for value in values[name]]
    rows = (x[0], *SEQUENCES, np.float32(SEQUENCES[0])) if "weights" in names else ()
    return [{}, *single, *({"weights": row, "axis": axis} for row in rows for axis in (1, AXIS))]


def test_what_is_said_to_make_no_product_makes_none():
    found, names = {}, functions()
    for name in WITHOUT - EXACT:
        for args in tried():
            try:
                products = seen_products(names[name], args)
            except Exception:  # which arguments it takes is not known
                continue
            for options in variants(names[name])[1:]:
                with contextlib.suppress(Exception):
                    products += seen_products(partial(names[name], **options), args)
            if products:
                found[name] = products
            break
    assert set(found) <= {name.rpartition(".")[2] for name in unknown.SOMETIMES}, found


@pytest.mark.parametrize("name", unknown.SOMETIMES)
def test_what_makes_products_of_some_arguments_tells_so(name):
    function, (x,) = functions()[name.rpartition(".")[2]], tried()[0]
    told = {}
    for options in variants(function):
        try:
            products = seen_products(partial(function, **options), (x,))
        except Exception:
            continue
        layer = quantize_gemms(Calling(partial(function, **options)), RECIPE)
        key = str({k: v.shape if hasattr(v, "shape") else v for k, v in options.items()})
        told[key] = 0
        for _ in range(2):
            try:
                same(layer(x), function(x, **options))
            except UncoveredError as error:
                assert f"'{name}'" in str(error)  # noqa: PT017
                told[key] += 1
        assert told[key] == 2 or not products, key
    assert set(told.values()) == {0, 2}


class Calling(layers.Layer):
    def __init__(self, function):
        super().__init__(name="own")
        self.function = function

    def call(self, x):
        return self.function(x)


def squares(x):
    return ops.custom_gradient(lambda x: (x * x, lambda *a, upstream=None: upstream * 2 * x))(x)


def test_products_are_rounded_forward_and_backward():
    x, w = normal((3, 3), 1), normal((3, 3), 2)
    images, kernel = normal((2, 4, 4, 3), 3), normal((2, 2, 3, 3), 4)
    heads = normal((1, 3, 2, 4), 5)
    given = {
        "einsum": (lambda a, b: ops.einsum("ij,kj->ik", a, b), x, w),
        "tensordot": (lambda a, b: ops.tensordot(a, b, 1), x, w),
        "vdot": (ops.vdot, x[0], w[0]),
        "conv": (ops.conv, images, kernel),
        "depthwise_conv": (ops.depthwise_conv, images, kernel),
        "conv_transpose": (ops.conv_transpose, images, kernel),
        "separable_conv": (
            lambda a, b: ops.separable_conv(a, b, np.ones((1, 1, 9, 2), "f4")),
            images,
            kernel,
        ),
        "dot_product_attention": (lambda a, b: ops.dot_product_attention(a, b, b), heads, heads),
    }
    for name in sorted(ROUNDED):
        function, *arrays = given.get(name, (getattr(ops, name), x, w))
        layer = Calling(lambda pair, function=function: function(*pair))
        quantize_gemms(layer, RECIPE, attention=True)
        y = numpy(layer([ops.convert_to_tensor(a) for a in arrays]))
        with watched() as seen:
            gradients(lambda *pair, f=layer: f(list(pair)), [], normal(y.shape, 6), *arrays)
        assert len(seen) >= 3, (name, len(seen))
        for operation, operands in seen:
            assert all(np.array_equal(a * 16, np.rint(a * 16)) for a in operands), (name, operation)


TELLING = {
    "linalg.solve": lambda x: ops.solve(x, x),
    "linalg.inv": ops.inv,
    "linalg.pinv": ops.pinv,
    "linalg.qr": lambda x: ops.qr(x)[0],
    "math.fft": lambda x: ops.fft((x, x))[0],
    "numpy.corrcoef": ops.corrcoef,
    "image.gaussian_blur": lambda x: ops.image.gaussian_blur(ops.reshape(x, (1, 3, 3, 1))),
    "linalg.jvp": lambda x: ops.jvp(lambda y: ops.matmul(y, y), (x,), (x,))[1],
    "core.custom_gradient": squares,
    "linalg.norm": lambda x: ops.norm(x, "nuc"),
    "numpy.average": lambda x: ops.average(x, 1, x[0]),
}


@pytest.mark.parametrize("name", TELLING)
def test_it_is_told_in_each_call(name):
    x = ops.convert_to_tensor(np.eye(3, dtype="float32") * 3)
    layer = quantize_gemms(Calling(TELLING[name]), RECIPE)
    for _ in range(2):
        with pytest.raises(UncoveredError, match=f"'{name}'"):
            layer(x)
    knowing = quantize_gemms(Calling(TELLING[name]), RECIPE, uncovered="ignore")
    same(knowing(x), Calling(TELLING[name])(x))


SUMS = {
    "linalg.norm": lambda x: ops.norm(x, 1),
    "numpy.bincount": lambda x: ops.bincount(np.int32([0, 1, 1]), x[0]),
    "numpy.linspace": lambda x: ops.linspace(x, x + 1, 3),
}


@pytest.mark.parametrize("name", SUMS)
def test_elementwise_operations_are_told_in_each_call(name):
    x = ops.convert_to_tensor(normal((3, 3), 1))
    layer = quantize_elementwise(Calling(SUMS[name]), Recipe(elementwise="bf16"))
    for _ in range(2):
        with pytest.raises(UncoveredError, match=f"'{name}'"):
            layer(x)
    knowing = Calling(SUMS[name])
    quantize_elementwise(knowing, Recipe(elementwise="fixed<8,23>"), uncovered="ignore")
    assert numpy(knowing(x)).shape == numpy(SUMS[name](x)).shape


def test_selections_and_interpolations_are_none():
    """On JAX and in Keras some are products by kernels of zeros and ones: their numbers stay."""
    x = normal((1, 4, 4, 2), 1)

    def call(x):
        patches = ops.image.extract_patches(x, 2)
        return [
            patches,
            ops.image.resize(x, (8, 8)),
            ops.nn.unfold(ops.transpose(x, (0, 3, 1, 2)), 2),
        ]

    layer = quantize_gemms(Calling(call), RECIPE)
    for ours, theirs in zip(layer(x), Calling(call)(x), strict=True):
        same(ours, theirs)
    with pytest.raises(UncoveredError, match=r"'image\.resize'"):
        quantize_elementwise(Calling(call), Recipe(elementwise="bf16"))(x)
    near = Calling(lambda x: ops.image.resize(x, (8, 8), interpolation="nearest"))
    quantize_elementwise(near, Recipe(elementwise="bf16"))(x)


@pytest.mark.parametrize("name", ["outer", "kron"])
def test_products_of_each_with_each(name):
    function = getattr(ops, name)
    a, b = normal((2, 3), 1), normal((3, 1, 2), 2)
    layer = quantize_gemms(Calling(lambda x: function(x, b)), RECIPE, attention=True)
    rounded = [np.round(x * 16) / 16 for x in (a, b)]
    same(layer(a), getattr(np, name)(*rounded))
    assert numpy(layer(a)).shape == numpy(function(a, b)).shape


ROWS = [[0.3, 1.7, -2.2], [1.1, 0.6, 3.4], [-0.9, 2.3, 0.7]]
LIKE_ARRAYS = {"list": list, "tuple": lambda x: tuple(map(tuple, x)), "numpy": np.float32}
WITH_ROWS = {
    "matmul": ops.matmul,
    "tensordot": lambda a, b: ops.tensordot(a, b, 1),
    "vdot": ops.vdot,
    "inner": ops.inner,
    "outer": ops.outer,
    "kron": ops.kron,
    "einsum": lambda a, b: ops.einsum("ij,jk->ik", a, b),
    "add": ops.add,
    "multiply": ops.multiply,
    "average": lambda a, b: ops.average(a, 0, weights=b),
}


@pytest.mark.parametrize("name", WITH_ROWS)
@pytest.mark.parametrize("kind", LIKE_ARRAYS)
def test_sequences_are_rounded_as_tensors(kind, name):
    """Keras hands them to its backend as they are."""
    x, function, given = normal((3, 3), 1), WITH_ROWS[name], LIKE_ARRAYS[kind](ROWS)
    recipe = Recipe(operands=RECIPE.operands, elementwise="fixed<12,6>")

    def layer(call):
        return quantize_elementwise(quantize_gemms(Calling(call), recipe, attention=True), recipe)

    expected = layer(lambda x: function(x, ops.convert_to_tensor(np.float32(ROWS))))(x)
    same(layer(lambda x: function(x, given))(x), expected)
    same(layer(lambda x: function(given, x))(x), layer(lambda x: function(np.float32(ROWS), x))(x))


def test_sequences_of_integers_stay_integers():
    def call(x):
        whole = ops.cast(x, "int32")
        return [ops.add(whole, [1, 2, 3]), ops.multiply((1, 2), [3, 4]), ops.sum([1, 2])]

    x = normal((3, 3), 1)
    layer = quantize_elementwise(Calling(call), Recipe(elementwise="fixed<12,6>"))
    for ours, theirs in zip(layer(x), Calling(call)(x), strict=True):
        assert keras.backend.standardize_dtype(ours.dtype) == "int32"
        same(ours, theirs)


@pytest.mark.parametrize("number", [0.3, np.float32(0.3), np.float64(0.3)], ids=type)
def test_integers_times_a_number_are_rounded(number):
    layer = Calling(lambda x: ops.multiply(ops.cast(x, "int32"), number))
    x = np.float32([1, 2, 5])
    expected = np.round(numpy(layer(x)) * 64) / 64  # float64 with such a number on TensorFlow
    quantize_elementwise(layer, Recipe(elementwise="fixed<12,6>"))
    same(layer(x), expected)


@pytest.mark.parametrize("axis", [AXIS, np.array([1]), [AXIS], (0, AXIS)], ids=repr)
@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "logsumexp", "norm"])
def test_axes_of_numpy(name, axis):
    x, function = normal((3, 3), 1), getattr(ops, name)
    plain = int(axis) if np.ndim(axis) == 0 else tuple(map(int, axis))
    made = [Calling(lambda x, a=a: function(x, axis=a)) for a in (axis, plain)]
    for layer in made:
        quantize_elementwise(layer, Recipe(elementwise="fixed<12,6>"))
    same(made[0](x), made[1](x))


CONSTANTS = {
    "python": (1.0, 2.0),
    "numpy": (np.float32(1), np.float32(2)),
    "arrays": (np.ones(2, "float32"), np.full(2, 2, "float32")),
}
RANGES = ("linspace", "logspace", "geomspace")


@pytest.mark.parametrize("name", RANGES)
def test_ranges_between_constants_are_constants(name):
    function = getattr(ops, name)
    recipe = Recipe(elementwise="fixed<24,12>")
    for start, stop in CONSTANTS.values():
        call = lambda x, a=start, b=stop: x * function(a, b, 5)[0]  # noqa: E731
        x = np.float32([0.5, 2.0])
        rounded = quantize(numpy(Calling(call)(x)), "fixed<24,12>")
        same(quantize_elementwise(Calling(call), recipe)(x), rounded)
    variable = keras.Variable(1.0)
    for of in (lambda x: x[0], lambda x: ops.cast(x[0], "int32"), lambda _: variable):
        told = quantize_elementwise(Calling(lambda x, of=of: function(of(x), 5.0, 5)), recipe)
        with pytest.raises(UncoveredError, match=f"'numpy.{name}'"):
            told(np.float32([1, 2]))


COMPUTED = {
    "bincount": lambda rows, x: ops.bincount(ops.cast(x, "int32"), weights=rows),
    "cumsum": lambda rows, _: ops.cumsum(rows),
    "correlate": lambda rows, x: ops.correlate(x, rows),
    "mod": lambda rows, x: ops.mod(ops.cast(x, "int32"), rows[0]),
}


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("kind", [list, tuple, np.float32])
def test_what_is_computed_of_sequences_and_numbers_is_told(kind, name):
    rows = kind([0.25, 0.5, 1.0])
    layer = Calling(lambda x: COMPUTED[name](rows, x))
    quantize_elementwise(layer, Recipe(elementwise="bf16"))
    with pytest.raises(UncoveredError, match=f"'numpy.{name}'"):
        layer(np.float32([0, 1, 1]))
    for a, b in ((5.0, 3.0), (np.float32(5), np.float32(3))):
        numbers = Calling(lambda x, a=a, b=b: x + ops.mod(a, b))
        quantize_elementwise(numbers, Recipe(elementwise="bf16"))
        same(numbers(np.float32([1.0])), np.float32([3.0]))


@pytest.mark.parametrize("weights", [2.0, np.float32(2), [0.5, 0.25]])
def test_weights_of_no_axis_are_told(weights):
    layer = Calling(lambda x: ops.average(x, weights=weights))
    quantize_elementwise(layer, Recipe(elementwise="bf16"))
    with pytest.raises(ValueError, match="give weights of the tensor's shape, or one for each"):
        layer(normal((3, 3), 1))
