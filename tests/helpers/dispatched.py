"""The products that PyTorch dispatches, and whether their operands lie on a grid."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qemu_swalp.training import Recipe

aten = torch.ops.aten
GRID = torch.float8_e4m3fn
ALL = Recipe(operands=dict.fromkeys(("input", "weight", "error"), f"{'e4m3fn'}/nearest_even"))
PRODUCTS = {
    *(aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.mv, aten.dot, aten.addmv),
    *(aten.convolution, aten.convolution_backward, aten._grouped_mm),
    aten._scaled_dot_product_flash_attention_for_cpu,
}


class Watch(TorchDispatchMode):
    """Which products there were, and of which an operand does not lie on the grid."""

    def __init__(self):
        super().__init__()
        self.seen, self.bad = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in PRODUCTS:
            operands = self.operands(packet, args)
            outer = packet in (aten.bmm, aten.mm) and operands[0].shape[-1] == 1
            if operands[0].is_floating_point() and not outer:
                self.seen += 1
                if not all(torch.equal(x, x.to(GRID).to(x.dtype)) for x in operands):
                    self.bad.append((str(packet), [tuple(x.shape) for x in operands]))
        return result

    @staticmethod
    def operands(packet, args):
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        if packet in (aten.addmm, aten.baddbmm, aten.addmv):
            return tensors[1:3]
        if packet is aten.convolution_backward:
            of_input, of_weight, _ = args[-1]
            return [tensors[0], *[tensors[2]] * of_input, *[tensors[1]] * of_weight]
        return tensors[:2]
