// CUDA's words for a CPU, so that the very kernels of src/cuda run where there is no GPU: a thread
// block at a time, each of its threads a coroutine that goes on until it waits for others.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace emulated {

struct Index {
  unsigned x;
};

constexpr int warp = 32;
constexpr size_t stack = 1 << 17;

/// Threads that wait for one another.
struct Barrier {
  int members = 0, waiting = 0;
  unsigned passed = 0;
};

struct Thread {
  ucontext_t context;  // to begin with; from then on the jump, which asks nothing of the kernel
  jmp_buf jump;
  std::vector<char> memory;
  bool begun = false, done = true;
};

struct Block {
  std::vector<Thread> threads;
  Barrier all;
  std::vector<Barrier> warps;
  std::vector<uint64_t> slots;  // what the lanes of a warp show one another
  ucontext_t outside;
  jmp_buf scheduler;
  const std::function<void()>* work = nullptr;
  int current = 0;
};

inline Block block;
inline Index thread_index, block_index, grid_size;

inline void give_way() {
  if (!_setjmp(block.threads[size_t(block.current)].jump)) _longjmp(block.scheduler, 1);
}

inline void run_thread() {
  for (;;) {
    (*block.work)();
    block.threads[size_t(block.current)].done = true;
    give_way();
  }
}

/// Lets a thread run until it gives way.
inline void go_on(Thread& thread) {
  if (_setjmp(block.scheduler)) return;
  if (thread.begun) _longjmp(thread.jump, 1);
  thread.begun = true;
  swapcontext(&block.outside, &thread.context);
}

inline void wait(Barrier& barrier) {
  const unsigned passed = barrier.passed;
  if (++barrier.waiting == barrier.members) {
    barrier.waiting = 0;
    ++barrier.passed;
    return;
  }
  while (barrier.passed == passed) give_way();
}

/// Runs a kernel's thread block.
inline void run_block(int threads, const std::function<void()>& work) {
  block.threads.resize(size_t(threads));
  block.warps.assign(size_t((threads + warp - 1) / warp), {});
  block.slots.assign(size_t(threads), 0);
  block.all = {threads, 0, 0};
  block.work = &work;
  for (int t = 0; t < threads; ++t) {
    Thread& thread = block.threads[size_t(t)];
    ++block.warps[size_t(t / warp)].members;
    thread.done = false;
    if (thread.begun) continue;
    thread.memory.resize(stack);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.memory.data();
    thread.context.uc_stack.ss_size = stack;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, run_thread, 0);
  }
  for (int left = threads; left > 0;) {
    left = 0;
    for (int i = 0; i < threads; ++i) {
      const int t = block_index.x % 2
                        ? threads - 1 - i
                        : i;  // in either order: none may count on another's being first
      if (block.threads[size_t(t)].done) continue;
      block.current = t;
      thread_index.x = unsigned(t);
      go_on(block.threads[size_t(t)]);
      left += !block.threads[size_t(t)].done;
    }
  }
}

inline void run_grid(int blocks, int threads, const std::function<void()>& work) {
  grid_size.x = unsigned(blocks);
  for (int b = 0; b < blocks; ++b) {
    block_index.x = unsigned(b);
    run_block(threads, work);
  }
}

}  // namespace emulated

#define threadIdx emulated::thread_index
#define blockIdx emulated::block_index
#define gridDim emulated::grid_size

inline void __syncthreads() { emulated::wait(emulated::block.all); }

namespace emulated {

/// What look(slots of the lanes, own lane) finds in the values of a warp.
template <class T, class Look>
auto across(T value, Look look) {
  const int self = block.current, first = self / warp * warp;
  Barrier& lanes = block.warps[size_t(self / warp)];
  block.slots[size_t(self)] = uint64_t(value);
  wait(lanes);
  const auto found = look(&block.slots[size_t(first)], self - first);
  wait(lanes);
  return found;
}

}  // namespace emulated

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulated::across(value,
                          [&](const uint64_t* slots, int lane) { return T(slots[lane ^ mask]); });
}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulated::across(value, [&](const uint64_t* slots, int) { return T(slots[lane]); });
}

inline bool __all_sync(unsigned, bool value) {
  return emulated::across(value, [](const uint64_t* slots, int) {
    return std::all_of(slots, slots + emulated::warp, [](uint64_t slot) { return slot != 0; });
  });
}

inline bool __any_sync(unsigned, bool value) {
  return emulated::across(value, [](const uint64_t* slots, int) {
    return std::any_of(slots, slots + emulated::warp, [](uint64_t slot) { return slot != 0; });
  });
}

template <class T>
T atomicMax(T* to, T value) {
  const T before = *to;
  *to = std::max(before, value);
  return before;
}
