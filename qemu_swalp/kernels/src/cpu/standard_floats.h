// How floats are computed with on a CPU.
#pragma once
#include "common/portable.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

QS_BEGIN

/// Rounding to nearest even, without flushing, as long as it lives.
class StandardFloats {
#if defined(__x86_64__)
 public:
  StandardFloats() : before_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~StandardFloats() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
 public:
  StandardFloats() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
    __asm__ volatile("msr fpcr, %0" : : "r"(uint64_t(0)));
  }
  ~StandardFloats() { __asm__ volatile("msr fpcr, %0" : : "r"(before_)); }

 private:
  uint64_t before_;
#endif
};

QS_END
