// Numbers of arrays on a GPU in the dtype that is computed with: their own, or float32 for those of
// 16 bits.
#pragma once
#include "common/float_arithmetic.h"
#include "common/plan.h"
#include "cuda/packs.h"

QS_BEGIN

/// float32 bits of a 16-bit number; N: its dtype.
template <class N>
QS_DEVICE uint32_t widened(uint32_t raw) {
  if constexpr (N::bias == Single::bias) return raw << 16;
#if defined(__CUDA_ARCH__)
  float number;
  asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(uint16_t(raw)));
  return bits_as<uint32_t>(number);
#else
  const uint32_t sign = (raw & N::sign) << 16, magnitude = raw & (N::sign - 1);
  if (magnitude >= N::infinity)
    return sign | (magnitude > N::infinity ? Single::nan : Single::infinity);
  const Number<N> x = number_of_bits<N>(magnitude);
  return sign | join<Single>({x.exponent, x.significand});
#endif
}

/// The nearest 16-bit number of float32 bits, ties to even.
template <class N>
QS_DEVICE uint32_t narrowed(uint32_t raw) {
  const uint32_t magnitude = raw & (Single::sign - 1), sign = raw >> 16 & N::sign;
  if (magnitude > Single::infinity) return sign | N::nan;
  if constexpr (N::bias == Single::bias) return (raw + 0x7FFF + (raw >> 16 & 1)) >> 16;
#if defined(__CUDA_ARCH__)
  uint16_t number;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(number) : "f"(bits_as<float>(raw)));
  return number;
#else
  if (magnitude == Single::infinity) return sign | N::infinity;
  const Number<Single> x = number_of_bits<Single>(magnitude);
  return sign | pack<N>(x.significand, x.exponent - Single::significand);
#endif
}

struct alignas(8) NarrowPack {
  uint16_t at[pack_size<Single>];
};

template <class N>
QS_DEVICE Pack<Single> load_narrow(const uint16_t* from, int count) {
  NarrowPack narrow{};
  if (count == pack_size<Single> && uint64_t(from) % sizeof narrow == 0) {
    narrow = *reinterpret_cast<const NarrowPack*>(from);
  } else {
    for (int i = 0; i < pack_size<Single>; ++i) {
      if (i < count) narrow.at[i] = from[i];
    }
  }
  Pack<Single> pack;
  for (int i = 0; i < pack_size<Single>; ++i) pack.at[i] = widened<N>(narrow.at[i]);
  return pack;
}

template <class N>
QS_DEVICE void store_narrow(uint16_t* to, const Pack<Single>& pack, int count) {
  NarrowPack narrow;
  for (int i = 0; i < pack_size<Single>; ++i) narrow.at[i] = uint16_t(narrowed<N>(pack.at[i]));
  if (count == pack_size<Single> && uint64_t(to) % sizeof narrow == 0) {
    *reinterpret_cast<NarrowPack*>(to) = narrow;
    return;
  }
  for (int i = 0; i < pack_size<Single>; ++i) {
    if (i < count) to[i] = narrow.at[i];
  }
}

/// Neighbours in memory, of C or of 16 bits.
template <class C>
class Numbers {
 public:
  using Stored = typename C::Stored;

  /// Those of an array from an element on.
  QS_DEVICE Numbers(const void* array, Dtype dtype, int64_t first)
      : at_(uint64_t(array) + uint64_t(first) * (is_narrow(dtype) ? 2 : sizeof(Stored))),
        dtype_(dtype) {}

  QS_DEVICE Pack<C> load(uint32_t at, int count) const {
    if constexpr (C::mantissa == Single::mantissa) {
      if (dtype_ == Dtype::bfloat16) return load_narrow<BFloat>(place<uint16_t>(at), count);
      if (dtype_ == Dtype::float16) return load_narrow<Half>(place<uint16_t>(at), count);
    }
    return qemu_swalp::load<C>(place<Stored>(at), count);
  }

  QS_DEVICE void store(uint32_t at, const Pack<C>& pack, int count) const {
    if constexpr (C::mantissa == Single::mantissa) {
      if (dtype_ == Dtype::bfloat16) return store_narrow<BFloat>(place<uint16_t>(at), pack, count);
      if (dtype_ == Dtype::float16) return store_narrow<Half>(place<uint16_t>(at), pack, count);
    }
    qemu_swalp::store<C>(place<Stored>(at), pack, count);
  }

 private:
  static QS_DEVICE bool is_narrow(Dtype dtype) {
    return dtype == Dtype::float16 || dtype == Dtype::bfloat16;
  }
  template <class T>
  QS_DEVICE T* place(uint32_t at) const {
    return reinterpret_cast<T*>(at_) + at;
  }

  uint64_t at_;
  Dtype dtype_;
};

QS_END
