// One dot product per call, straight from docs/numerics.md section 10, on exact sums.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "../kernel_table.h"
#include "counts.h"
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

inline float round_once(const Fixed& sum, DotCounts& counts) {
  bool exact = true;
  const float value = bits_to_float(to_ieee(sum, ieee_type(FloatType::fp32), Rounds::nearest_even, exact));
  counts.overflowed += std::isinf(value);
  return value;
}

inline Rounds of_magnitude(AccumulatorRounding how, bool negative) {
  switch (how) {
    case AccumulatorRounding::nearest_even: return Rounds::nearest_even;
    case AccumulatorRounding::nearest_away: return Rounds::nearest_away;
    case AccumulatorRounding::toward_zero: return Rounds::toward_zero;
    case AccumulatorRounding::down: return negative ? Rounds::away_from_zero : Rounds::toward_zero;
    case AccumulatorRounding::to_odd: break;
  }
  return Rounds::to_odd;
}

// Rounded to a machine's accumulator, whose numbers are float32 numbers. Zero is +0.
inline float round_to_accumulator(const Fixed& sum, const Datapath& path, AccumulatorRounding how, DotCounts& counts) {
  const IeeeType type{path.accumulator_exponent_bits, path.accumulator_fraction};
  const bool negative = sum.negative();
  Fixed magnitude = sum;
  if (negative) magnitude.negate();
  bool exact = true;
  std::uint64_t bits = to_ieee(magnitude, type, of_magnitude(how, negative), exact);
  counts.overflowed += bits == type.infinity();
  if (bits == type.infinity() && path.overflow == FloatOverflow::saturate) --bits;
  if (bits == 0) return 0;
  const Unpacked x = unpack(bits, type);
  if (x.infinite) return negative ? -HUGE_VALF : HUGE_VALF;
  const auto value = static_cast<float>(std::ldexp(static_cast<double>(x.magnitude.significand), x.magnitude.exponent));
  return negative ? -value : value;
}

// The same by the accumulator's own rounding, with IEEE's zeros: one that is rounded to zero keeps its sign.
inline float round_as_ieee(const Fixed& sum, const Datapath& path, DotCounts& counts) {
  const float value = round_to_accumulator(sum, path, path.accumulator_rounding, counts);
  return value == 0 && sum.negative() ? -0.0F : value;
}

// x + y of float32.
inline float add_floats(float x, float y, DotCounts& counts) {
  const float sum = x + y;
  counts.overflowed += std::isfinite(x) && std::isfinite(y) && std::isinf(sum);
  return sum;
}

// The largest term of a step, for telling whether its sum cancelled.
struct Largest {
  Dyadic term;

  void add(Dyadic size) {
    if (compare(size, term) > 0) term = size;
  }
  void count(Fixed sum, DotCounts& counts) const {
    if (term.significand == 0) return;
    if (sum.negative()) sum.negate();
    if (sum.top() >= term.exponent + static_cast<int>(std::bit_width(term.significand)) - 1) return;
    sum.add(term.significand, term.exponent - 1, true);
    counts.cancelled += sum.negative();
  }
};

// One operand's row with its scales, its elements decoded once.
struct RowView {
  const MultiplyJob& job;
  const Operand& operand;
  std::int64_t row;
  std::vector<Unpacked> elements;

  RowView(const MultiplyJob& of, const Operand& side, std::int64_t at)
      : job(of), operand(side), row(at), elements(static_cast<std::size_t>(of.k)) {
    const char* codes = static_cast<const char*>(operand.codes) + row * job.k * operand.code_bytes;
    for (Unpacked& x : elements) {
      std::uint32_t code = 0;
      std::memcpy(&code, codes, static_cast<std::size_t>(operand.code_bytes));
      codes += operand.code_bytes;
      x = decode_code(operand.element, code >> operand.code_shift);
    }
  }

  const Unpacked& element(std::int64_t k) const { return elements[static_cast<std::size_t>(k)]; }
  bool poisoned(std::int64_t segment) const {
    return operand.exponents != nullptr && operand.exponents[row * job.segments + segment] == poisoned_exponent;
  }
  int exponent(std::int64_t segment) const {
    return operand.exponents == nullptr || poisoned(segment) ? 0 : operand.exponents[row * job.segments + segment];
  }
  std::int64_t significand(std::int64_t segment) const {
    return operand.significands == nullptr ? 1 : operand.significands[row * job.segments + segment];
  }
  float factor(std::int64_t segment) const {
    return operand.factors == nullptr ? 1.0F : operand.factors[row * job.segments + segment];
  }

  // Every scale applied, in float32.
  Unpacked decoded(std::int64_t k, std::int64_t segment, DotCounts& counts) const {
    Unpacked x = element(k);
    if (poisoned(segment)) x.nan = true;
    if (x.nan) return x;
    if (operand.scale_kind == ScaleKind::floating) {
      bool exact = true;
      Fixed value;
      value.add(x.magnitude.significand, x.magnitude.exponent, x.negative);
      float f = bits_to_float(to_ieee(value, ieee_type(FloatType::fp32), Rounds::nearest_even, exact));
      if (x.magnitude.significand == 0 && x.negative) f = -0.0F;
      if (x.infinite) f = x.negative ? -HUGE_VALF : HUGE_VALF;
      const float scale = factor(segment) * operand.tensor_factor, made = f * scale;
      counts.overflowed += std::isfinite(f) && std::isfinite(scale) && std::isinf(made);
      return unpack_float(made);
    }
    x.magnitude.exponent += exponent(segment);
    if (x.infinite || x.magnitude.significand == 0) return x;
    Fixed value;
    value.add(x.magnitude.significand, x.magnitude.exponent, x.negative);
    return unpack_float(round_once(value, counts));
  }
};

inline Dyadic product_size(const Unpacked& x, const Unpacked& y, int scale) {
  return {x.magnitude.significand * y.magnitude.significand, x.magnitude.exponent + y.magnitude.exponent + scale};
}

inline float dot_exact(const MultiplyJob& job, const RowView& a, const RowView& b, float start, DotCounts& counts) {
  Fixed sum;
  Largest largest;
  Special special;
  special.add(unpack_float(start));
  const Unpacked c = unpack_float(start);
  if (c.finite()) sum.add(c.magnitude.significand, c.magnitude.exponent, c.negative);
  // Decoding rounds under float scales only; a power of two stays beside its element.
  const auto value = [&](const RowView& v, std::int64_t k, std::int64_t s) {
    return v.operand.scale_kind == ScaleKind::floating ? v.decoded(k, s, counts) : v.element(k);
  };
  for (std::int64_t s = 0, k = 0; s < job.segments; ++s)
    for (; k < job.segment_end[s]; ++k) {
      const Unpacked x = value(a, k, s), y = value(b, k, s);
      special.nan = special.nan || a.poisoned(s) || b.poisoned(s);
      special.add_product(x, y);
      if (!x.finite() || !y.finite()) continue;
      add_product(sum, x, y, a.exponent(s) + b.exponent(s));
      largest.add(product_size(x, y, a.exponent(s) + b.exponent(s)));
    }
  if (special.any()) return special.value();
  largest.count(sum, counts);
  return round_once(sum, counts);
}

inline float dot_blocks(const MultiplyJob& job, const RowView& a, const RowView& b, float acc, DotCounts& counts) {
  const bool floating = a.operand.factors != nullptr || b.operand.factors != nullptr;
  for (std::int64_t s = 0, k = 0; s < job.segments; ++s) {
    Fixed sum;
    Largest largest;
    Special special;
    special.nan = a.poisoned(s) || b.poisoned(s);
    for (; k < job.segment_end[s]; ++k) {
      const Unpacked x = a.element(k), y = b.element(k);
      special.add_product(x, y);
      if (!x.finite() || !y.finite()) continue;
      add_product(sum, x, y, a.exponent(s) + b.exponent(s));
      largest.add(product_size(x, y, a.exponent(s) + b.exponent(s)));
    }
    // With float scales the segment's sum is a float32 first (perhaps Inf), multiplied by the product of the scales.
    Special total;
    const Unpacked before = unpack_float(acc);
    total.add(before);
    if (floating) {
      if (!special.any()) largest.count(sum, counts);
      const Unpacked rounded = unpack_float(special.any() ? special.value() : round_once(sum, counts));
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
    if (!floating) largest.count(sum, counts);
    acc = round_as_ieee(sum, job.path, counts);
  }
  return acc;
}

inline float dot_fma(const MultiplyJob& job, const RowView& a, const RowView& b, float acc, DotCounts& counts) {
  for (std::int64_t s = 0, k = 0; s < job.segments; ++s)
    for (; k < job.segment_end[s]; ++k) {
      const Unpacked x = a.decoded(k, s, counts), y = b.decoded(k, s, counts), before = unpack_float(acc);
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
      Largest largest;
      largest.add(product_size(x, y, 0));
      largest.count(sum, counts);
      // IEEE 754-2019, 6.3: the sum of two zeros of the same sign keeps it.
      acc = zeros && product_negative && before.negative ? -0.0F : round_as_ieee(sum, job.path, counts);
    }
  return acc;
}

inline void add_unpacked(Fixed& sum, const Unpacked& x) {
  sum.add(x.magnitude.significand, x.magnitude.exponent, x.negative);
}

// acc + term, rounded once; an exact zero is +0.
inline float add_to_accumulator(float acc, float term, const Datapath& path, DotCounts& counts) {
  const Unpacked x = unpack_float(acc), y = unpack_float(term);
  Special special;
  special.add(x);
  special.add(y);
  if (special.any()) return special.value();
  Fixed sum;
  add_unpacked(sum, x);
  add_unpacked(sum, y);
  return round_to_accumulator(sum, path, AccumulatorRounding::nearest_even, counts);
}

// One term of an alignment: an integer times 2^unit, and the exponent that it is aligned by.
struct AlignTerm {
  std::uint64_t size = 0;
  bool negative = false;
  int unit = 0, exponent = 0;
};

// Added as an integer of units of 2^quantum, whose size this is.
inline Dyadic add_cut(Fixed& sum, const AlignTerm& term, int quantum, Cut how) {
  const int drop = quantum - term.unit;
  if (drop <= 0) {
    sum.add(term.size, term.unit, term.negative);
    return {term.size, term.unit};
  }
  const std::uint64_t kept = drop < 64 ? term.size >> drop : 0;
  const bool inexact = drop < 64 ? kept << drop != term.size : term.size != 0;
  std::uint64_t units = kept;
  if (how == Cut::down && term.negative && inexact) ++units;
  if (how == Cut::to_odd && inexact) units |= 1;
  if (how == Cut::nearest_even && inexact && drop <= 64) {
    const std::uint64_t half = std::uint64_t{1} << (drop - 1),
                        rest = drop < 64 ? term.size - (kept << drop) : term.size;
    if (rest > half || (rest == half && (kept & 1) != 0)) ++units;
  }
  sum.add(units, quantum, term.negative);
  return {units, quantum};
}

// The K of one step, in the order in which they meet.
inline std::vector<std::int64_t> members(const MultiplyJob& job, std::int64_t base, std::int64_t way) {
  const std::int64_t instruction = instruction_length(job.path), ways = instruction / job.path.group;
  const std::int64_t run = job.path.run > 0 ? job.path.run : job.path.group;
  std::vector<std::int64_t> out;
  for (std::int64_t k = base; k < base + instruction && k < job.k; ++k)
    if ((k - base) / run % ways == way) out.push_back(k);
  return out;
}

struct AlignReference {
  const MultiplyJob& job;
  const RowView &a, &b;
  DotCounts& counts;

  bool zeros_count() const { return job.path.zero_products == ZeroProducts::lowest; }
  std::int64_t segment_of(std::int64_t k) const {
    return std::upper_bound(job.segment_end, job.segment_end + job.segments, k) - job.segment_end;
  }
  // Of a significand in [1, 2), or the smallest normal's; -126 of a zero that counts.
  int exponent_of(const Unpacked& x, const ElementFormat& f) const {
    return x.magnitude.significand == 0 && zeros_count() ? -126 : x.magnitude.exponent + f.mantissa_bits;
  }

  std::vector<AlignTerm> products(const std::vector<std::int64_t>& ks) const {
    std::vector<AlignTerm> terms;
    terms.reserve(static_cast<std::size_t>(job.path.group) + 1);
    for (const std::int64_t k : ks) {
      const Unpacked &x = a.element(k), y = b.element(k);
      if (!x.finite() || !y.finite()) continue;
      const std::int64_t s = segment_of(k);
      const int scale = a.exponent(s) + b.exponent(s);
      AlignTerm t{x.magnitude.significand * y.magnitude.significand, x.negative != y.negative,
                  x.magnitude.exponent + y.magnitude.exponent + scale,
                  exponent_of(x, a.operand.element) + exponent_of(y, b.operand.element) + scale};
      const int two = a.operand.element.mantissa_bits + b.operand.element.mantissa_bits + 1;
      if (job.path.normalize && t.size >> two != 0) ++t.exponent;
      terms.push_back(t);
    }
    // Where K has ended there are zeros too.
    const auto group = static_cast<std::size_t>(job.path.group);
    if (zeros_count()) terms.resize(terms.size() + group - ks.size(), {0, false, 0, 2 * -126});
    return terms;
  }

  // Exact sums of neighbours, times the significands of their scales.
  std::vector<AlignTerm> presums(const std::vector<std::int64_t>& ks) const {
    std::vector<AlignTerm> terms;
    const auto presum = static_cast<std::size_t>(job.path.presum);
    for (std::size_t first = 0; first < ks.size(); first += presum) {
      const std::int64_t s = segment_of(ks[first]);
      std::int64_t sum = 0;
      int unit = 0;
      for (const ElementFormat* f : {&a.operand.element, &b.operand.element})
        unit += min_exponent(*f) - f->mantissa_bits;
      for (std::size_t i = first; i < ks.size() && i < first + presum; ++i) {
        const Unpacked x = a.element(ks[i]), y = b.element(ks[i]);
        if (x.magnitude.significand == 0 || y.magnitude.significand == 0) continue;
        const auto size = static_cast<std::int64_t>(x.magnitude.significand * y.magnitude.significand)
                          << (x.magnitude.exponent + y.magnitude.exponent - unit);
        sum += x.negative != y.negative ? -size : size;
      }
      sum *= a.significand(s) * b.significand(s);
      terms.push_back({static_cast<std::uint64_t>(sum < 0 ? -sum : sum), sum < 0,
                       unit - a.operand.scale_fraction - b.operand.scale_fraction + a.exponent(s) + b.exponent(s),
                       a.exponent(s) + b.exponent(s)});
    }
    return terms;
  }

  Special special(const std::vector<std::int64_t>& ks) const {
    Special out;
    for (const std::int64_t k : ks) {
      const std::int64_t s = segment_of(k);
      out.nan = out.nan || a.poisoned(s) || b.poisoned(s);
      out.add_product(a.element(k), b.element(k));
    }
    return out;
  }

  AlignTerm start(float acc) const {
    const Unpacked x = unpack_float(acc);
    const int least = 2 - (1 << (job.path.accumulator_exponent_bits - 1));
    int exponent = x.magnitude.exponent + 23;
    if (exponent < least) exponent = least;
    if (x.magnitude.significand == 0) exponent = -126;
    return {x.magnitude.significand, x.negative, x.magnitude.exponent, exponent};
  }

  // The largest exponent of the terms that count; INT32_MIN if none does.
  int top_of(const std::vector<AlignTerm>& terms) const {
    int top = INT32_MIN;
    for (const AlignTerm& t : terms)
      if (t.size != 0 || zeros_count()) top = t.exponent > top ? t.exponent : top;
    return top == INT32_MIN || top > job.path.exponent_floor ? top : job.path.exponent_floor;
  }

  // A product's share of a sum.
  void add_product(Fixed& sum, const AlignTerm& t, int top, Largest& largest) const {
    const Dyadic kept = add_cut(sum, t, top - job.path.fraction_bits, job.path.align_rounding);
    counts.truncated += compare(kept, {t.size, t.unit}) != 0;
    largest.add(kept);
  }
  float rounded(const Fixed& sum) const {
    return round_to_accumulator(sum, job.path, job.path.accumulator_rounding, counts);
  }

  float aligned(std::vector<AlignTerm> terms, float acc) const {
    const AlignTerm from = start(acc);
    terms.push_back(from);
    const int top = top_of(terms);
    if (top == INT32_MIN) return 0;
    terms.pop_back();
    Fixed sum;
    Largest largest;
    add_cut(sum, from, top - job.path.fraction_bits, job.path.align_rounding);
    for (const AlignTerm& t : terms) add_product(sum, t, top, largest);
    largest.count(sum, counts);
    return rounded(sum);
  }

  // What is left of a sum when it is rounded down to a multiple of 2^quantum.
  static Fixed floored(const Fixed& sum, int quantum) {
    Fixed out;
    Fixed size = sum;
    if (sum.negative()) size.negate();
    const bool inexact = size.any_below(quantum);
    out.add(size.from(quantum), quantum, sum.negative());
    if (inexact && sum.negative()) out.add(1, quantum, true);
    return out;
  }
  static void join(Fixed& to, const Fixed& more, int quantum) {
    Fixed size = more;
    if (more.negative()) size.negate();
    to.add(size.from(quantum), quantum, more.negative());
  }

  float late_floor(const std::vector<AlignTerm>& terms, float acc) const {
    const Datapath& path = job.path;
    const auto lanes = static_cast<std::size_t>(path.lanes);
    std::vector<Fixed> sums;
    std::vector<int> tops;
    Largest largest;
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      std::vector<AlignTerm> own;
      for (std::size_t i = lane; i < terms.size(); i += lanes) own.push_back(terms[i]);
      const int top = top_of(own);
      if (top == INT32_MIN) continue;
      Fixed sum;
      for (const AlignTerm& t : own) add_product(sum, t, top, largest);
      sums.push_back(sum);
      tops.push_back(top);
    }
    int products_top = INT32_MIN;
    for (const int top : tops) products_top = top > products_top ? top : products_top;
    const AlignTerm from = start(acc);
    const int top = from.size != 0 && from.exponent > products_top ? from.exponent : products_top;
    if (top == INT32_MIN) return 0;
    Fixed products, total;
    const int unit = products_top - path.fraction_bits;
    for (const Fixed& sum : sums) join(products, floored(sum, unit), unit);
    if (products_top != INT32_MIN) join(total, floored(products, top - path.sum_fraction), top - path.sum_fraction);
    if (from.size != 0 && (path.start_reach == 0 || from.exponent >= top - path.start_reach))
      add_cut(total, from, top - path.start_fraction, Cut::down);
    largest.count(total, counts);
    return rounded(total);
  }

  float step(const std::vector<std::int64_t>& ks, float acc) const {
    Special found = special(ks);
    if (found.any() || !std::isfinite(acc)) {
      found.add(unpack_float(acc));
      return found.value();
    }
    const std::vector<AlignTerm> terms = job.path.presum > 1 ? presums(ks) : products(ks);
    if (job.path.product_overflow)
      for (const AlignTerm& t : terms) {
        int bits = 0;
        while (bits < 64 && t.size >> bits != 0) ++bits;
        if (t.size != 0 && bits + t.unit > 128) {
          (t.negative ? found.minus : found.plus) = true;
          ++counts.overflowed;
        }
      }
    if (found.any()) return found.value();
    return job.path.start == Start::late_floor ? late_floor(terms, acc) : aligned(terms, acc);
  }

  float chain(std::int64_t first, std::int64_t end, float acc) const {
    const std::int64_t instruction = instruction_length(job.path);
    for (std::int64_t base = first; base < end; base += instruction) {
      const bool after = job.path.start == Start::after_instruction;
      float inner = after ? 0.0F : acc;
      for (std::int64_t way = 0; way < instruction / job.path.group; ++way)
        inner = step(members(job, base, way), inner);  // also where K ended before: zeros
      acc = after ? add_to_accumulator(acc, inner, job.path, counts) : inner;
    }
    return acc;
  }
};

inline float dot_align(const MultiplyJob& job, const RowView& a, const RowView& b, float acc, DotCounts& counts) {
  const AlignReference machine{job, a, b, counts};
  if (job.path.chunk == 0) return machine.chain(0, job.k, acc);
  for (std::int64_t k = 0; k < job.k; k += job.path.chunk)
    acc = add_floats(acc, machine.chain(k, std::min(k + job.path.chunk, job.k), 0.0F), counts);
  return acc;
}

// Subnormal results become zeros of their sign where the machine says so.
inline float flush_result(const Datapath& path, float value) {
  const float least = std::ldexp(1.0F, 2 - (1 << (path.accumulator_exponent_bits - 1)));
  return path.flush_results && std::fabs(value) < least ? std::copysign(0.0F, value) : value;
}

// x + y of a tree, rounded and perhaps flushed.
inline float add_in_tree(const Datapath& path, float x, float y, DotCounts& counts) {
  const Unpacked left = unpack_float(x), right = unpack_float(y);
  Special special;
  special.add(left);
  special.add(right);
  if (special.any()) return special.value();
  if (x == 0 && y == 0) return x + y;
  Fixed sum;
  add_unpacked(sum, left);
  add_unpacked(sum, right);
  return flush_result(path, round_as_ieee(sum, path, counts));
}

inline float tree(const Datapath& path, const std::vector<float>& terms, std::size_t begin, std::size_t end,
                  DotCounts& counts) {
  if (end - begin == 1) return terms[begin];
  const std::size_t middle = begin + (end - begin) / 2;
  const float left = tree(path, terms, begin, middle, counts), right = tree(path, terms, middle, end, counts);
  return add_in_tree(path, left, right, counts);
}

inline float dot_tree(const MultiplyJob& job, const RowView& a, const RowView& b, float acc, DotCounts& counts) {
  const Datapath& path = job.path;
  const auto operand = [&](const RowView& v, std::int64_t k, std::int64_t s) {
    const Unpacked x = v.element(k);
    const ElementFormat& f = v.operand.element;
    const bool normal = f.exponent_bits == 0 || x.magnitude.significand >> f.mantissa_bits != 0;
    if (path.flush_inputs && x.finite() && !normal) return 0.0F;
    const Unpacked y = v.decoded(k, s, counts);
    if (y.nan) return std::nanf("");
    const float size =
        y.infinite ? HUGE_VALF
                   : static_cast<float>(std::ldexp(static_cast<double>(y.magnitude.significand), y.magnitude.exponent));
    return y.negative ? -size : size;
  };
  const auto leaf = [&](float x, float y) {
    const double exact = static_cast<double>(x) * y;  // 48 bits, and no exponent of float64's ends
    if (!std::isfinite(exact) || exact == 0) return static_cast<float>(exact);
    Fixed product;
    add_product(product, unpack_float(x), unpack_float(y), 0);
    const float rounded = round_as_ieee(product, path, counts), kept = flush_result(path, rounded);
    counts.truncated += std::isfinite(rounded) && static_cast<double>(kept) != exact;
    return kept;
  };
  if (path.flush_inputs && std::fpclassify(acc) == FP_SUBNORMAL) acc = 0;
  const std::int64_t group = path.group > 0 ? path.group : job.k;
  for (std::int64_t base = 0; base < job.k; base += group) {
    std::vector<float> products;
    std::int64_t s = 0;
    for (std::int64_t k = base; k < base + group; ++k) {
      while (k < job.k && job.segment_end[s] <= k) ++s;
      products.push_back(k < job.k ? leaf(operand(a, k, s), operand(b, k, s)) : 0.0F);
    }
    const float sum = tree(path, products, 0, products.size(), counts);
    float largest = 0;
    for (const float p : products) largest = std::isfinite(p) ? std::max(largest, std::fabs(p)) : largest;
    counts.cancelled += 2.0 * std::fabs(static_cast<double>(sum)) < static_cast<double>(largest);
    acc = add_in_tree(path, acc, sum, counts);
  }
  return acc;
}

// An element as the integer that its code is.
inline std::int64_t integer_of(const Unpacked& x) {
  const auto size = static_cast<std::int64_t>(x.magnitude.significand);
  return x.negative ? -size : size;
}

inline std::int64_t fit_integer(const Datapath& path, std::int64_t value) {
  const std::int64_t low = -(std::int64_t{1} << (path.integer_bits - 1)), high = -low - 1, span = high - low + 1;
  if (path.integer_overflow == IntegerOverflow::saturate) return value < low ? low : value > high ? high : value;
  while (value < low) value += ((low - value + span - 1) / span) * span;
  while (value > high) value -= ((value - high + span - 1) / span) * span;
  return value;
}

inline std::int64_t integer_sum(const MultiplyJob& job, const RowView& a, const RowView& b, std::int64_t begin,
                                std::int64_t end, std::int64_t total, DotCounts& counts) {
  const std::int64_t at_once = job.path.integer_tree > 0 ? job.path.integer_tree : end - begin;
  const auto fit = [&](std::int64_t value) {
    const std::int64_t kept = fit_integer(job.path, value);
    counts.wrapped += kept != value;
    return kept;
  };
  total = fit(total);
  std::int64_t largest = 0;
  for (std::int64_t k = begin; k < end; k += at_once) {
    for (std::int64_t i = k; i < k + at_once && i < end; ++i) {
      const std::int64_t product = integer_of(a.element(i)) * integer_of(b.element(i));
      largest = std::max(largest, std::abs(product));
      total += product;
    }
    total = fit(total);
  }
  counts.cancelled += 2 * std::abs(total) < largest;
  return total;
}

inline float dot_integer(const MultiplyJob& job, const RowView& a, const RowView& b, float acc, DotCounts& counts) {
  if (job.path.output == Output::int32) {
    std::int32_t start = 0;
    std::memcpy(&start, &acc, sizeof start);
    const auto total = static_cast<std::int32_t>(integer_sum(job, a, b, 0, job.k, start, counts));
    std::memcpy(&acc, &total, sizeof acc);
    return acc;
  }
  const int unit = a.element(0).magnitude.exponent + b.element(0).magnitude.exponent;
  for (std::int64_t s = 0, k = 0; s < job.segments; k = job.segment_end[s++]) {
    if (a.poisoned(s) || b.poisoned(s)) {
      acc = std::nanf("");
      continue;
    }
    const std::int64_t total = integer_sum(job, a, b, k, job.segment_end[s], 0, counts);
    Fixed sum;
    sum.add(static_cast<std::uint64_t>(total < 0 ? -total : total), unit + a.exponent(s) + b.exponent(s), total < 0);
    acc = add_to_accumulator(acc, round_to_accumulator(sum, job.path, AccumulatorRounding::nearest_even, counts),
                             job.path, counts);
  }
  return acc;
}

inline void dot(const MultiplyJob& job, const RowView& a, const RowView& b, DotCounts& counts) {
  const std::int64_t row = a.row, column = b.row;
  const std::int64_t at = row * job.d_row_stride + column * job.d_column_stride;
  const float start = job.c != nullptr ? job.c[at] : 0.0F;
  float result = 0;
  switch (job.path.reduce) {
    case Reduce::exact: result = dot_exact(job, a, b, start, counts); break;
    case Reduce::blocks: result = dot_blocks(job, a, b, start, counts); break;
    case Reduce::fma: result = dot_fma(job, a, b, start, counts); break;
    case Reduce::align: result = dot_align(job, a, b, start, counts); break;
    case Reduce::tree: result = dot_tree(job, a, b, start, counts); break;
    case Reduce::integer: result = dot_integer(job, a, b, start, counts); break;
  }
  if (job.path.output == Output::int32) {
    std::memcpy(job.d + at, &result, sizeof result);
    return;
  }
  const bool decoded = job.path.reduce == Reduce::exact || multiplies_decoded(job.path);
  const bool at_end = scales_at_end(job.path);
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
