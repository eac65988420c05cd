// One dot product per call, straight from docs/numerics.md section 10, on exact sums.
#pragma once

#include <cmath>
#include <cstring>

#include "../kernel_table.h"
#include "element.h"

namespace sparq::reference {

inline float bits_to_float(std::uint64_t bits) {
  const auto narrow = static_cast<std::uint32_t>(bits);
  float value = 0;
  std::memcpy(&value, &narrow, sizeof value);
  return value;
}

inline Unpacked unpack_float(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return unpack(bits, ieee_type(FloatType::fp32));
}

// NaN and Inf of a sum (IEEE 754-2019, 7.2): what each term adds, collected before any arithmetic.
struct Special {
  bool nan = false, plus = false, minus = false;

  void add(const Unpacked& x) {
    nan = nan || x.nan;
    if (x.infinite) (x.negative ? minus : plus) = true;
  }
  void add_product(const Unpacked& x, const Unpacked& y) {
    nan = nan || x.nan || y.nan;
    if (x.nan || y.nan || (!x.infinite && !y.infinite)) return;
    if ((!x.infinite && x.magnitude.significand == 0) || (!y.infinite && y.magnitude.significand == 0)) nan = true;
    (x.negative != y.negative ? minus : plus) = true;
  }
  bool any() const { return nan || plus || minus; }
  float value() const { return nan || (plus && minus) ? std::nanf("") : plus ? HUGE_VALF : -HUGE_VALF; }
};

inline void add_product(Fixed& sum, const Unpacked& x, const Unpacked& y, int scale) {
  sum.add(x.magnitude.significand * y.magnitude.significand, x.magnitude.exponent + y.magnitude.exponent + scale,
          x.negative != y.negative);
}

inline float round_once(const Fixed& sum) {
  bool exact = true;
  return bits_to_float(to_ieee(sum, ieee_type(FloatType::fp32), false, exact));
}

// One operand's row with its scales.
struct RowView {
  const MultiplyJob& job;
  const Operand& operand;
  std::int64_t row;

  Unpacked element(std::int64_t k) const {
    const std::int64_t index = row * job.k + k;
    std::uint32_t code = 0;
    std::memcpy(&code, static_cast<const char*>(operand.codes) + index * operand.code_bytes,
                static_cast<std::size_t>(operand.code_bytes));
    return decode_code(operand.element, code);
  }
  bool poisoned(std::int64_t segment) const {
    return operand.exponents != nullptr && operand.exponents[row * job.segments + segment] == poisoned_exponent;
  }
  int exponent(std::int64_t segment) const {
    return operand.exponents == nullptr || poisoned(segment) ? 0 : operand.exponents[row * job.segments + segment];
  }
  float factor(std::int64_t segment) const {
    return operand.factors == nullptr ? 1.0F : operand.factors[row * job.segments + segment];
  }

  // Every scale applied, in float32.
  Unpacked decoded(std::int64_t k, std::int64_t segment) const {
    Unpacked x = element(k);
    if (poisoned(segment)) x.nan = true;
    if (x.nan) return x;
    if (operand.scale_kind == ScaleKind::floating) {
      bool exact = true;
      Fixed value;
      value.add(x.magnitude.significand, x.magnitude.exponent, x.negative);
      float f = bits_to_float(to_ieee(value, ieee_type(FloatType::fp32), false, exact));
      if (x.magnitude.significand == 0 && x.negative) f = -0.0F;
      if (x.infinite) f = x.negative ? -HUGE_VALF : HUGE_VALF;
      return unpack_float(f * (factor(segment) * operand.tensor_factor));
    }
    x.magnitude.exponent += exponent(segment);
    if (x.infinite || x.magnitude.significand == 0) return x;
    bool exact = true;
    Fixed value;
    value.add(x.magnitude.significand, x.magnitude.exponent, x.negative);
    return unpack_float(bits_to_float(to_ieee(value, ieee_type(FloatType::fp32), false, exact)));
  }
};

inline float dot_exact(const MultiplyJob& job, const RowView& a, const RowView& b, float start) {
  Fixed sum;
  Special special;
  special.add(unpack_float(start));
  const Unpacked c = unpack_float(start);
  if (c.finite()) sum.add(c.magnitude.significand, c.magnitude.exponent, c.negative);
  // Decoding rounds under float scales only; a power of two stays beside its element.
  const auto value = [](const RowView& v, std::int64_t k, std::int64_t s) {
    return v.operand.scale_kind == ScaleKind::floating ? v.decoded(k, s) : v.element(k);
  };
  for (std::int64_t s = 0, k = 0; s < job.segments; ++s)
    for (; k < job.segment_end[s]; ++k) {
      const Unpacked x = value(a, k, s), y = value(b, k, s);
      special.nan = special.nan || a.poisoned(s) || b.poisoned(s);
      special.add_product(x, y);
      if (x.finite() && y.finite()) add_product(sum, x, y, a.exponent(s) + b.exponent(s));
    }
  return special.any() ? special.value() : round_once(sum);
}

inline float dot_blocks(const MultiplyJob& job, const RowView& a, const RowView& b, float acc) {
  const bool floating = a.operand.factors != nullptr || b.operand.factors != nullptr;
  for (std::int64_t s = 0, k = 0; s < job.segments; ++s) {
    Fixed sum;
    Special special;
    special.nan = a.poisoned(s) || b.poisoned(s);
    for (; k < job.segment_end[s]; ++k) {
      const Unpacked x = a.element(k), y = b.element(k);
      special.add_product(x, y);
      if (x.finite() && y.finite()) add_product(sum, x, y, a.exponent(s) + b.exponent(s));
    }
    // With float scales the segment's sum is a float32 first (perhaps Inf), multiplied by the product of the scales.
    Special total;
    const Unpacked before = unpack_float(acc);
    total.add(before);
    if (floating) {
      const Unpacked rounded = unpack_float(special.any() ? special.value() : round_once(sum));
      const Unpacked factor = unpack_float(a.factor(s) * b.factor(s));
      total.add_product(rounded, factor);
      sum = Fixed{};
      if (rounded.finite() && factor.finite()) add_product(sum, rounded, factor, 0);
    } else if (special.any()) {
      total.add(unpack_float(special.value()));
    }
    if (total.any()) {
      acc = total.value();
      continue;
    }
    sum.add(before.magnitude.significand, before.magnitude.exponent, before.negative);
    acc = round_once(sum);
  }
  return acc;
}

inline float dot_fma(const MultiplyJob& job, const RowView& a, const RowView& b, float acc) {
  for (std::int64_t s = 0, k = 0; s < job.segments; ++s)
    for (; k < job.segment_end[s]; ++k) {
      const Unpacked x = a.decoded(k, s), y = b.decoded(k, s), before = unpack_float(acc);
      Special special;
      special.add(before);
      special.add_product(x, y);
      if (special.any()) {
        acc = special.value();
        continue;
      }
      Fixed sum;
      add_product(sum, x, y, 0);
      const bool product_negative = x.negative != y.negative;
      const bool zeros = sum.top() == INT32_MIN && before.magnitude.significand == 0 && !sum.negative();
      sum.add(before.magnitude.significand, before.magnitude.exponent, before.negative);
      // IEEE 754-2019, 6.3: the sum of two zeros of the same sign keeps it.
      acc = zeros && product_negative && before.negative ? -0.0F : round_once(sum);
    }
  return acc;
}

// Cut toward zero in magnitude to a multiple of 2^quantum.
inline void add_cut(Fixed& sum, std::uint64_t significand, int exponent, bool negative, int quantum) {
  const int drop = quantum - exponent;
  if (drop >= 64) return;
  if (drop > 0) {
    significand >>= drop;
    exponent = quantum;
  }
  sum.add(significand, exponent, negative);
}

inline float dot_align(const MultiplyJob& job, const RowView& a, const RowView& b, float acc) {
  const ElementFormat &fa = a.operand.element, &fb = b.operand.element;
  for (std::int64_t begin = 0; begin < job.k; begin += job.path.group) {
    const std::int64_t end = begin + job.path.group < job.k ? begin + job.path.group : job.k;
    Special special;
    const Unpacked before = unpack_float(acc);
    special.add(before);
    int top = INT32_MIN;
    // Exponents as the machine sees them: of a significand in [1, 2), or the smallest normal's.
    const auto exponent_of = [](const Unpacked& x, int mantissa_bits) { return x.magnitude.exponent + mantissa_bits; };
    if (before.magnitude.significand != 0) top = exponent_of(before, 23);
    for (std::int64_t k = begin; k < end; ++k) {
      const Unpacked x = a.element(k), y = b.element(k);
      special.add_product(x, y);
      if (x.magnitude.significand == 0 || y.magnitude.significand == 0) continue;
      const int exponent = exponent_of(x, fa.mantissa_bits) + exponent_of(y, fb.mantissa_bits);
      top = exponent > top ? exponent : top;
    }
    if (special.any()) {
      acc = special.value();
      continue;
    }
    if (top == INT32_MIN) {
      acc = 0;
      continue;
    }
    const int quantum = top - job.path.fraction_bits;
    Fixed sum;
    for (std::int64_t k = begin; k < end; ++k) {
      const Unpacked x = a.element(k), y = b.element(k);
      add_cut(sum, x.magnitude.significand * y.magnitude.significand, x.magnitude.exponent + y.magnitude.exponent,
              x.negative != y.negative, quantum);
    }
    add_cut(sum, before.magnitude.significand, before.magnitude.exponent, before.negative, quantum);
    // The accumulator is a float32 with fewer fraction bits, cut toward zero; 2^128 and more is Inf.
    bool exact = true;
    Fixed magnitude = sum;
    if (sum.negative()) magnitude.negate();
    if (magnitude.top() >= 128) {
      acc = sum.negative() ? -HUGE_VALF : HUGE_VALF;
    } else {
      const std::uint64_t narrow = to_ieee(sum, {8, job.path.accumulator_fraction}, true, exact);
      acc = bits_to_float(narrow << (23 - job.path.accumulator_fraction));
    }
  }
  return acc;
}

inline void dot(const MultiplyJob& job, std::int64_t row, std::int64_t column) {
  const RowView a{job, job.a, row}, b{job, job.b, column};
  const std::int64_t at = row * job.d_row_stride + column * job.d_column_stride;
  const float start = job.c != nullptr ? job.c[at] : 0.0F;
  float result = 0;
  switch (job.path.reduce) {
    case Reduce::exact: result = dot_exact(job, a, b, start); break;
    case Reduce::blocks: result = dot_blocks(job, a, b, start); break;
    case Reduce::fma: result = dot_fma(job, a, b, start); break;
    case Reduce::align: result = dot_align(job, a, b, start); break;
  }
  const bool decoded = job.path.reduce == Reduce::exact || job.path.reduce == Reduce::fma;
  const bool at_end = job.path.reduce == Reduce::align;
  const bool row_scales = at_end && (job.a.factors != nullptr || job.b.factors != nullptr);
  if (!decoded && (row_scales || job.a.has_tensor_factor || job.b.has_tensor_factor)) {
    const float sa = job.a.tensor_factor * (at_end ? a.factor(0) : 1.0F);
    const float sb = job.b.tensor_factor * (at_end ? b.factor(0) : 1.0F);
    result = result * (sa * sb);
  }
  if (job.bias != nullptr) result += job.bias[row * job.bias_row_stride + column * job.bias_column_stride];
  job.d[at] = std::isnan(result) ? bits_to_float(job.path.nan_bits) : result;
}

}  // namespace sparq::reference
