// The kernels on a CPU, compiled once for each instruction set, QS_VARIANT, and source dtype,
// QS_DTYPE; `library.cpp` chooses among them.
#include "cpu/functions.h"
#include "cpu/hadamard.h"
#include "cpu/matmul.h"
#include "cpu/operate.h"
#include "cpu/parallel.h"
#include "cpu/sgd.h"
#include "cpu/span.h"

QS_BEGIN
namespace {

template <class C>
void quantize(const Plan* plan, const Layout* layout, const Random* random, const Given* given,
              const void* source, void* target, int threads) {
  Job<C> job(*plan, *layout, *random, source, target, *given);
  run_all(job, [&](auto work) { in_parallel<Scratch<C>>(job.tasks(), threads, work); });
}

template <class C>
void round_many(const TensorRounding* tensors, int count, int threads) {
  each_chunk<Scratch<C>>(tensors, count, threads,
                         [](const TensorRounding& t, int64_t chunk, Scratch<C>& scratch) {
                           round_tensor_chunk<C>(t, chunk, scratch);
                         });
}

template <class C, class Float>
void sgd(const SgdTensor* tensors, int count, int threads) {
  using Memory = SgdScratch<C, Float>;
  each_chunk<Memory>(tensors, count, threads,
                     [](const SgdTensor& t, int64_t chunk, Memory& memory) {
                       step_chunk<C, Float>(t, chunk, memory);
                     });
}

template <class C>
void multiply(const Matmul* matmul, int threads) {
  const MatmulJob<C> job(*matmul);
  using Memory = MatmulScratch<C>;
  in_parallel<Memory>(job.tasks(), threads,
                      [&](int64_t task, Memory& memory) { job.run(task, memory); });
}

template <class C>
void operate(Operation operation, const Plan& plan, const Layout& operands, const Random& random,
             const void* a, const void* b, void* out, int threads) {
  const OperateJob<C> job(operation, plan, operands, random, a, b, out);
  using Memory = Scratch<Double>;
  in_parallel<Memory>(job.tasks(), threads,
                      [&](int64_t task, Memory& memory) { job.run(task, memory); });
}

template <class C>
void transform(int64_t outer, int64_t length, int64_t inner, int64_t size, const void* signs,
               const void* source, void* target, int threads) {
  const HadamardCall call{outer, length, inner, size, signs, source, target};
  const HadamardJob<C> job(call);
  using Memory = typename HadamardJob<C>::Buffer;
  in_parallel<Memory>(job.tasks(), threads,
                      [&](int64_t task, Memory& memory) { job.run(task, memory); });
}

/// An elementary operation on arrays of one dtype; the plan is in float64.
void operate_on(int operation, int dtype, const Plan* plan, const Layout* operands,
                const Random* random, const void* a, const void* b, void* out, int threads) {
  const auto chosen = Operation(operation);
  switch (Dtype(dtype)) {
    case Dtype::float16:
      return operate<Half>(chosen, *plan, *operands, *random, a, b, out, threads);
    case Dtype::bfloat16:
      return operate<BFloat>(chosen, *plan, *operands, *random, a, b, out, threads);
    case Dtype::float32:
      return operate<Single>(chosen, *plan, *operands, *random, a, b, out, threads);
    case Dtype::float64:
      return operate<Double>(chosen, *plan, *operands, *random, a, b, out, threads);
  }
}

template <class C>
constexpr Functions functions() {
  Functions f{};
  f.quantize = quantize<C>;
  if constexpr (C::storage >= 32) {
    using Float = typename FloatOf<typename C::Word>::Type;
    f.round_many = round_many<C>;
    f.sgd = sgd<C, Float>;
    f.matmul = multiply<C>;
    f.hadamard = transform<C>;
  }
  if constexpr (C::storage == 32) f.span = find_span;
  if constexpr (C::storage == 64) f.operate = operate_on;
  return f;
}

}  // namespace
QS_END

extern "C" {
__attribute__((visibility("hidden"))) extern const qemu_swalp::Functions QS_TABLE(QS_VARIANT,
                                                                                  QS_DTYPE);
const qemu_swalp::Functions QS_TABLE(QS_VARIANT,
                                     QS_DTYPE) = qemu_swalp::functions<qemu_swalp::QS_DTYPE>();
}
