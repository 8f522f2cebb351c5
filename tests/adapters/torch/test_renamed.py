"""Names of the first drafts go on for one release, with a warning."""

import pytest
import qemu_swalp_torch


@pytest.mark.parametrize(
    ("old", "new"),
    [("quantize_steps", "quantize_elementwise"), ("register_steps", "register_elementwise")],
)
def test_old_names_warn_and_work(old, new):
    with pytest.warns(DeprecationWarning, match=rf"qemu_swalp_torch.{old} is called {new}"):
        found = getattr(qemu_swalp_torch, old)
    assert found is getattr(qemu_swalp_torch, new)
    assert old not in qemu_swalp_torch.__all__


def test_other_names_raise():
    with pytest.raises(AttributeError, match="has no attribute 'quantize_stepz'"):
        qemu_swalp_torch.quantize_stepz  # noqa: B018
