// Quantization of arrays on a CPU: the passes over all tasks.
#pragma once
#include "cpu/job.h"

QS_BEGIN

/// All of a job. each(work): work(task, scratch) for all tasks, before it returns.
template <class C, class Each>
void run_all(Job<C>& job, Each each) {
  if (job.two_level()) {
    typename C::Word whole = 0;
    each([&](int64_t task, Scratch<C>&) { job.find_whole(task, whole); });
    job.set_whole(whole);
  }
  if (job.one_pass())
    return each([&](int64_t task, Scratch<C>& scratch) { job.run(task, scratch); });
  std::vector<Extremes<C>> extremes(job.looks() ? size_t(job.blocks()) : 0, Extremes<C>{});
  if (job.looks())
    each([&](int64_t task, Scratch<C>& scratch) { job.reduce(task, scratch, extremes.data()); });
  if (job.has_given()) {
    return each([&](int64_t task, Scratch<C>& scratch) {
      job.round(task, scratch, [&](int64_t block) {
        // Where nobody looked there may be infinities.
        return job.given_scale(block, job.looks() ? extremes[size_t(block)].special : 2);
      });
    });
  }
  std::vector<Scale<C>> scales(extremes.size());
  std::vector<uint64_t> least, losses;
  for (int candidate = 0; candidate < job.searches(); ++candidate) {
    auto scale_of = [&](int64_t block) {
      return job.finder(candidate).scale_of(extremes[size_t(block)], job.global());
    };
    losses.assign(extremes.size(), 0);
    each([&](int64_t task, Scratch<C>& scratch) {
      job.add_errors(task, scratch, extremes.data(), scale_of, losses.data());
    });
    if (candidate == 0) least.assign(extremes.size(), ~uint64_t(0));
    for (size_t i = 0; i < extremes.size(); ++i) {
      if (losses[i] >= least[i]) continue;
      least[i] = losses[i];
      scales[i] = scale_of(int64_t(i));
    }
  }
  for (size_t i = 0; !job.searches() && i < scales.size(); ++i)
    scales[i] = job.scale_of(extremes[i]);
  each([&](int64_t task, Scratch<C>& scratch) {
    job.round(task, scratch, [&](int64_t block) { return scales[size_t(block)]; });
  });
}

QS_END
