"""The stand-in as a plugin of pytest: `-p tests.stand_in.plugin`."""

from __future__ import annotations

import pytest

from . import NAME, cupy_module, torch_cuda

cupy_module.install()
torch_cuda.install()


def pytest_report_header(config: pytest.Config) -> str:
    return f"cupy and torch.cuda: {NAME}: kernels run on the CPU, and no GPU is tested"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"These tests ran on the {NAME}.")
