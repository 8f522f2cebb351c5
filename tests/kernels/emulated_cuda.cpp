// The kernels of src/gpu.cu for one carrier and rounding mode, run on a CPU.
#include "emulated_cuda.h"

#include "gpu.cu"

#define EMULATED(name)                                                                  \
  extern "C" void emulated_##name(int blocks, const qemu_swalp::Call* call) {           \
    emulated::run_grid(blocks, qemu_swalp::threads, [call] { name(*call); });           \
  }

EMULATED(qs_round)
EMULATED(qs_reduce)
EMULATED(qs_blocks)
