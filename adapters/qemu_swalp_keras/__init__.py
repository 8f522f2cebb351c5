"""qemu_swalp for Keras: quantized training and SWALP averaging through `model.compile` and
`model.fit`.

It imports no backend but the one that Keras runs on.

>>> import keras
>>> from qemu_swalp.training import swalp
>>> from qemu_swalp_keras import QuantizedOptimizer, SwapAverage, quantize_activations
>>> keras.utils.set_random_seed(0)
>>> recipe = swalp(8)
>>> hidden, head = keras.layers.Dense(8, "relu"), keras.layers.Dense(1)
>>> model = keras.Sequential([keras.layers.Input((4,)), hidden, head])
>>> quantized = quantize_activations(model, recipe, exclude=head.name)
>>> optimizer = QuantizedOptimizer(keras.optimizers.SGD(0.01, momentum=0.9), recipe, swa_start=128)
>>> quantized.compile(optimizer, loss="mse")
>>> x = keras.random.normal((256, 4), seed=1)
>>> y = keras.ops.sum(x, axis=1, keepdims=True)
>>> _ = quantized.fit(x, y, batch_size=8, epochs=6, callbacks=[SwapAverage()], verbose=0)
>>> optimizer.n_averaged, bool(quantized.evaluate(x, y, verbose=0) < 0.1)
(64, True)
"""

try:
    import keras as _keras  # noqa: F401
except (ImportError, ValueError) as _error:
    raise ImportError(
        f"qemu_swalp_keras needs Keras 3 and its backend ({_error}); install both with: pip install"
        " 'qemu-swalp[keras]' tensorflow; or set the environment variable KERAS_BACKEND to an"
        " installed one of tensorflow, jax and torch"
    ) from _error

from .averaging.callbacks import SwapAverage
from .averaging.model_swap import install as _install_swaps, restore_iterate, swap_average
from .averaging.policy_callback import PolicyAverage
from .averaging.saved import install as _install_averages
from .averaging.update_bn import update_bn
from .backend import backend as _backend
from .calls.interception import install as _install_calls
from .calls.operators import install as _install_operators
from .calls.uncovered import UncoveredError
from .elementwise.interception import install as _install_elementwise
from .elementwise.quantize import quantize_elementwise, unquantize_elementwise
from .emulation import Emulation, emulate
from .exporting import install as _install_exports
from .layers.quantize import Quantize
from .layers.rewrite import disabled, quantize_activations, unquantize_activations
from .layers.selection import COMPUTING_LAYERS
from .layers.straight_through import quantize
from .monitoring import Monitor
from .optim.layouts import operand_layouts
from .optim.schedule import SWALPSchedule, SWASchedule
from .optim.sgd import SGD
from .optim.wrap import QuantizedOptimizer, unquantize_optimizer
from .phases import install as _install_phases
from .products.gemms import quantize_gemms, unquantize_gemms
from .products.interception import install as _install_products
from .tracing import install as _install_tracing

_backend()
_install_calls()
_install_products()
_install_elementwise()
_install_operators()
_install_phases()
_install_tracing()
_install_averages()
_install_swaps()
_install_exports()

__all__ = [
    "COMPUTING_LAYERS",
    "Emulation",
    "Monitor",
    "SGD",
    "PolicyAverage",
    "Quantize",
    "QuantizedOptimizer",
    "SWALPSchedule",
    "SWASchedule",
    "SwapAverage",
    "UncoveredError",
    "disabled",
    "emulate",
    "operand_layouts",
    "quantize",
    "quantize_activations",
    "quantize_elementwise",
    "restore_iterate",
    "quantize_gemms",
    "swap_average",
    "unquantize_activations",
    "unquantize_elementwise",
    "unquantize_gemms",
    "unquantize_optimizer",
    "update_bn",
]
