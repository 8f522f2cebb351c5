"""Recipes and a small model for tests of rounded products."""

import torch
from torch import nn

from qemu_swalp import RandomBits, stream_id
from qemu_swalp.training import OPERANDS, Recipe

FORMATS = [
    "bfp<4,axis=-1,size=4>",
    "bfp<5,axis=-1,size=3>",
    "e4m3fn",
    "bfp<6,axis=-1,size=2>",
    "bfp<3,axis=(-2,-1),size=2>",
    "bfp<4,axis=-2>",
]


NEAREST = Recipe(operands=dict(zip(OPERANDS, [f"{f}/nearest_even" for f in FORMATS], strict=True)))


STOCHASTIC = Recipe(operands=dict(zip(OPERANDS, [f"{f}/stochastic" for f in FORMATS], strict=True)))


def rounder(recipe, seed, place, call, part=""):
    """The core's quantize for an operand, with the bits of a call."""

    def rounded(operand, x, as_operand=None):
        quantizer = recipe.quantizer(as_operand or operand)
        return quantizer(x.contiguous(), RandomBits(seed, stream_id(operand + part, place), call))

    return rounded


def net():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 6),
        nn.Tanh(),
        nn.Linear(6, 3),
    )


def gradients(model, y):
    model.zero_grad()
    y.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}
