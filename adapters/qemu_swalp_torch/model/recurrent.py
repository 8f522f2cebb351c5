"""LSTM, GRU and RNN, layers and cells, with the operands of their products rounded.

A layer multiplies all its inputs at once by W_ih (part "ih") and, at each time step t, its state by
W_hh ("hh.t"); an LSTM with projections also its output ("hr.t"). The gates are as in the
documentation of `torch.nn`, their operations rounded where the recipe says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .frames import Frame
from .multiply import multiply_transposed

LAYERS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
States = tuple[Tensor, ...]


def cell(
    frame: Frame,
    function: Callable[..., Any],
    input: Tensor,
    hx: Any,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Any:
    """As `torch.lstm_cell` and its kin."""
    kind = function.__name__.removesuffix("_cell")
    inputs = multiply_transposed(frame, input, w_ih, b_ih, ".ih")
    state = tuple(hx) if kind == "lstm" else (hx,)
    new = _step(frame, kind, inputs, state, w_hh, b_hh, None, ".hh")
    return new if kind == "lstm" else new[0]


def layer(frame: Frame, function: Callable[..., Any], input: Tensor, *arguments: Any) -> Any:
    """As `torch.lstm` and its kin, of padded sequences or packed ones."""
    kind = function.__name__
    packed = isinstance(arguments[1], Tensor) or (
        kind == "lstm" and isinstance(arguments[0], Tensor)
    )
    if packed:
        sizes, hx, params, biases, layers, dropout, training, both = arguments
        return _packed(
            frame, kind, (input, sizes), hx, params, (biases, layers, dropout, training, both)
        )
    hx, params, biases, layers, dropout, training, both, first = arguments
    states = tuple(hx) if kind == "lstm" else (hx,)
    x = input.transpose(0, 1) if first else input
    lengths = [x.shape[1]] * x.shape[0]
    y, final = _layers(
        frame, kind, x, lengths, states, params, (biases, layers, dropout, training, both)
    )
    return (y.transpose(0, 1) if first else y, *final)


def _packed(
    frame: Frame,
    kind: str,
    data: tuple[Tensor, Tensor],
    hx: Any,
    params: Sequence[Tensor],
    options: tuple[Any, ...],
) -> Any:
    """Sequences in the order of falling lengths, `sizes[t]` of them at time t."""
    x, sizes = data
    lengths: list[int] = sizes.tolist()
    padded = torch.stack(
        [F.pad(part, (0, 0, 0, lengths[0] - part.shape[0])) for part in torch.split(x, lengths)]
    )
    states = tuple(hx) if kind == "lstm" else (hx,)
    y, final = _layers(frame, kind, padded, lengths, states, params, options)
    return (torch.cat([part[:n] for part, n in zip(y, lengths, strict=True)]), *final)


def _layers(
    frame: Frame,
    kind: str,
    x: Tensor,
    lengths: list[int],
    states: States,
    params: Sequence[Tensor],
    options: tuple[Any, ...],
) -> tuple[Tensor, States]:
    """x of shape (T, B, K) → (T, B, D·H) and final states (L·D, B, H); `lengths[t]` rows are of
    sequences that last until t.
    """
    biases, layers, dropout, training, both = options
    directions = 2 if both else 1
    width = len(params) // (layers * directions)
    final: list[States] = []
    for number in range(layers):
        outputs = []
        for direction in range(directions):
            index = number * directions + direction
            own = params[index * width : (index + 1) * width]
            state = tuple(part[index] for part in states)
            name = f".l{number}" + (".reverse" if direction else "")
            y, last = _sequence(frame, kind, x, lengths, state, own, biases, bool(direction), name)
            outputs.append(y)
            final.append(last)
        x = torch.cat(outputs, -1) if both else outputs[0]
        if dropout and training and number < layers - 1:
            x = frame.ops.dropout(x, dropout)
    return x, tuple(torch.stack(parts) for parts in zip(*final, strict=True))


def _sequence(
    frame: Frame,
    kind: str,
    x: Tensor,
    lengths: list[int],
    state: States,
    params: Sequence[Tensor],
    biases: bool,
    backwards: bool,
    name: str,
) -> tuple[Tensor, States]:
    """One layer in one direction."""
    w_ih, w_hh = params[:2]
    b_ih, b_hh = params[2:4] if biases else (None, None)
    w_hr = params[-1] if len(params) == (5 if biases else 3) else None
    inputs = multiply_transposed(frame, x, w_ih, b_ih, f"{name}.ih")
    outputs: list[Tensor] = [x] * len(lengths)
    for t in reversed(range(len(lengths))) if backwards else range(len(lengths)):
        n = lengths[t]
        active = tuple(part[:n] for part in state)
        new = _step(frame, kind, inputs[t, :n], active, w_hh, b_hh, w_hr, f"{name}.hh.{t}")
        outputs[t] = F.pad(new[0], (0, 0, 0, x.shape[1] - n)) if n < x.shape[1] else new[0]
        state = tuple(
            torch.cat([part, old[n:]]) if n < old.shape[0] else part
            for part, old in zip(new, state, strict=True)
        )
    return torch.stack(outputs), state


def _step(
    frame: Frame,
    kind: str,
    inputs: Tensor,
    state: States,
    w_hh: Tensor,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    part: str,
) -> States:
    """The next state from W_ih·x + b_ih."""
    ops = frame.ops
    h = state[0]
    hidden = multiply_transposed(frame, h, w_hh, b_hh, part)
    if kind == "gru":
        (r, z, n), (hr, hz, hn) = inputs.chunk(3, -1), hidden.chunk(3, -1)
        r, z = ops.sigmoid(ops.add(r, hr)), ops.sigmoid(ops.add(z, hz))
        n = ops.tanh(ops.add(n, ops.mul(r, hn)))
        return (ops.add(n, ops.mul(z, ops.sub(h, n))),)
    gates = ops.add(inputs, hidden)
    if kind != "lstm":
        return (ops.tanh(gates) if kind == "rnn_tanh" else torch.relu(gates),)
    i, f, g, o = gates.chunk(4, -1)
    kept = ops.mul(ops.sigmoid(f), state[1])
    c = ops.add(kept, ops.mul(ops.sigmoid(i), ops.tanh(g)))
    y = ops.mul(ops.sigmoid(o), ops.tanh(c))
    if w_hr is not None:
        y = multiply_transposed(frame, y, w_hr, None, part.replace(".hh.", ".hr."))
    return y, c
