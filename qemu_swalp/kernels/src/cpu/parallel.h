// Work on a CPU in several threads.
#pragma once
#include <atomic>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/floats.h"

QS_BEGIN

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

QS_END
