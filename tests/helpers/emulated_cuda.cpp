// The kernels of a program for GPUs, run on a CPU.
#include "emulated_cuda.h"

#include PROGRAM

#define EMULATED(name, Call)                                                  \
  extern "C" void emulated_##name(int blocks, const qemu_swalp::Call* call) { \
    emulated::run_grid(blocks, qemu_swalp::threads, [call] { name(*call); }); \
  }

#if defined(QS_MODE)
EMULATED(qs_round, QuantizeCall)
EMULATED(qs_order, QuantizeCall)
EMULATED(qs_reduce, QuantizeCall)
EMULATED(qs_blocks, QuantizeCall)
EMULATED(qs_groups, QuantizeCall)
EMULATED(qs_rows, QuantizeCall)
EMULATED(qs_whole, QuantizeCall)
#elif defined(QS_SUM)
EMULATED(qs_span, SpanCall)
EMULATED(qs_matmul, MatmulCall)
#elif defined(QS_ROUND_MODE)
EMULATED(qs_round_many, RoundManyCall)
#else
EMULATED(qs_sgd, SgdCall)
#endif
