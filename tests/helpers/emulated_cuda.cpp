// The kernels of a program for GPUs, run on a CPU.
#include "emulated_cuda.h"

#include PROGRAM

#define EMULATED(name, Call)                                                  \
  extern "C" void emulated_##name(int blocks, const qemu_swalp::Call* call) { \
    emulated::run_grid(blocks, qemu_swalp::threads, [call] { name(*call); }); \
  }

#ifdef QS_MODE
EMULATED(qs_round, Call)
EMULATED(qs_reduce, Call)
EMULATED(qs_blocks, Call)
#elif defined(QS_SUM)
EMULATED(qs_span, SpanCall)
EMULATED(qs_multiply, ProductsCall)
#else
EMULATED(qs_sgd, SgdCall)
#endif
