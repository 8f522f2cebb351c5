// Many tensors rounded in one launch, compiled for a source dtype, QS_SOURCE_DTYPE, and a rounding
// mode, QS_ROUND_MODE.
#include "cuda/chunks.h"

using namespace qemu_swalp;

extern "C" __global__ void __launch_bounds__(threads)
    qs_round_many(const __grid_constant__ RoundManyCall call) {
  __shared__ Scales scales;
  __shared__ Prepared prepared;
  each_chunk(call, [&](const TensorRounding& t, int64_t first, int64_t n, bool is_last) {
    const ChunkRounder<Mode::QS_ROUND_MODE> rounder(t.rounding, is_last, first, &scales, &prepared);
    const Numbers<C> to(t.target, t.dtype, first);
    round_chunk(rounder, {t.source, t.dtype, first}, to, to, n);
  });
}
