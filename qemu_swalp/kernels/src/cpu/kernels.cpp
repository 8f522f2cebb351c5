// The kernels on a CPU, compiled once for each instruction set; `library.cpp` chooses among them.
#include <atomic>
#include <system_error>
#include <thread>
#include <utility>

#include "cpu/hadamard.h"
#include "cpu/matmul.h"
#include "cpu/operate.h"
#include "cpu/sgd.h"

#define QS_JOIN(a, b) a##b
#define QS_NAME(function, variant) QS_JOIN(function, variant)
#define QS_HIDDEN extern "C" __attribute__((visibility("hidden")))

QS_BEGIN
namespace {

/// work(task, scratch of the thread) for all tasks, on up to `threads` threads. None outlives the
/// call, so a process may fork between calls.
template <class Scratch, class Work>
void in_parallel(int64_t tasks, int threads, Work work) {
  std::atomic<int64_t> next{0};
  auto loop = [&] {
    const StandardFloats standard;
    Scratch scratch;
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
      work(task, scratch);
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < least_of<int64_t>(threads, tasks); ++i) {
    try {
      others.emplace_back(loop);
    } catch (const std::system_error&) {  // no thread to be had: those that are there do the work
      break;
    }
  }
  loop();
  for (std::thread& other : others) other.join();
}

/// work(tensor, index of the chunk, scratch of the thread) for all chunks of some tensors.
template <class Scratch, class Tensor, class Work>
void each_chunk(const Tensor* tensors, int count, int threads, Work work) {
  std::vector<std::pair<const Tensor*, int64_t>> tasks;
  for (const Tensor* t = tensors; t < tensors + count; ++t) {
    for (int64_t chunk = 0; chunk * t->chunk_elements < t->elements; ++chunk)
      tasks.push_back({t, chunk});
  }
  in_parallel<Scratch>(int64_t(tasks.size()), threads, [&](int64_t task, Scratch& scratch) {
    work(*tasks[size_t(task)].first, tasks[size_t(task)].second, scratch);
  });
}

template <class C>
void quantize(const Plan& plan, const Layout& layout, const Random& random, const Given& given,
              const void* source, void* target, int threads) {
  Job<C> job(plan, layout, random, source, target, given);
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
void multiply(const Matmul& matmul, int threads) {
  const MatmulJob<C> job(matmul);
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
void transform(const HadamardCall& call, int threads) {
  const HadamardJob<C> job(call);
  using Memory = typename HadamardJob<C>::Buffer;
  in_parallel<Memory>(job.tasks(), threads,
                      [&](int64_t task, Memory& memory) { job.run(task, memory); });
}

}  // namespace
QS_END

QS_HIDDEN void QS_NAME(qs_quantize_,
                       QS_VARIANT)(const qemu_swalp::Plan* plan, const qemu_swalp::Layout* layout,
                                   const qemu_swalp::Random* random, const qemu_swalp::Given* given,
                                   const void* source, void* target, int threads) {
  using namespace qemu_swalp;
  switch (plan->dtype) {
    case Dtype::float16:
      return quantize<Half>(*plan, *layout, *random, *given, source, target, threads);
    case Dtype::bfloat16:
      return quantize<BFloat>(*plan, *layout, *random, *given, source, target, threads);
    case Dtype::float32:
      return quantize<Single>(*plan, *layout, *random, *given, source, target, threads);
    case Dtype::float64:
      return quantize<Double>(*plan, *layout, *random, *given, source, target, threads);
  }
}

/// Rounds tensors of one dtype, float32 or float64.
QS_HIDDEN void QS_NAME(qs_round_many_, QS_VARIANT)(const qemu_swalp::TensorRounding* tensors,
                                                   int count, int threads) {
  using namespace qemu_swalp;
  if (count == 0) return;
  if (tensors[0].dtype == Dtype::float32) return round_many<Single>(tensors, count, threads);
  return round_many<Double>(tensors, count, threads);
}

/// SGD steps of tensors of one dtype, float32 or float64.
QS_HIDDEN void QS_NAME(qs_sgd_, QS_VARIANT)(const qemu_swalp::SgdTensor* tensors, int count,
                                            int threads) {
  using namespace qemu_swalp;
  if (count == 0) return;
  if (tensors[0].dtype == Dtype::float32) return sgd<Single, float>(tensors, count, threads);
  return sgd<Double, double>(tensors, count, threads);
}

/// A product of matrices of float32 or float64.
QS_HIDDEN void QS_NAME(qs_matmul_, QS_VARIANT)(const qemu_swalp::Matmul* matmul, int threads) {
  using namespace qemu_swalp;
  if (matmul->dtype == Dtype::float32) return multiply<Single>(*matmul, threads);
  return multiply<Double>(*matmul, threads);
}

/// An elementary operation on arrays of one dtype; the plan is in float64.
QS_HIDDEN void QS_NAME(qs_operate_, QS_VARIANT)(int operation, int dtype,
                                                const qemu_swalp::Plan* plan,
                                                const qemu_swalp::Layout* operands,
                                                const qemu_swalp::Random* random, const void* a,
                                                const void* b, void* out, int threads) {
  using namespace qemu_swalp;
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

/// A Hadamard transform of an array of float32 or float64, `dtype`.
QS_HIDDEN void QS_NAME(qs_hadamard_, QS_VARIANT)(int dtype, int64_t outer, int64_t length,
                                                 int64_t inner, int64_t size, const void* signs,
                                                 const void* source, void* target, int threads) {
  using namespace qemu_swalp;
  const HadamardCall call{outer, length, inner, size, signs, source, target};
  if (Dtype(dtype) == Dtype::float32) return transform<Single>(call, threads);
  return transform<Double>(call, threads);
}
