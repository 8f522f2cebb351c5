// What calls of other libraries share.
#include "cpu/stored_call.h"

#include <atomic>

namespace {
std::atomic<const int*> thread_number{nullptr};
std::atomic<int64_t> calls{0};
}  // namespace

QS_BEGIN
int threads() {
  const int* number = thread_number.load(std::memory_order_relaxed);
  return number ? *number : 1;
}
void count_call() { calls.fetch_add(1, std::memory_order_relaxed); }
QS_END

/// Calls read the number of threads here from now on.
QS_EXPORT void qs_share_threads(const int* number) { thread_number = number; }

/// Calls of the kernels that came from programs of other libraries, not from Python.
QS_EXPORT int64_t qs_calls() { return calls; }
