"""Public names of the first drafts that have others today go on for one release, with a warning."""

from __future__ import annotations

import pytest

from qemu_swalp import training


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Draw", "TensorRandomBits"),
        ("Hyper", "Hyperparameters"),
        ("Step", "StepInputs"),
        ("Window", "LAWA"),
    ],
)
def test_an_old_name_is_the_new_one_with_a_warning(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"training.{old} is called {new} now"):
        renamed = getattr(training, old)
    assert renamed is getattr(training, new)
    assert old not in training.__all__


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Winder'"):
        training.Winder  # noqa: B018


def test_averages_of_version_0_1_keep_the_name_that_checkpoints_have() -> None:
    assert training.LAWA(size=3).record()["policy"] == "Window"
