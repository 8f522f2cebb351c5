"""The codes of weights are those of the operands that forward products multiply."""

import copy

import pytest
import torch
from qemu_swalp_torch import emulate
from torch import nn

from qemu_swalp import QuantizedTensor, dequantize_state_dict
from qemu_swalp.training import Recipe

MX = "mxfp8_e4m3"


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.back = nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(8, 4, 2)
        self.fc, self.rnn = nn.Linear(4, 40), nn.GRU(40, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        y = self.back(self.conv(x)).mean((2, 3))
        return self.norm(self.rnn(self.fc(y)[None])[0])


@pytest.mark.parametrize("format", [MX, "bfp<4,axis=-2>", "bfp<5>", "e2m1fn"])
def test_the_plain_model_with_the_decoded_weights_is_the_rounded_one(format):
    torch.manual_seed(0)
    model, x = Layers(), torch.randn(5, 4, 7, 7)
    plain = copy.deepcopy(model)
    handle = emulate(model, None, Recipe(operands={"forward.weight": f"{format}/nearest_even"}))
    state = handle.quantize_state_dict()
    assert sum(isinstance(value, QuantizedTensor) for value in state.values()) == 5
    plain.load_state_dict(dequantize_state_dict(state, like=plain))
    torch.testing.assert_close(plain(x), model(x), rtol=1e-6, atol=1e-6)


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, 4, 8))

    def forward(self, x):
        return torch.einsum("bhi,hio->bo", x, self.w)


NO_CODES = {
    "bilinear": (lambda: nn.Bilinear(4, 4, 4), {}, "^weight has no codes.* sum over"),
    "groups": (lambda: nn.ConvTranspose1d(4, 4, 3, groups=2), {}, "weight .* sum over"),
    "einsum": (Einsum, {}, "^w has no codes.* sum over"),
    "random": (lambda: nn.Linear(4, 4), {"rounding": "stochastic"}, "at random"),
    "delayed": (
        lambda: nn.Linear(4, 4),
        {"format": "block<e4m3fn,scale=float<8,23>>", "scaling": {"weight": "delayed<4>"}},
        "calls before",
    ),
    "parametrized": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        {},
        "remove_parametrizations",
    ),
}


@pytest.mark.parametrize("name", NO_CODES)
def test_a_weight_without_codes_of_its_own_is_named(name):
    make, options, words = NO_CODES[name]
    format, rounding = options.get("format", MX), options.get("rounding", "nearest_even")
    recipe = Recipe(
        operands={"forward.weight": f"{format}/{rounding}"}, scaling=options.get("scaling", {})
    )
    handle = emulate(make(), None, recipe)
    with pytest.raises(ValueError, match=words):
        handle.quantize_state_dict()
