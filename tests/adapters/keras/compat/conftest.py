"""Optimizers that contract tests look into."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def variables() -> list[keras.Variable]:
    return [keras.Variable(np.ones(3, "f4"), name="a"), keras.Variable(np.ones(2, "f4"), name="b")]


def built(**options: Any) -> tuple[keras.optimizers.Optimizer, list[keras.Variable]]:
    optimizer, held = keras.optimizers.SGD(0.5, **options), variables()
    optimizer.build(held)
    return optimizer, held
