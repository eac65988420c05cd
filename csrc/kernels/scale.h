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

// The same of finite elements, where those are all that counts; `finite` says whether all are.
template <class C>
inline typename C::Bits counted_magnitude(bool skip_nonfinite, const typename C::Bits* row, std::int64_t count,
                                          bool& finite) {
  using Bits = typename C::Bits;
  Bits top = largest_magnitude<C>(row, count);
  finite = top < infinity_bits<C>;
  if (finite || !skip_nonfinite) return top;
  top = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits magnitude = row[i] & ~sign_mask<C>;
    top = larger_magnitude<C>(top, magnitude < infinity_bits<C> ? magnitude : 0);
  }
  return top;
}

// To bfloat16 toward zero; what is no number stays what it is.
template <class C>
inline void cut_to_bf16(const typename C::Bits* from, std::int64_t count, typename C::Bits* to) {
  using Bits = typename C::Bits;
  using Value = typename C::Value;
  constexpr Bits cut = ~((Bits{1} << (C::mantissa - 7)) - 1);
  const Bits largest = from_float<C>(0x1.FEp127F);
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits sign = from[i] & sign_mask<C>, magnitude = from[i] ^ sign;
    Bits number = smaller_magnitude<C>(magnitude & cut, largest);
    if constexpr (C::width > 32) {
      // Subnormal numbers of bfloat16 are multiples of 2^-133, which float32 bits see to by themselves.
      const Value steps = as_value<C>(smaller_magnitude<C>(magnitude, from_float<C>(0x1p-126F))) * Value(0x1p133);
      const Value unit = Value(0x1p52), near = (steps + unit) - unit;
      const Value whole = near > steps ? near - 1 : near;
      number = magnitude < from_float<C>(0x1p-126F) ? as_bits<C>(whole * Value(0x1p-133)) : number;
    }
    to[i] = magnitude < infinity_bits<C> ? sign | number : magnitude > infinity_bits<C> ? nan_bits<C> : from[i];
  }
}

// Input as it is quantized. May run in place.
template <class C>
inline void prepare_row(const Prepare& how, const typename C::Bits* from, std::int64_t count, typename C::Bits* to) {
  using Bits = typename C::Bits;
  if constexpr (C::width > 32) {
    for (std::int64_t i = 0; how.to_fp32 && i < count; ++i)
      to[i] = from_float<C>(static_cast<float>(as_value<C>(from[i])));
    if (how.to_fp32) from = to;
  }
  constexpr std::int64_t chunk = 256;
  std::uint32_t codes[chunk];
  for (std::int64_t done = 0; how.to_bf16 && done < count; done += chunk) {
    const std::int64_t n = smaller(chunk, count - done);
    narrow_row<C>(from + done, n, 8, 7, codes);
    for (std::int64_t i = 0; i < n; ++i) to[done + i] = from_float<C>(as_value<Carrier32>(codes[i] << 16));
  }
  if (how.to_bf16) from = to;
  if (how.cut_to_bf16) {
    cut_to_bf16<C>(from, count, to);
    from = to;
  }
  const Bits smallest = static_cast<Bits>(C::bias - 126) << C::mantissa;
  const Bits below = how.flush ? smallest : 0;
  const Bits zero_sign = how.no_negative_zero ? 0 : sign_mask<C>;
  const Bits of_zeros = how.negative_zero ? sign_mask<C> : 0;
  const Bits top = from_float<C>(0x1.fffffep127F);
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits sign = from[i] & sign_mask<C>, magnitude = from[i] ^ sign;
    const bool number = magnitude < infinity_bits<C>, infinite = magnitude == infinity_bits<C>;
    const Bits kept = magnitude == 0 || magnitude < below ? (sign & zero_sign) | of_zeros : sign | magnitude;
    Bits replaced = how.to_largest ? top | (infinite ? sign : 0) : how.to_zero ? 0 : from[i];
    if (how.infinite_to_largest && infinite) replaced = top | sign;
    if (how.nan_to_infinity && !infinite) replaced = infinity_bits<C>;
    to[i] = number ? kept : replaced;
  }
}

// docs/numerics.md section 3, before X is clamped. `amax` is finite and not zero.
template <class C>
inline int wanted_exponent(const QuantizeJob& job, typename C::Bits amax) {
  const Split x = split<C>(amax);
  const int top = highest_bit(x.significand);
  const std::uint64_t fraction = (x.significand << (52 - top)) & ((std::uint64_t{1} << 52) - 1);
  const int exponent = top + x.exponent;
  const std::uint64_t above =
      job.promote_by_exponent != nullptr ? job.promote_by_exponent[exponent + 149] : job.promote_above;
  return exponent - job.scale_shift + (fraction > above ? 1 : 0);
}

// What a block is scaled by: an exponent that is subtracted, or a float that divides.
struct BlockScale {
  int exponent = 0;
  float factor = 1;
  float quotient = 1;      // before it became a code
  std::uint32_t code = 0;  // of short float scales
  bool poisoned = false;
};

// A short float scale is a float32 number.
inline float short_scale_value(const ElementFormat& f, std::uint32_t code) {
  const std::uint32_t magnitude = code & magnitude_mask(f), sign = magnitude != code ? sign_mask<Carrier32> : 0;
  if (classify(f, code) == CodeClass::infinity) return as_value<Carrier32>(infinity_bits<Carrier32> | sign);
  const Magnitude m = magnitude_of(f, magnitude);
  const auto power = static_cast<std::uint32_t>(m.exponent + Carrier32::bias) << Carrier32::mantissa;
  const float value = static_cast<float>(m.significand) * as_value<Carrier32>(power);
  return as_value<Carrier32>(as_bits<Carrier32>(value) | sign);
}

// From quotients to short float scales: the rounding funnel, between the least and the largest scale, or to Inf.
template <class C, Round mode>
struct ShortScale {
  using Bits = typename C::Bits;
  using Int = typename C::Int;
  FixedPrecision<C> precision;
  int mantissa_bits;
  Bits min_power, limit;
  Int first, least, largest;                 // the code of min_power, and those between which finite scales lie
  std::uint32_t underflow, underflow_value;  // what those below become

  explicit ShortScale(const QuantizeJob& job)
      : precision(job.scale_format.mantissa_bits), mantissa_bits(job.scale_format.mantissa_bits) {
    const ElementFormat& f = job.scale_format;
    const Magnitude top = magnitude_of(f, max_code(f));
    min_power = wrapped_bits<C>(1, min_exponent(f));
    limit = wrapped_bits<C>(top.significand + (has_infinity(f) ? 1 : 0), top.exponent);
    first = static_cast<Int>(Bits{f.zero ? 0U : 1U} << mantissa_bits);  // the funnel counts from zero
    least = static_cast<Int>(job.least_code);
    largest = static_cast<Int>(max_code(f));
    underflow = job.underflow_code;
    underflow_value = as_bits<Carrier32>(short_scale_value(f, underflow));
  }

  struct Scale {
    std::uint32_t code, value;  // of float32
  };

  Scale operator()(Bits quotient) const {
    constexpr ChanceRule unused{};
    const Rounded<C> r =
        round_magnitude<C, mode>(smaller_magnitude<C>(quotient, limit), min_power, precision, ~Bits{0}, unused, 0);
    const Int code = static_cast<Int>(rounded_code<C>(r, min_power, mantissa_bits)) - first;
    const auto rounded = as_bits<Carrier32>(static_cast<float>(as_value<C>(rounded_value<C>(r))));
    const std::uint32_t value = code > largest ? infinity_bits<Carrier32> : rounded;
    const bool under = code < least;
    return {under ? underflow : static_cast<std::uint32_t>(code), under ? underflow_value : value};
  }
};

// One of them, in any range.
inline std::uint32_t short_scale_code(const QuantizeJob& job, float quotient) {
  const Carrier64::Bits bits = as_bits<Carrier64>(static_cast<double>(quotient));
  if (job.conversion.scale_rounding == ScaleRounding::up) return ShortScale<Carrier64, Round::directed>(job)(bits).code;
  return ShortScale<Carrier64, Round::nearest_even>(job)(bits).code;
}

// A scale of the main level as it is stored.
inline BlockScale scale_of_code(const ElementFormat& format, ScaleKind kind, std::uint32_t code) {
  BlockScale scale;
  scale.code = code;
  scale.poisoned = classify(format, scale.code) == CodeClass::nan;
  if (kind == ScaleKind::floating)
    scale.factor = short_scale_value(format, scale.code);
  else
    scale.exponent = min_exponent(format) + static_cast<int>(scale.code);
  return scale;
}

inline BlockScale load_scale(const ElementFormat& format, ScaleKind kind, const ScalePlane& plane, std::int64_t index) {
  if (!is_float32(format)) return scale_of_code(format, kind, load_code(plane.data, plane.bytes, index));
  BlockScale scale;
  scale.factor = static_cast<const float*>(plane.data)[index];
  scale.poisoned = !(scale.factor == scale.factor);
  return scale;
}

inline void store_code(const ScalePlane& plane, std::int64_t index, std::uint32_t code) {
  if (plane.data == nullptr) return;
  if (plane.bytes == 1)
    static_cast<std::uint8_t*>(plane.data)[index] = static_cast<std::uint8_t>(code);
  else
    static_cast<std::uint16_t*>(plane.data)[index] = static_cast<std::uint16_t>(code);
}

inline void store_scale(const QuantizeJob& job, std::int64_t index, const BlockScale& scale) {
  const ScalePlane& plane = job.planes[static_cast<unsigned>(job.main)];
  if (job.scale_kind == ScaleKind::floating && !job.short_scale) {
    if (plane.data != nullptr)
      static_cast<float*>(plane.data)[index] = scale.poisoned ? as_value<Carrier32>(nan_bits<Carrier32>) : scale.factor;
    return;
  }
  store_code(plane, index,
             scale.poisoned    ? job.scale_nan_code
             : job.short_scale ? scale.code
                               : static_cast<std::uint32_t>(scale.exponent - job.scale_min));
}

// A scale above others that encoders multiply by (docs/numerics.md section 4).
inline float encode_scale(const QuantizeJob& job, float amax) {
  const bool multiplies = job.conversion.outer_apply == OuterApply::reciprocal;
  const float once = multiplies ? job.scale_divisor * (1 / amax) : job.scale_divisor / amax;
  if (once <= 0x1.fffffep127F || job.conversion.outer_overflow == OuterOverflow::infinity) return once;
  return job.conversion.outer_overflow == OuterOverflow::one ? 1 : 0x1.fffffep127F;
}

// What a stored scale is divided by under divide_top; exact.
inline double largest_times_outer(float largest, float outer) {
  return static_cast<double>(largest) * static_cast<double>(outer);
}

// docs/numerics.md section 4, step 2.
inline float scale_quotient(const QuantizeJob& job, float amax, float outer) {
  const bool narrow = job.conversion.scale_compute == ScaleCompute::bf16;
  const auto step = [narrow](float number) { return narrow ? as_bf16(number) : number; };
  const auto over_divisor = [&](float number) {
    return step(job.scale_reciprocal != 0 ? number * job.scale_reciprocal : number / job.scale_divisor);
  };
  if (job.main == 0) return over_divisor(amax);
  const bool outer_first = job.conversion.scale_order == ScaleOrder::outer_first;
  if (!job.encode_scale) return step(outer_first ? amax / step(outer * job.scale_divisor) : over_divisor(amax) / outer);
  const float quotient = step(outer_first ? amax * over_divisor(outer) : over_divisor(amax) * outer);
  return quotient < 0x1.fffffep127F ? quotient : 0x1.fffffep127F;  // also of nothing times an Inf
}

// The same under divide_top.
inline float quotient_in_float64(const QuantizeJob& job, float amax, float outer) {
  const float once = job.scale_reciprocal != 0 ? amax * job.scale_reciprocal : amax / job.scale_divisor;
  const auto quotient = static_cast<float>(static_cast<double>(once) * largest_times_outer(job.largest_scale, outer));
  return quotient < 0x1.fffffep127F ? quotient : 0x1.fffffep127F;
}

// What a scale and the one above it become for elements: what divides, and what multiplies when decoding.
inline float combined_divisor(Combine combine, float scale, float outer) {
  if (combine == Combine::multiply) return scale * outer;
  return combine == Combine::divide ? scale / outer : scale * (1 / outer);
}

// What divides under divide_top, before it is rounded to float32; `largest` is the largest scale of its format.
inline double shared_divisor(float scale, float outer, float largest) {
  return static_cast<double>(scale) / largest_times_outer(largest, outer);
}

inline float combined_factor(Combine combine, float divisor) {
  return combine == Combine::reciprocals ? 1 / (1 / divisor) : divisor;
}

inline float float_scale(const QuantizeJob& job, float amax, float outer) {
  if (amax == 0) return 1;
  if (job.makes_outer && job.encode_scale) return encode_scale(job, amax);
  const float scale = job.in_float64 ? quotient_in_float64(job, amax, outer) : scale_quotient(job, amax, outer);
  return scale == 0 && !job.by_quotient ? 0x1p-149f : scale;
}

// Whether an element becomes the lowest integer of two's complement.
template <class C>
inline bool rounds_to_lowest(const QuantizeJob& job, const typename C::Bits* row, std::int64_t count, int exponent) {
  typename C::Bits negative = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const typename C::Bits magnitude = row[i] & ~sign_mask<C>;
    if (row[i] != magnitude && magnitude < infinity_bits<C>) negative = larger_magnitude<C>(negative, magnitude);
  }
  bool exact = true;
  return round_one<C>(job, negative | sign_mask<C>, exponent, 0, exact).code == job.sign_bit;
}

// One exponent more where an element would saturate: the largest of each sign decide.
template <class C>
inline int fitting_exponent(const QuantizeJob& job, const typename C::Bits* row, std::int64_t count, int exponent) {
  using Bits = typename C::Bits;
  Bits positive = 0, negative = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits magnitude = row[i] & ~sign_mask<C>;
    if (magnitude >= infinity_bits<C>) continue;
    if (row[i] == magnitude)
      positive = larger_magnitude<C>(positive, magnitude);
    else
      negative = larger_magnitude<C>(negative, magnitude);
  }
  bool exact = true;
  const bool saturates = round_one<C>(job, positive, exponent, 0, exact).saturated ||
                         round_one<C>(job, negative | sign_mask<C>, exponent, 0, exact).saturated;
  return saturates ? exponent + 1 : exponent;
}

// The scale of a block whose largest magnitude is `amax`, below an outer scale that is a number, stored.
template <class C>
inline BlockScale make_scale(const QuantizeJob& job, std::int64_t index, typename C::Bits amax, float outer,
                             Counts& counts) {
  const bool finite = amax<infinity_bits<C>, nan = amax> infinity_bits<C>;
  const bool counted = finite || (nan ? job.nan_counts : job.infinite_counts);
  BlockScale scale;
  scale.poisoned = !counted;
  if (job.makes_outer && nan && job.conversion.outer_overflow == OuterOverflow::one)
    scale.poisoned = false;  // the scale of a tensor with NaN is 1
  if (job.scale_kind == ScaleKind::power_of_two) {
    scale.exponent = job.zero_exponent;
    if (counted && amax != 0) {
      const int of_infinite = job.infinite_is_top ? job.scale_max : 128 - job.scale_shift;
      const int wanted = finite ? wanted_exponent<C>(job, amax) : nan ? job.scale_low : of_infinite;
      scale.exponent = smaller(larger(wanted, job.scale_low), job.scale_max);
      scale.poisoned = finite && ((job.overflow_poisons && wanted > job.poison_above) ||
                                  as_value<C>(amax) < static_cast<typename C::Value>(job.poison_below));
    }
  } else if (finite) {
    scale.factor = float_scale(job, static_cast<float>(as_value<C>(amax)), outer);
  }
  counts.zero_blocks += amax == 0;
  const bool may_be_infinite = job.makes_outer && job.conversion.outer_overflow == OuterOverflow::infinity;
  if ((scale.poisoned && !job.scale_nan) || (scale.factor > 0x1.fffffep127F && !may_be_infinite)) ++counts.refused;
  if (job.short_scale && !scale.poisoned) {
    scale.quotient = amax == 0 ? 0 : smaller(scale.factor, 0x1.fffffep127F);
    scale.code = amax == 0 ? job.zero_code : short_scale_code(job, scale.quotient);
    scale.factor = short_scale_value(job.scale_format, scale.code);
  }
  store_scale(job, index, scale);
  return scale;
}

// The exponents that micro-levels give to the elements of a block, less the largest that they can give: what `shifts`
// receives is not positive. `row` is what is rounded.
template <class C>
inline void micro_shifts(const QuantizeJob& job, std::int64_t batch, std::int64_t line, std::int64_t first,
                         const typename C::Bits* row, std::int64_t count, const BlockScale& scale, int* shifts) {
  using Bits = typename C::Bits;
  for (std::int64_t i = 0; i < count; ++i) shifts[i] = 0;
  for (int l = job.main + 1; l < job.levels; ++l) {
    const ScaleLevel& level = job.format.levels[static_cast<unsigned>(l)];
    const ScalePlane& plane = job.planes[static_cast<unsigned>(l)];
    const int lowest = lowest_shift(level), highest = highest_shift(level);
    for (std::int64_t start = 0; start < count; start += plane.along) {
      const std::int64_t length = smaller(plane.along, count - start);
      const std::int64_t index = scale_index(plane, batch, line, first + start);
      int shift = lowest;
      if (plane.given) {
        shift = shift_of(level, load_code(plane.data, plane.bytes, index));
      } else {
        bool finite = true;
        const Bits top = scale.poisoned ? 0 : counted_magnitude<C>(job.skip_nonfinite, row + start, length, finite);
        // wanted_exponent and `shifts` both leave room for what this level and those inside it can lift.
        const int outside = scale.exponent + shifts[start] - highest;
        if (top != 0) shift = smaller(larger(wanted_exponent<C>(job, top) - outside, lowest), highest);
        store_code(plane, index, scale.poisoned ? 0 : code_of_shift(level, shift));
      }
      for (std::int64_t i = start; i < start + length; ++i) shifts[i] += shift - highest;
    }
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
