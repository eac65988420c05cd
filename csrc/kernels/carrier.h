// The two carriers: every input type widens exactly to float32 bits or float64 bits.
//
// This and every header in this folder is compiled once per instruction set. Everything lives in an anonymous
// namespace inside a namespace per set, and uses no std:: template, so that no copy can serve another set.
#pragma once

#include <cstdint>
#include <cstring>

#include "../kernel_table.h"

// Bytes of the vectors that kernels name: a register of the instruction set, if the build names no other (as tests do,
// which run the lanes of wider sets on narrower processors).
#ifndef SPARQ_REGISTER_BYTES
#define SPARQ_REGISTER_BYTES __BIGGEST_ALIGNMENT__
#endif

namespace sparq::SPARQ_ISA_NAME {
namespace {

struct Carrier32 {
  using Bits = std::uint32_t;
  using Int = std::int32_t;
  using Value = float;
  static constexpr int width = 32, mantissa = 23, bias = 127, max_field = 255;
};

struct Carrier64 {
  using Bits = std::uint64_t;
  using Int = std::int64_t;
  using Value = double;
  static constexpr int width = 64, mantissa = 52, bias = 1023, max_field = 2047;
};

template <class C>
constexpr typename C::Bits sign_mask = typename C::Bits{1} << (C::width - 1);
template <class C>
constexpr typename C::Bits infinity_bits = static_cast<typename C::Bits>(C::max_field) << C::mantissa;
template <class C>
constexpr typename C::Bits nan_bits = infinity_bits<C> | typename C::Bits{1} << (C::mantissa - 1);

template <class C>
inline typename C::Value as_value(typename C::Bits bits) {
  return __builtin_bit_cast(typename C::Value, bits);
}

template <class C>
inline typename C::Bits as_bits(typename C::Value value) {
  return __builtin_bit_cast(typename C::Bits, value);
}

template <class T>
inline T smaller(T a, T b) {
  return b < a ? b : a;
}

template <class T>
inline T larger(T a, T b) {
  return a < b ? b : a;
}

inline int highest_bit(std::uint64_t nonzero) { return 63 - __builtin_clzll(nonzero); }

// A finite magnitude of the carrier as significand * 2^exponent.
struct Split {
  std::uint64_t significand;
  int exponent;
};

template <class C>
inline Split split(typename C::Bits magnitude) {
  const typename C::Bits hidden = typename C::Bits{1} << C::mantissa;
  const int field = static_cast<int>(magnitude >> C::mantissa);
  const typename C::Bits mantissa = magnitude & (hidden - 1);
  if (field == 0) return {mantissa, 1 - C::bias - C::mantissa};
  return {mantissa | hidden, field - C::bias - C::mantissa};
}

// significand * 2^exponent in the carrier, nearest even; `exact` is cleared when that loses bits or overflows.
template <class C>
inline typename C::Bits compose(std::uint64_t significand, int exponent, bool& exact) {
  using Bits = typename C::Bits;
  if (significand == 0) return 0;
  const int top = highest_bit(significand) + exponent;
  if (top > C::bias) {
    exact = false;
    return infinity_bits<C>;
  }
  // The quantum of the result: its last mantissa bit, or the smallest subnormal.
  const int quantum = larger(top, 1 - C::bias) - C::mantissa;
  const int shift = quantum - exponent;
  if (shift <= 0) {
    const std::uint64_t scaled = significand << -shift;
    const std::uint64_t field = static_cast<std::uint64_t>(quantum + C::bias + C::mantissa - 1);
    return static_cast<Bits>((field << C::mantissa) + scaled);
  }
  if (shift > 62) {
    exact = false;
    return 0;
  }
  const std::uint64_t half = std::uint64_t{1} << (shift - 1);
  const std::uint64_t rest = significand & (2 * half - 1);
  std::uint64_t scaled = significand >> shift;
  if (rest != 0) exact = false;
  if (rest > half || (rest == half && (scaled & 1))) ++scaled;
  const std::uint64_t field = static_cast<std::uint64_t>(quantum + C::bias + C::mantissa - 1);
  const std::uint64_t bits = (field << C::mantissa) + scaled;
  if (bits >= infinity_bits<C>) exact = false;
  return static_cast<Bits>(bits);
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
