"""The sections by their names; their modules import what needs a GPU, so they are loaded late."""

from __future__ import annotations

from importlib import import_module

from tests.gpu.report import Section

SECTIONS = {
    "bits beside NumPy": "exactness:bits_of_numpy",
    "memory: strides and offsets": "exactness:memory",
    "streams and threads": "exactness:streams",
    "steps of SGD": "exactness:steps",
    "captures and replays": "exactness:captures",
    "subnormal numbers": "exactness:subnormals",
    "resources of kernels": "speed:resources",
    "bandwidth": "speed:bandwidth",
    "host time": "speed:host",
    "optimizer step": "speed:optimizer_step",
    "training step": "speed:training_step",
    "sanitizers": "speed:sanitizers",
}


def section(name: str) -> Section:
    """What runs under that name."""
    module, function = SECTIONS[name].split(":")
    found: Section = getattr(import_module(f"tests.gpu.{module}"), function)
    return found
