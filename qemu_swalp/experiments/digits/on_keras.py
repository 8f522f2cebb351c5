"""The network of `mlp` on Keras."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops
from qemu_swalp_keras import SGD, SWALPSchedule, disabled, quantize_activations, swap_average

from ..common.data import CLASSES, Dataset
from ..common.report import Progress
from ..softmax.on_keras import FRAMEWORK, Batches, fit
from .mlp import Layer, Logits, epoch, initial, recipe_of
from .settings import Settings

__all__ = ["FRAMEWORK", "network", "train"]


def network(first: Layer, second: Layer) -> keras.Sequential:
    """The perceptron, once for each run: (runs, batch, inputs) → (runs, batch, classes)."""
    runs, hidden, inputs = first[0].shape
    model = keras.Sequential(
        [
            layers.Input(batch_shape=(runs, None, inputs)),
            layers.EinsumDense("rbi,roi->rbo", output_shape=(None, hidden), bias_axes="ro"),
            layers.ReLU(),
            layers.EinsumDense("rbi,roi->rbo", output_shape=(None, CLASSES), bias_axes="ro"),
        ]
    )
    model.set_weights([*first, *second])
    return model


def train(
    settings: Settings, data: Dataset, word: int | None, decayed: bool, bar: Progress, label: str
) -> tuple[Logits, Logits]:
    """A `mlp.Train`."""
    of_epoch, rate, recipe = (
        epoch(settings, len(data.train)),
        settings.network_rate,
        recipe_of(word),
    )
    steps = settings.network_epochs * of_epoch
    model = network(*initial(settings.run_seeds, data.train.shape[1], settings.hidden))
    if word is not None:
        model = quantize_activations(model, recipe, layers=layers.ReLU, seed=settings.seed)
    optimizer = SGD(
        SWALPSchedule(rate, steps) if decayed else rate,
        settings.momentum,
        recipe=recipe,
        weight_decay=settings.network_decay,
        seed=settings.seed,
        swa_start=settings.network_start * of_epoch,
        swa_finalize=False,
    )
    batches = Batches(
        data.train, data.train_labels, settings.network_batch, settings.run_seeds, steps
    )
    fit(model, optimizer, batches, bar, label)
    with disabled(model):
        last = _logits(model, data)
        with swap_average(model):
            return last, _logits(model, data)


def _logits(model: keras.Model, data: Dataset) -> Logits:
    runs = model.input_shape[0]
    images = np.broadcast_to(data.test, (runs, *data.test.shape))
    return np.asarray(ops.convert_to_numpy(model(images, training=False)))
