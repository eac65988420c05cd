// From a block's largest magnitude to its scale (docs/numerics.md sections 3 and 4), and scales in memory.
#pragma once

#include "load_store.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

template <class C>
inline typename C::Bits largest_magnitude(const typename C::Bits* row, std::int64_t count) {
  typename C::Bits top = 0;
  for (std::int64_t i = 0; i < count; ++i) top = larger_magnitude<C>(top, row[i] & ~sign_mask<C>);
  return top;
}

// docs/numerics.md section 3. `amax` is finite and not zero.
template <class C>
inline int scale_exponent(const QuantizeJob& job, typename C::Bits amax) {
  const Split x = split<C>(amax);
  const int top = highest_bit(x.significand);
  const std::uint64_t fraction = (x.significand << (52 - top)) & ((std::uint64_t{1} << 52) - 1);
  const int exponent = top + x.exponent - job.scale_shift + (fraction > job.promote_above ? 1 : 0);
  return smaller(larger(exponent, job.scale_min), job.scale_max);
}

// What a block is scaled by: an exponent that is subtracted, or a float that divides.
struct BlockScale {
  int exponent = 0;
  float factor = 1;
  bool poisoned = false;
};

inline BlockScale read_scale(const QuantizeJob& job, std::int64_t index) {
  BlockScale scale;
  if (job.scale_kind == ScaleKind::floating) {
    scale.factor = static_cast<const float*>(job.scales)[index];
    scale.poisoned = !(scale.factor == scale.factor);
  } else if (job.scale_kind == ScaleKind::power_of_two) {
    const std::uint32_t code = load_code(job.scales, job.scale_bytes, index);
    scale.poisoned = job.scale_nan && code == job.scale_nan_code;
    scale.exponent = static_cast<int>(code) + job.scale_min;
  }
  return scale;
}

inline void write_scale(const QuantizeJob& job, std::int64_t index, const BlockScale& scale) {
  if (job.scales == nullptr) return;
  if (job.scale_kind == ScaleKind::floating) {
    static_cast<float*>(job.scales)[index] = scale.poisoned ? as_value<Carrier32>(nan_bits<Carrier32>) : scale.factor;
    return;
  }
  const std::uint32_t code =
      scale.poisoned ? job.scale_nan_code : static_cast<std::uint32_t>(scale.exponent - job.scale_min);
  if (job.scale_bytes == 1)
    static_cast<std::uint8_t*>(job.scales)[index] = static_cast<std::uint8_t>(code);
  else
    static_cast<std::uint16_t*>(job.scales)[index] = static_cast<std::uint16_t>(code);
}

// docs/numerics.md section 4, step 2.
inline float float_scale(const QuantizeJob& job, float amax) {
  if (amax == 0) return 1;
  const float scale = amax / job.scale_divisor;
  return scale == 0 ? 0x1p-149f : scale;
}

// The scale of a block whose largest magnitude is `amax`, stored.
template <class C>
inline BlockScale make_scale(const QuantizeJob& job, std::int64_t index, typename C::Bits amax, Counts& counts) {
  const bool finite = amax < infinity_bits<C>;
  BlockScale scale;
  scale.poisoned = !finite;
  if (job.scale_kind == ScaleKind::power_of_two)
    scale.exponent = finite && amax != 0 ? scale_exponent<C>(job, amax) : job.scale_min;
  else if (finite)
    scale.factor = float_scale(job, static_cast<float>(as_value<C>(amax)));
  counts.zero_blocks += amax == 0;
  const bool no_code = scale.poisoned && job.scale_kind == ScaleKind::power_of_two && !job.scale_nan;
  if (no_code || scale.factor > 0x1.fffffep127F) ++counts.refused;
  write_scale(job, index, scale);
  return scale;
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
