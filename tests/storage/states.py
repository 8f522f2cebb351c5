"""State dicts that several tests store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import qemu_swalp as q


def written(path: Path) -> Path:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 11)).astype(np.float32)
    formats = {
        "block": "bfp<5,axis=0>",
        "two": "nvfp4",
        "zero": "int<4,zero_point>",
        "table": "codebook<-1,0,1>",
    }
    state = {**dict.fromkeys(formats, w), "plain": w, "n": np.array(3)}
    q.save_state(path, q.quantize_state_dict(state, formats))
    return path
