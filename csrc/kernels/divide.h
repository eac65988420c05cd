// Blocks under float scales.
#pragma once

#include "blocks.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// Whether the rounding funnel can make scales: in float32, so that codes come many at a time.
inline bool scales_by_addition(const QuantizeJob& job) {
  const ElementFormat& f = job.scale_format;
  return job.short_scale && max_exponent(f) + Carrier32::mantissa - f.mantissa_bits < Carrier32::bias;
}

// The scales of finite blocks, all at once (docs/numerics.md section 4): make_scale, without a branch.
template <Round mode>
inline void make_short_scales(const QuantizeJob& job, const std::uint32_t* tops, std::int64_t blocks, float outer,
                              std::int64_t index, float* factors, float* quotients, Counts& counts) {
  using C = Carrier32;
  const ShortScale<C, mode> scale_of(job);
  const std::uint32_t zero_code = job.zero_code;
  const std::uint32_t zero_value = as_bits<C>(short_scale_value(job.scale_format, zero_code));
  std::uint32_t codes[tile_capacity];
  std::int64_t zeros = 0, beyond = 0;
  if (job.in_float64)
    for (std::int64_t b = 0; b < blocks; ++b) quotients[b] = quotient_in_float64(job, as_value<C>(tops[b]), outer);
  else
    for (std::int64_t b = 0; b < blocks; ++b) quotients[b] = scale_quotient(job, as_value<C>(tops[b]), outer);
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::uint32_t quotient = as_bits<C>(quotients[b]);
    const auto scale = scale_of(quotient);
    const bool zero = tops[b] == 0;
    codes[b] = zero ? zero_code : scale.code;
    factors[b] = as_value<C>(zero ? zero_value : scale.value);
    zeros += zero;
    beyond += quotient >= infinity_bits<C>;
  }
  counts.zero_blocks += zeros;
  counts.refused += beyond;
  const ScalePlane& plane = main_plane(job);
  if (plane.data == nullptr) return;
  if (plane.bytes == 1) {
    auto* to = static_cast<std::uint8_t*>(plane.data) + index;
    for (std::int64_t b = 0; b < blocks; ++b) to[b * plane.step] = static_cast<std::uint8_t>(codes[b]);
  } else {
    for (std::int64_t b = 0; b < blocks; ++b) store_code(plane, index + b * plane.step, codes[b]);
  }
}

// The product of two scales as what divides: the nearest positive number of float32, or its negative.
inline float as_divisor(float factor) {
  const float magnitude = factor < 0 ? -factor : factor;
  const float within = smaller(larger(magnitude, 0x1p-149F), 0x1.fffffep127F);
  return factor < 0 ? -within : within;
}

// What multiplies instead: of the same sign, and a number of its type.
inline float reciprocal_of(const QuantizeJob& job, float divisor) {
  const bool narrow = job.conversion.scale_compute == ScaleCompute::bf16;
  const float largest = narrow ? 0x1.FEp127F : 0x1.fffffep127F, once = 1 / divisor;
  return smaller(larger(narrow ? as_bf16(once) : once, -largest), largest);
}

// x * times + offset, each step in float32, cut, less the integer below the offset.
template <class C, class Count>
inline void cut_run(const typename C::Bits* raw, Count count, float times, float offset, typename C::Bits* to) {
  const auto below = static_cast<std::int32_t>(offset);
  constexpr float most = 0x1p20F;  // far beyond any integer that is stored
  for (std::int64_t i = 0; i < count; ++i) {
    const float sum = static_cast<float>(as_value<C>(raw[i])) * times + offset;
    const auto integer = static_cast<std::int32_t>(smaller(larger(sum, -most), most));
    to[i] = as_bits<C>(static_cast<typename C::Value>(integer - below));
  }
}

// What multiplies directly may be Inf: zeros stay, and everything else is large.
template <class C, class Count>
inline void overwhelm_run(const typename C::Bits* raw, Count count, typename C::Bits* to) {
  using Bits = typename C::Bits;
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits sign = raw[i] & sign_mask<C>;
    to[i] = raw[i] == sign ? sign : sign | (infinity_bits<C> - 1);
  }
}

// A quotient beyond float32 (under a tiny scale) saturates like any large number: it may stay a large number. Where a
// quotient of zero was what divides, everything is zero. Where elements are multiplied directly, `by` is what
// multiplies.
template <class C, class Count>
inline void divide_run(const QuantizeJob& job, const typename C::Bits* raw, Count count, float by,
                       typename C::Bits* to) {
  using Bits = typename C::Bits;
  using Value = typename C::Value;
  if (by == 0 && job.conversion.scale_underflow == ScaleUnderflow::zeros) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = 0;
    return;
  }
  const float divisor = job.by_quotient && by == 0 ? as_value<Carrier32>(infinity_bits<Carrier32>) : as_divisor(by);
  const bool narrow = job.conversion.apply_compute == ApplyCompute::bf16;
  const auto put = [=](std::int64_t i, Value quotient) {
    const Bits bits = as_bits<C>(quotient), sign = bits & sign_mask<C>;
    to[i] = sign | smaller_magnitude<C>(bits ^ sign, infinity_bits<C> - 1);
  };
  const bool multiplies = job.conversion.scale_apply != ScaleApply::divide;
  const float times = job.multiplies_directly ? by : multiplies ? reciprocal_of(job, divisor) : 1;
  if (job.multiplies_directly && times > 0x1.fffffep127F) return overwhelm_run<C>(raw, count, to);
  if (job.conversion.cut_offset > 0) return cut_run<C>(raw, count, times, job.conversion.cut_offset, to);
  const auto factor = static_cast<Value>(multiplies ? times : divisor);
  if (narrow) {
    for (std::int64_t i = 0; i < count; ++i) {
      const Value x = as_value<C>(raw[i]), quotient = multiplies ? x * factor : x / factor;
      put(i, static_cast<Value>(as_bf16(static_cast<float>(quotient))));
    }
  } else if (multiplies) {
    for (std::int64_t i = 0; i < count; ++i) put(i, as_value<C>(raw[i]) * factor);
  } else {
    for (std::int64_t i = 0; i < count; ++i) put(i, as_value<C>(raw[i]) / factor);
  }
}

// The rule signed_max: the first element of the largest magnitude goes to the lowest integer, so a positive one has a
// negative scale; so have zeros, which nothing precedes.
template <class C>
inline void sign_scale(const QuantizeJob& job, const typename C::Bits* row, std::int64_t count, typename C::Bits top,
                       std::int64_t index, float& factor, float& quotient) {
  std::int64_t first = 0;
  while (top != 0 && first < count && (row[first] & ~sign_mask<C>) != top) ++first;
  if (top != 0 && first < count && (row[first] & sign_mask<C>) != 0) return;
  factor = -factor;
  quotient = -quotient;
  const ScalePlane& plane = main_plane(job);
  if (plane.data != nullptr)
    store_code(plane, index, load_code(plane.data, plane.bytes, index) | sign_bit(job.scale_format));
}

// The rules mse and mae: beside the scale that takes amax to the largest element, the one that takes it to the largest
// power of two among them. Returns what leaves the smaller error, the first of equals, and stores its code.
template <class C, Round mode>
__attribute__((noinline)) float searched_factor(const QuantizeJob& job, const TargetFamily<C>& family, Stretch<C> s,
                                                typename C::Bits amax, float outer, float first, std::int64_t index) {
  using Bits = typename C::Bits;
  using Value = typename C::Value;
  const int top = job.top_exponent + highest_bit(job.top_significand);
  const auto ratio = static_cast<float>(as_value<C>(wrapped_bits<C>(job.top_significand, job.top_exponent - top)));
  const float quotient = float_scale(job, static_cast<float>(as_value<C>(amax)), outer) * ratio;
  const std::uint32_t code = short_scale_code(job, smaller(quotient, 0x1.fffffep127F));
  float second = short_scale_value(job.scale_format, code);
  if (job.main > 0) second = second * outer;
  Bits quotients[tile_capacity], values[tile_capacity];
  Counts ignored;
  s.row = quotients;
  s.values = values;
  const auto error = [&](float factor) {
    divide_run<C>(job, s.raw, s.count, factor, quotients);
    round_block<C, mode>(job, family, 0, true, s, ignored);
    for (std::int64_t i = 0; i < s.count; ++i)
      values[i] = as_bits<C>(as_value<C>(values[i]) * static_cast<Value>(factor));
    return error_of<C>(job, s.raw, values, s.count);
  };
  const double least = error(first);
  if (!(error(second) < least)) return first;
  store_code(main_plane(job), index, code);
  return second;
}

// The blocks of a line under float scales: each step is one IEEE operation in float32 (docs/numerics.md section 4). All
// of them are rounded at once, since what is divided needs no exponent.
template <class C, Round mode>
inline void quantize_divided(const QuantizeJob& job, const TargetFamily<C>& family, const Place& at, Stretch<C> s,
                             Rows<C>& rows, Counts& counts) {
  using Bits = typename C::Bits;
  using Value = typename C::Value;
  const Runs visit{at.first, s.count, job.geometry.block};
  bool all_finite = true, any_poisoned = false;
  std::int64_t blocks = 0;
  Bits highest = 0;
  visit([&](std::int64_t b, std::int64_t start, auto n) {
    rows.tops[b] = largest_magnitude<C>(s.raw + start, n);
    highest = larger_magnitude<C>(highest, rows.tops[b]);
    blocks = b + 1;
  });
  if (highest >= infinity_bits<C>)
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      bool finite = true;
      rows.tops[b] = counted_magnitude<C>(job.skip_nonfinite, s.raw + start, n, finite);
      if (!finite) count_nonfinite<C>(job, s.raw + start, n, counts);
      all_finite &= finite;
    });
  const float outer = outer_scale(job, at);
  const std::int64_t index = main_index(job, at), step = main_plane(job).step;
  const bool plain = highest < infinity_bits<C> && outer == outer && !main_plane(job).given;
  if (C::width == 32 && plain && scales_by_addition(job)) {
    const auto* tops = reinterpret_cast<const std::uint32_t*>(rows.tops);
    if (job.conversion.scale_rounding == ScaleRounding::up)
      make_short_scales<Round::directed>(job, tops, blocks, outer, index, rows.factors, rows.quotients, counts);
    else
      make_short_scales<Round::nearest_even>(job, tops, blocks, outer, index, rows.factors, rows.quotients, counts);
  } else {
    for (std::int64_t b = 0; b < blocks; ++b) {
      const bool finite = rows.tops[b] < infinity_bits<C>;
      const BlockScale scale = block_scale<C>(job, index + b * step, rows.tops[b], outer, counts);
      counts.refused += !finite && !scale.poisoned && !job.makes_outer;  // below a given scale that is a number
      rows.poisoned[b] = scale.poisoned || !finite;
      any_poisoned |= rows.poisoned[b] != 0;
      rows.factors[b] = scale.factor;
      rows.quotients[b] = scale.quotient;
    }
  }
  const bool made = !main_plane(job).given;
  if (job.conversion.scale_rule == ScaleRule::signed_max && made)
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      if (any_poisoned && rows.poisoned[b] != 0) return;
      sign_scale<C>(job, s.raw + start, n, rows.tops[b], index + b * step, rows.factors[b], rows.quotients[b]);
    });
  const float* divisors = (job.by_quotient && made) || job.main > 0 ? rows.quotients : rows.factors;
  // What they make with the outer scale may leave the positive numbers where the decoder's does; nothing is divided by
  // that.
  if (job.in_float64) {
    const bool multiplies = job.multiplies_directly;
    for (std::int64_t b = 0; b < blocks; ++b) {
      const double divisor = shared_divisor(rows.factors[b], outer, job.largest_scale);
      rows.factors[b] = static_cast<float>(divisor);
      rows.quotients[b] = static_cast<float>(multiplies ? 1 / divisor : divisor);
    }
  } else if (job.main > 0) {
    const Combine combine = job.format.levels[0].combine;
    const bool outer_reciprocal = job.multiplies_directly;
    for (std::int64_t b = 0; b < blocks; ++b) {
      const float stored = rows.factors[b], divisor = combined_divisor(combine, stored, outer);
      rows.factors[b] = combined_factor(combine, divisor);
      rows.quotients[b] = outer_reciprocal ? 1 / outer / stored : divisor;
    }
  }
  if (searches(job.conversion.scale_rule) && made)
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      if (rows.tops[b] == 0 || (any_poisoned && rows.poisoned[b] != 0)) return;
      const Stretch<C> part{s.raw + start, nullptr, s.chances + start, n, nullptr, nullptr};
      const float first = rows.factors[b];
      rows.factors[b] = rows.quotients[b] =
          searched_factor<C, mode>(job, family, part, rows.tops[b], outer, first, index + b * step);
    });
  if (!all_finite && job.skip_nonfinite)  // results may overwrite input
    for (std::int64_t i = 0; i < s.count; ++i)
      rows.places[i] = (s.raw[i] & ~sign_mask<C>) >= infinity_bits<C> ? s.raw[i] : 0;
  Bits quotients[tile_capacity];
  visit([&](std::int64_t b, std::int64_t start, auto n) {
    divide_run<C>(job, s.raw + start, n, divisors[b], quotients + start);
  });
  if (!all_finite && job.skip_nonfinite)
    for (std::int64_t i = 0; i < s.count; ++i) quotients[i] = rows.places[i] != 0 ? 0 : quotients[i];
  if (any_poisoned)
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      for (std::int64_t i = start; rows.poisoned[b] != 0 && i < start + n; ++i) quotients[i] = 0;
    });
  s.row = quotients;
  if (job.levels > job.main + 1) {
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      BlockScale scale;
      scale.poisoned = any_poisoned && rows.poisoned[b] != 0;
      micro_shifts<C>(job, at.batch, at.line, at.first + start, quotients + start, n, scale, rows.shifts + start);
    });
    s.shifts = rows.shifts;
  }
  if (job.count)
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      Stretch<C> part{s.raw + start, s.row + start, s.chances + start, n, nullptr, nullptr};
      if (s.shifts != nullptr) part.shifts = s.shifts + start;
      if (!any_poisoned || rows.poisoned[b] == 0) count_events<C>(job, job.reach, part, counts);
    });
  round_block<C, mode>(job, family, job.reach, true, s, counts);
  // NaN and Inf that stay in their places were rounded as zeros; a negative scale turns their signs.
  const auto block_of = [&](std::int64_t i) { return (at.first % job.geometry.block + i) / job.geometry.block; };
  if (!all_finite && job.skip_nonfinite)
    for (std::int64_t i = 0; i < s.count; ++i) {
      if (rows.places[i] == 0) continue;
      bool exact = true;
      const bool minus = (as_bits<Carrier32>(rows.factors[block_of(i)]) & sign_mask<Carrier32>) != 0;
      const Bits turned = minus ? sign_mask<C> : 0;
      const RoundedElement<C> one = round_one<C>(job, rows.places[i] ^ turned, job.reach + s.shift(i), 0, exact);
      if (s.values != nullptr) s.values[i] = one.value;
      if (s.codes != nullptr) s.codes[i] = one.code;
      counts.refused += one.refused;
    }
  if (s.values != nullptr)
    visit([&](std::int64_t b, std::int64_t start, auto n) {
      const auto factor = static_cast<Value>(rows.factors[b]);
      Bits* values = s.values + start;
      for (std::int64_t i = 0; i < n; ++i) values[i] = as_bits<C>(as_value<C>(values[i]) * factor);
      if (factor - factor == 0) return;
      for (std::int64_t i = 0; i < n; ++i)  // zero times Inf
        values[i] = (values[i] & ~sign_mask<C>) > infinity_bits<C> ? nan_bits<C> : values[i];
    });
  if (any_poisoned)
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      if (rows.poisoned[b] == 0) return;
      fill_poisoned<C>(n, s.values != nullptr ? s.values + start : nullptr,
                       s.codes != nullptr ? s.codes + start : nullptr);
    });
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
