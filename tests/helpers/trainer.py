"""transformers' Trainer on a CPU, reading rows in their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import SequentialSampler


def trainer_of(
    folder: Path,
    model: torch.nn.Module,
    data: tuple[torch.Tensor, torch.Tensor],
    arguments: dict[str, Any],
    **options: Any,
) -> Any:
    """A Trainer at a constant rate, that saves every third step. `arguments` : further ones of
    TrainingArguments. `options` : of the Trainer. Skips where a package is not installed.
    """
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip(
        "accelerate", reason="accelerate, which transformers trains by, is not installed"
    )
    settings = transformers.TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to=[],
        save_steps=3,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        disable_tqdm=True,
        seed=0,
        data_seed=0,
        **arguments,
    )
    rows = [{"x": x, "labels": y} for x, y in zip(*data, strict=True)]

    class InOrder(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(rows)

    return InOrder(model, settings, train_dataset=rows, eval_dataset=rows[:5], **options)
