// Align-and-add (docs/numerics.md section 10): integers only, one lane per output.
#pragma once

#include "accumulate.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// A code's signed significand with mantissa_bits fraction bits (0 for zero and for non-finite codes), and its
// exponent: of a significand in [1, 2), or emin for subnormals.
struct SplitElement {
  std::int32_t significand;
  std::int32_t exponent;
};

// A zero product takes no part in the alignment: its exponent is far below any other.
constexpr std::int32_t absent_exponent = -(1 << 20);
// Unless zeros count: then a zero operand's is this.
constexpr std::int32_t lowest_exponent = -126;

inline SplitElement split_element(const ElementFormat& f, std::uint32_t memory_code, std::int32_t zero_exponent) {
  if (classify(f, memory_code) != CodeClass::finite) return {0, zero_exponent};
  const std::uint32_t code = code_from_memory(f, memory_code);
  const bool negative = (code & sign_bit(f)) != 0;
  std::uint32_t below = code & magnitude_mask(f);
  if (f.signedness == Signedness::twos_complement && negative) below = sign_bit(f) - below;
  const Magnitude m = magnitude_of(f, below);
  if (m.significand == 0) return {0, zero_exponent};
  const auto significand = static_cast<std::int32_t>(m.significand);
  return {negative ? -significand : significand, m.exponent + f.mantissa_bits};
}

// All that the steps of one job share.
struct AlignPlan {
  const MultiplyJob& job;
  Accumulator accumulator;
  int product_fraction;        // fraction bits of a product
  int shift_up;                // what they lack of fraction_bits
  std::int32_t zero_exponent;  // of zero operands
  std::int32_t least_top;      // exponent_floor, but where all is zero powers of two stay normal numbers
  std::int64_t instruction, run, steps, packed;  // packed: K with the last instruction's padding
  int integer_unit = 0;                          // presum: operands are integers times 2^unit, both together
  bool narrow;                                   // terms fit int32
  std::int64_t partial;                          // and so does a sum of so many of them
  bool short_sums;                               // the sum of all terms of a step does
  bool overflows;                                // a product may be 2^128 or more, and that matters

  explicit AlignPlan(const MultiplyJob& j)
      : job(j),
        accumulator(j.path),
        product_fraction(j.a.element.mantissa_bits + j.b.element.mantissa_bits),
        shift_up(j.path.fraction_bits - product_fraction),
        zero_exponent(j.path.zero_products == ZeroProducts::lowest ? lowest_exponent : absent_exponent) {
    const Datapath& path = j.path;
    least_top = larger(path.exponent_floor, -960);
    instruction = instruction_length(path);
    run = path.run > 0 ? path.run : path.group;
    steps = instruction / path.group;
    packed = steps == 1 ? j.k : (j.k + instruction - 1) / instruction * instruction;
    for (const ElementFormat* f : {&j.a.element, &j.b.element}) integer_unit += min_exponent(*f) - f->mantissa_bits;
    narrow = path.presum == 1 && path.fraction_bits <= 28 && shift_up >= 0 && path.align_rounding == Cut::toward_zero &&
             path.lanes == 1;
    partial = (std::int64_t{1} << (29 - (narrow ? path.fraction_bits : 28))) - 1;
    // In halves, quarters, ... of a step.
    if (path.group > partial && partial > 0)
      for (std::int64_t parts = 2; parts <= path.group; parts *= 2)
        if ((path.group + parts - 1) / parts <= partial) {
          partial = (path.group + parts - 1) / parts;
          break;
        }
    if (partial < 1) partial = 1;
    short_sums = narrow && path.group <= partial;
    overflows = path.product_overflow && (j.a.exponents != nullptr || j.b.exponents != nullptr ||
                                          max_exponent(j.a.element) + max_exponent(j.b.element) + 2 > 128);
  }

  // Where k lies among packed elements: steps follow one another.
  std::int64_t position(std::int64_t k) const {
    if (steps == 1) return k;
    const std::int64_t base = k / instruction * instruction, inside = k - base, turn = inside / run;
    return base + turn % steps * job.path.group + turn / steps * run + inside % run;
  }
};

// One operand's elements taken apart: short codes by table.
struct Splitter {
  const AlignPlan& plan;
  const Operand& operand;
  bool tabled, fixed, direct;
  SplitElement table[256];

  Splitter(const AlignPlan& p, const Operand& o)
      : plan(p),
        operand(o),
        tabled(o.code_bytes == 1),
        fixed(p.job.path.presum > 1),
        direct(!tabled && o.element.signedness == Signedness::sign_magnitude &&
               (o.element.specials == Specials::ieee || o.element.specials == Specials::finite)) {
    for (std::uint32_t code = 0; tabled && code < 256; ++code) table[code] = split(code);
  }

  SplitElement operator()(std::uint32_t code) const {
    return tabled ? table[code & 0xFF] : direct ? plain(code) : split(code);
  }

  SplitElement split(std::uint32_t code) const {
    SplitElement e = split_element(operand.element, code, plan.zero_exponent);
    // Presums add integers of one unit.
    if (fixed && e.significand != 0) e.significand *= 1 << (e.exponent - min_exponent(operand.element));
    return e;
  }

  SplitElement plain(std::uint32_t code) const {
    const ElementFormat& f = operand.element;
    const std::uint32_t magnitude = code & magnitude_mask(f), field = magnitude >> f.mantissa_bits;
    if (magnitude == 0 || magnitude > max_code(f)) return {0, plan.zero_exponent};
    const std::uint32_t hidden = field != 0 ? std::uint32_t{1} << f.mantissa_bits : 0;
    const auto significand =
        static_cast<std::int32_t>((magnitude & ((std::uint32_t{1} << f.mantissa_bits) - 1)) | hidden);
    const std::int32_t exponent = (field != 0 ? static_cast<std::int32_t>(field) : 1) - f.bias;
    return {(code & sign_bit(f)) != 0 ? -significand : significand, exponent};
  }

  // Packed rows: significands and exponents (with those of scales) in two planes of `plane` elements. Padding and
  // missing rows are zeros.
  void pack(std::int64_t first_row, std::int64_t count, std::int64_t slots, std::int64_t stride_k,
            std::int64_t stride_r, std::int32_t* to, std::int64_t plane, bool* special) const {
    const MultiplyJob& job = plan.job;
    for (std::int64_t r = 0; r < slots; ++r) {
      special[r] = false;
      if (r >= count || plan.packed > job.k)
        for (std::int64_t k = r >= count ? 0 : plan.packed - plan.instruction; k < plan.packed; ++k) {
          to[k * stride_k + r * stride_r] = 0;
          to[plane + k * stride_k + r * stride_r] = plan.zero_exponent;
        }
      if (r >= count) continue;
      const std::int64_t row = first_row + r;
      for (std::int64_t s = 0; s < job.segments; ++s) {
        std::int32_t scale = operand.exponents == nullptr ? 0 : operand.exponents[row * job.segments + s];
        special[r] |= scale == poisoned_exponent;
        if (scale == poisoned_exponent || fixed) scale = 0;
        for (std::int64_t k = segment_begin(job, s); k < job.segment_end[s]; ++k) {
          const std::uint32_t code =
              load_code(operand.codes, operand.code_bytes, row * job.k + k) >> operand.code_shift;
          const SplitElement e = (*this)(code);
          special[r] |= e.significand == 0 && classify(operand.element, code) != CodeClass::finite;
          const std::int64_t at = plan.position(k) * stride_k + r * stride_r;
          to[at] = e.significand;
          to[plane + at] = e.exponent + scale;
        }
      }
    }
  }
};

constexpr std::size_t integer_parts = lanes / Register<std::int32_t>::width;

// top = max(top, exponents of the products).
inline void raise_to_largest(const std::int32_t* row, const std::int32_t* panel, std::int64_t count,
                             std::int32_t* top) {
  auto* largest = reinterpret_cast<Integers*>(top);
  Integers local[integer_parts];
  for (std::size_t i = 0; i < integer_parts; ++i) local[i] = largest[i];
  for (std::int64_t k = 0; k < count; ++k) {
    const auto* from = reinterpret_cast<const Integers*>(panel + k * lanes);
    for (std::size_t i = 0; i < integer_parts; ++i) {
      const Integers exponent = row[k] + from[i];
      local[i] = exponent > local[i] ? exponent : local[i];
    }
  }
  for (std::size_t i = 0; i < integer_parts; ++i) largest[i] = local[i];
}

// sum += every product, cut toward zero in magnitude at fraction_bits below 2^top.
inline void add_cut_products(int shift_up, const std::int32_t* row, std::int64_t row_plane, const std::int32_t* panel,
                             std::int64_t panel_plane, std::int64_t count, const std::int32_t* top, std::int32_t* sum) {
  const auto* tops = reinterpret_cast<const Integers*>(top);
  auto* sums = reinterpret_cast<Integers*>(sum);
  const Integers farthest = Integers{} + 31;
  Integers local[integer_parts];
  for (std::size_t i = 0; i < integer_parts; ++i) local[i] = sums[i];
  for (std::int64_t k = 0; k < count; ++k) {
    const auto* significands = reinterpret_cast<const Integers*>(panel + k * lanes);
    const auto* exponents = reinterpret_cast<const Integers*>(panel + panel_plane + k * lanes);
    for (std::size_t i = 0; i < integer_parts; ++i) {
      const Integers product = row[k] * significands[i];
      const Integers sign = product >> 31;
      const Integers distance = tops[i] - (row[row_plane + k] + exponents[i]);
      const Integers shift = distance < farthest ? distance : farthest;
      const Integers cut = (((product ^ sign) - sign) << shift_up) >> shift;
      local[i] += (cut ^ sign) - sign;
    }
  }
  for (std::size_t i = 0; i < integer_parts; ++i) sums[i] = local[i];
}

// A signed integer times 2^-drop, rounded; a negative drop is exact.
inline std::int64_t cut_integer(std::int64_t value, std::int64_t drop, Cut how) {
  if (drop <= 0) return value * (std::int64_t{1} << (-drop & 63));  // far beyond 63 for a zero alone
  if (drop > 62) {
    if (how == Cut::to_odd) return value < 0 ? -1 : value > 0;
    return how == Cut::down && value < 0 ? -1 : 0;
  }
  if (how == Cut::toward_zero) return value < 0 ? -(-value >> drop) : value >> drop;
  const std::int64_t below = value >> drop;
  if (how == Cut::down) return below;
  const std::int64_t rest = value - below * (std::int64_t{1} << drop);
  if (how == Cut::to_odd) return below | (rest != 0 ? 1 : 0);
  const std::int64_t half = std::int64_t{1} << (drop - 1);
  return below + (rest > half || (rest == half && (below & 1) != 0) ? 1 : 0);
}

// The accumulator as a machine reads it.
struct StartLanes {
  std::int32_t significand[lanes];  // signed, 23 fraction bits
  std::int32_t exponent[lanes];     // clamped to the accumulator's least
  std::int32_t counted[lanes];      // where it takes part in the alignment, else absent

  StartLanes(const AlignPlan& plan, const float* acc) {
    const std::int32_t least = plan.accumulator.emin;
    for (int l = 0; l < lanes; ++l) {
      const std::uint32_t bits = as_bits<Carrier32>(acc[l]);
      const auto field = static_cast<std::int32_t>(bits >> 23 & 0xFF);
      const auto size = static_cast<std::int32_t>(bits & 0x7FFFFF) | (field > 0 ? 1 << 23 : 0);
      const std::int32_t own = (field > 1 ? field : 1) - 127;
      significand[l] = (bits >> 31) != 0 ? -size : size;
      exponent[l] = own;
      const std::int32_t clamped = own > least ? own : least;
      counted[l] = size != 0 ? clamped : plan.zero_exponent;
    }
  }
};

// One row of a against one panel of b, packed.
struct AlignRows {
  const std::int32_t* row;
  std::int64_t row_plane;
  const std::int32_t* panel;
  std::int64_t panel_plane;
  std::int64_t a_row, b_row;  // of the first lane
};

// top = max(top, exponents of the products) where one of 2 or more has an exponent one higher; products fit int32.
inline void raise_to_normalized(const AlignPlan& plan, const AlignRows& in, std::int64_t first, std::int64_t count,
                                std::int32_t* top) {
  auto* largest = reinterpret_cast<Integers*>(top);
  const std::int32_t below_two = (2 << plan.product_fraction) - 1;
  const std::int32_t* row = in.row + first;
  Integers local[integer_parts];
  for (std::size_t i = 0; i < integer_parts; ++i) local[i] = largest[i];
  for (std::int64_t k = 0; k < count; ++k) {
    const auto* significands = reinterpret_cast<const Integers*>(in.panel + (first + k) * lanes);
    const auto* exponents = reinterpret_cast<const Integers*>(in.panel + in.panel_plane + (first + k) * lanes);
    for (std::size_t i = 0; i < integer_parts; ++i) {
      const Integers product = row[k] * significands[i], sign = product >> 31;
      const Integers excess = ((product ^ sign) - sign) > below_two;  // -1 where it has
      const Integers exponent = row[in.row_plane + k] + exponents[i] - excess;
      local[i] = exponent > local[i] ? exponent : local[i];
    }
  }
  for (std::size_t i = 0; i < integer_parts; ++i) largest[i] = local[i];
}

// The largest exponent of one step's terms of int32.
inline void narrow_largest(const AlignPlan& plan, const AlignRows& in, std::int64_t first, std::int64_t count,
                           std::int32_t* top) {
  if (plan.job.path.normalize) return raise_to_normalized(plan, in, first, count, top);
  raise_to_largest(in.row + in.row_plane + first, in.panel + in.panel_plane + first * lanes, count, top);
}

// Sums of one step's terms, at fraction_bits below 2^top, terms of int32.
inline void sum_narrow(const AlignPlan& plan, const AlignRows& in, std::int64_t first, std::int64_t count,
                       const std::int32_t* top, std::int64_t* total) {
  for (std::int64_t k = first; k < first + count; k += plan.partial) {
    const std::int64_t some = smaller(plan.partial, first + count - k);
    std::int32_t sum[lanes] = {};
    add_cut_products(plan.shift_up, in.row + k, in.row_plane, in.panel + k * lanes, in.panel_plane, some, top, sum);
    for (int l = 0; l < lanes; ++l) total[l] += sum[l];
  }
}

// Terms of int64, with every choice there is; products first, first + stride, ...
inline void wide_largest(const AlignPlan& plan, const AlignRows& in, std::int64_t first, std::int64_t end,
                         std::int64_t stride, std::int32_t* top) {
  const bool normalize = plan.job.path.normalize;
  const std::int64_t two = std::int64_t{2} << plan.product_fraction;
  for (std::int64_t k = first; k < end; k += stride)
    for (int l = 0; l < lanes; ++l) {
      const std::int64_t product = static_cast<std::int64_t>(in.row[k]) * in.panel[k * lanes + l];
      std::int32_t exponent = in.row[in.row_plane + k] + in.panel[in.panel_plane + k * lanes + l];
      if (normalize && (product >= two || product <= -two)) ++exponent;
      top[l] = larger(top[l], exponent);
    }
}

inline void sum_wide(const AlignPlan& plan, const AlignRows& in, std::int64_t first, std::int64_t end,
                     std::int64_t stride, const std::int32_t* top, std::int64_t* total) {
  const Cut how = plan.job.path.align_rounding;
  for (std::int64_t k = first; k < end; k += stride)
    for (int l = 0; l < lanes; ++l) {
      const std::int64_t product = static_cast<std::int64_t>(in.row[k]) * in.panel[k * lanes + l];
      const std::int64_t exponent = in.row[in.row_plane + k] + in.panel[in.panel_plane + k * lanes + l];
      if (product != 0) total[l] += cut_integer(product, top[l] - exponent - plan.shift_up, how);
    }
}

// Presums: exact integer sums of one segment each, times the significands of its scales. Their exponents are those of
// the scales.
struct Presums {
  const AlignPlan& plan;
  const AlignRows& in;

  std::int64_t segment_of(std::int64_t k) const {
    std::int64_t s = 0;
    while (plan.job.segment_end[s] <= k) ++s;
    return s;
  }
  static std::int32_t exponent(const Operand& o, const MultiplyJob& job, std::int64_t row, std::int64_t s) {
    const std::int32_t e = o.exponents == nullptr ? 0 : o.exponents[row * job.segments + s];
    return e == poisoned_exponent ? 0 : e;
  }
  static std::int64_t significand(const Operand& o, const MultiplyJob& job, std::int64_t row, std::int64_t s) {
    return o.significands == nullptr ? 1 : o.significands[row * job.segments + s];
  }

  template <class Use>
  void each(std::int64_t first, std::int64_t end, const Use& use) const {
    const MultiplyJob& job = plan.job;
    for (std::int64_t k = first; k < end; k += job.path.presum) {
      const std::int64_t stop = smaller(k + job.path.presum, end), s = segment_of(k);
      std::int32_t exponents[lanes];
      for (int l = 0; l < lanes; ++l) {
        const std::int64_t b_row = smaller(in.b_row + l, job.n - 1);
        exponents[l] = exponent(job.a, job, in.a_row, s) + exponent(job.b, job, b_row, s);
      }
      use(k, stop, s, exponents);
    }
  }

  void largest(std::int64_t first, std::int64_t end, std::int32_t* top) const {
    const MultiplyJob& job = plan.job;
    each(first, end, [&](std::int64_t k, std::int64_t stop, std::int64_t s, const std::int32_t* exponents) {
      std::int32_t sums[lanes];
      dot(k, stop, sums);
      const bool zeros_count = plan.zero_exponent != absent_exponent;
      const bool own = significand(job.a, job, in.a_row, s) != 0;
      for (int l = 0; l < lanes; ++l) {
        const bool other = significand(job.b, job, smaller(in.b_row + l, job.n - 1), s) != 0;
        if (zeros_count || (sums[l] != 0 && own && other)) top[l] = larger(top[l], exponents[l]);
      }
    });
  }

  void add(std::int64_t first, std::int64_t end, const std::int32_t* top, std::int64_t* total) const {
    const MultiplyJob& job = plan.job;
    const Cut how = job.path.align_rounding;
    const int unit = plan.integer_unit - job.a.scale_fraction - job.b.scale_fraction;
    each(first, end, [&](std::int64_t k, std::int64_t stop, std::int64_t s, const std::int32_t* exponents) {
      std::int32_t sums[lanes];
      dot(k, stop, sums);
      const std::int64_t own = significand(job.a, job, in.a_row, s);
      for (int l = 0; l < lanes; ++l) {
        const std::int64_t b_row = smaller(in.b_row + l, job.n - 1);
        const std::int64_t term = sums[l] * own * significand(job.b, job, b_row, s);
        if (term != 0) total[l] += cut_integer(term, top[l] - job.path.fraction_bits - unit - exponents[l], how);
      }
    });
  }

  void dot(std::int64_t first, std::int64_t end, std::int32_t* sums) const {
    Integers local[integer_parts] = {};
    for (std::int64_t k = first; k < end; ++k) {
      const auto* from = reinterpret_cast<const Integers*>(in.panel + k * lanes);
      for (std::size_t i = 0; i < integer_parts; ++i) local[i] += in.row[k] * from[i];
    }
    for (std::size_t i = 0; i < integer_parts; ++i) reinterpret_cast<Integers*>(sums)[i] = local[i];
  }
};

// What NaN and Inf among a step's products and scales add up to; 0 if there are none. `first` is a packed position.
inline double special_of_step(const AlignPlan& plan, const ElementTable& a_table, const ElementTable& b_table,
                              std::int64_t a_row, std::int64_t b_row, std::int64_t first, std::int64_t end) {
  const MultiplyJob& job = plan.job;
  const std::int64_t base = first / plan.instruction * plan.instruction;
  double sum = 0;
  std::int64_t s = 0;
  for (std::int64_t k = plan.steps == 1 ? first : base; k < smaller(base + plan.instruction, job.k); ++k) {
    const std::int64_t at = plan.position(k);
    if (at < first || at >= end) continue;
    while (job.segment_end[s] <= k) ++s;
    const auto poisoned = [&](const Operand& o, std::int64_t row) {
      return o.exponents != nullptr && o.exponents[row * job.segments + s] == poisoned_exponent;
    };
    const auto value = [&](const Operand& o, const ElementTable& table, std::int64_t row) {
      return table(load_code(o.codes, o.code_bytes, row * job.k + k) >> o.code_shift);
    };
    const double product = value(job.a, a_table, a_row) * value(job.b, b_table, b_row);
    if (!is_finite(product)) sum += product;
    if (poisoned(job.a, a_row) || poisoned(job.b, b_row)) sum = as_value<Carrier64>(nan_bits<Carrier64>);
  }
  return sum;
}

// Products of 2^128 and more are Inf where the machine says so: the class of one lane's, 0 if there are none.
inline double overflow_of_step(const AlignPlan& plan, const AlignRows& in, std::int64_t first, std::int64_t end,
                               int lane) {
  double sum = 0;
  for (std::int64_t k = first; k < end; ++k) {
    const double product = static_cast<double>(in.row[k]) * in.panel[k * lanes + lane];
    const std::int32_t exponent = in.row[in.row_plane + k] + in.panel[in.panel_plane + k * lanes + lane];
    if (product == 0) continue;
    const double value = product * power_of_two(exponent - plan.product_fraction);
    if (value >= power_of_two(128) || value <= -power_of_two(128))
      sum += as_value<Carrier64>(infinity_bits<Carrier64> | (value < 0 ? sign_mask<Carrier64> : 0));
  }
  return sum;
}

// The products of each partial sum, then the accumulator, both rounded down.
inline void late_floor_step(const AlignPlan& plan, const AlignRows& in, std::int64_t first, std::int64_t end,
                            float* acc) {
  const Datapath& path = plan.job.path;
  const StartLanes start(plan, acc);
  std::int32_t tops[max_align_lanes][lanes], top[lanes], all[lanes];
  std::int64_t sums[max_align_lanes][lanes] = {};
  for (int l = 0; l < lanes; ++l) top[l] = absent_exponent;
  for (int p = 0; p < path.lanes; ++p) {
    for (int l = 0; l < lanes; ++l) tops[p][l] = absent_exponent;
    if (path.lanes == 1 && plan.narrow)
      narrow_largest(plan, in, first, end - first, tops[p]);
    else
      wide_largest(plan, in, first + p, end, path.lanes, tops[p]);
    for (int l = 0; l < lanes; ++l) {
      tops[p][l] = tops[p][l] > absent_exponent / 2 ? larger(tops[p][l], path.exponent_floor) : absent_exponent;
      top[l] = larger(top[l], tops[p][l]);
    }
    if (path.lanes == 1 && plan.narrow)
      sum_narrow(plan, in, first, end - first, tops[p], sums[p]);
    else
      sum_wide(plan, in, first + p, end, path.lanes, tops[p], sums[p]);
  }
  double x[lanes];
  for (int l = 0; l < lanes; ++l) {
    std::int64_t total = 0;
    for (int p = 0; p < path.lanes; ++p)
      if (tops[p][l] > absent_exponent / 2) total += cut_integer(sums[p][l], top[l] - tops[p][l], Cut::down);
    // A zero accumulator takes no part here, whatever zero products do.
    all[l] = start.significand[l] != 0 ? larger(top[l], larger(start.exponent[l], plan.accumulator.emin)) : top[l];
    if (all[l] < absent_exponent / 2) {
      x[l] = 0;
      continue;
    }
    if (top[l] > absent_exponent / 2)
      total = cut_integer(total, all[l] - top[l] - (path.sum_fraction - path.fraction_bits), Cut::down);
    const std::int32_t own = larger(start.exponent[l], plan.accumulator.emin);
    const bool reached = path.start_reach == 0 || own >= all[l] - path.start_reach;
    if (start.significand[l] != 0 && reached)
      total += cut_integer(start.significand[l], all[l] - path.start_fraction - (start.exponent[l] - 23), Cut::down) *
               (std::int64_t{1} << (path.sum_fraction - path.start_fraction));
    x[l] = static_cast<double>(total) * power_of_two(all[l] - path.sum_fraction);
  }
  round_lanes(plan.accumulator, x, acc);
}

// The accumulator cut toward zero where all terms are int32: |c| has 24 bits and fraction_bits is at most 28.
inline void cut_start(const StartLanes& start, const std::int32_t* top, int fraction_bits, std::int32_t* cut) {
  const int up = fraction_bits > 23 ? fraction_bits - 23 : 0, down = fraction_bits < 23 ? 23 - fraction_bits : 0;
  for (int l = 0; l < lanes; ++l) {
    const std::int32_t value = start.significand[l], sign = value >> 31;
    const std::int32_t distance = larger(top[l] - start.exponent[l] + down, 0);  // negative of a zero alone
    const std::int32_t size = (((value ^ sign) - sign) << up) >> (distance < 31 ? distance : 31);
    cut[l] = (size ^ sign) - sign;
  }
}

// The accumulator is one of the terms, and every sum fits int32.
inline void aligned_step_short(const AlignPlan& plan, const AlignRows& in, std::int64_t first, std::int64_t end,
                               float* acc) {
  const Datapath& path = plan.job.path;
  const StartLanes start(plan, acc);
  std::int32_t top[lanes], sum[lanes];
  for (int l = 0; l < lanes; ++l) top[l] = larger(start.counted[l], plan.least_top);
  narrow_largest(plan, in, first, end - first, top);
  cut_start(start, top, path.fraction_bits, sum);
  add_cut_products(plan.shift_up, in.row + first, in.row_plane, in.panel + first * lanes, in.panel_plane, end - first,
                   top, sum);
  double x[lanes];
  scale_lanes(sum, top, -path.fraction_bits, x);
  round_lanes(plan.accumulator, x, acc);
}

// The accumulator is one of the terms.
inline void aligned_step(const AlignPlan& plan, const AlignRows& in, std::int64_t first, std::int64_t end, float* acc) {
  const Datapath& path = plan.job.path;
  const StartLanes start(plan, acc);
  std::int32_t top[lanes];
  std::int64_t total[lanes] = {};
  for (int l = 0; l < lanes; ++l) top[l] = start.counted[l];
  const Presums presums{plan, in};
  if (path.presum > 1)
    presums.largest(first, end, top);
  else if (plan.narrow)
    narrow_largest(plan, in, first, end - first, top);
  else
    wide_largest(plan, in, first, end, 1, top);
  for (int l = 0; l < lanes; ++l) top[l] = larger(top[l], plan.least_top);
  for (int l = 0; l < lanes; ++l) {
    const std::int64_t distance = std::int64_t{top[l]} - start.exponent[l] + 23 - path.fraction_bits;
    total[l] = cut_integer(start.significand[l], distance, path.align_rounding);
  }
  if (path.presum > 1)
    presums.add(first, end, top, total);
  else if (plan.narrow)
    sum_narrow(plan, in, first, end - first, top, total);
  else
    sum_wide(plan, in, first, end, 1, top, total);
  double x[lanes];
  scale_lanes(total, top, -path.fraction_bits, x);
  round_lanes(plan.accumulator, x, acc);
}

// Positions [first, end) of packed K: one step, with what NaN and Inf do to it.
inline void align_step(const AlignPlan& plan, const AlignRows& in, const ElementTable& a_table,
                       const ElementTable& b_table, const bool* special, std::int64_t first, std::int64_t end,
                       float* acc) {
  const Datapath& path = plan.job.path;
  float before[lanes];
  bool odd = false;
  for (int l = 0; l < lanes; ++l) {
    before[l] = acc[l];
    odd |= special[l] | !is_finite(acc[l]);
  }
  if (path.start == Start::late_floor)
    late_floor_step(plan, in, first, end, acc);
  else if (plan.short_sums)
    aligned_step_short(plan, in, first, end, acc);
  else
    aligned_step(plan, in, first, end, acc);
  bool large = false;
  if (plan.overflows) {
    std::int32_t top[lanes] = {};
    raise_to_largest(in.row + in.row_plane + first, in.panel + in.panel_plane + first * lanes, end - first, top);
    for (int l = 0; l < lanes; ++l) large = large || top[l] >= 127;
  }
  if (!odd && !large) return;
  for (int l = 0; l < lanes && in.b_row + l < plan.job.n; ++l) {
    double sum = special[l] ? special_of_step(plan, a_table, b_table, in.a_row, in.b_row + l, first, end) : 0;
    if (sum == 0 && is_finite(before[l]) && large) sum = overflow_of_step(plan, in, first, end, l);
    if (sum != 0 || !is_finite(before[l])) acc[l] = static_cast<float>(sum + before[l]);
  }
}

// Every step of packed K from `first` to `end`, whole instructions.
inline void align_chain(const AlignPlan& plan, const AlignRows& in, const ElementTable& a_table,
                        const ElementTable& b_table, const bool* special, std::int64_t first, std::int64_t end,
                        float* acc) {
  const bool after = plan.job.path.start == Start::after_instruction;
  for (std::int64_t k = first; k < end; k += plan.instruction) {
    const std::int64_t stop = smaller(k + plan.instruction, end);
    float inner[lanes] = {};
    float* own = after ? inner : acc;
    for (std::int64_t s = k; s < stop; s += plan.job.path.group)
      align_step(plan, in, a_table, b_table, special, s, smaller(s + plan.job.path.group, stop), own);
    if (after) add_rounded(plan.accumulator, inner, acc);
  }
}

// The same, with a fresh accumulator for every chunk where the machine has chunks.
inline void align_chunks(const AlignPlan& plan, const AlignRows& in, const ElementTable& a_table,
                         const ElementTable& b_table, const bool* special, std::int64_t first, std::int64_t end,
                         float* acc) {
  const std::int64_t chunk = plan.job.path.chunk;
  if (chunk == 0) return align_chain(plan, in, a_table, b_table, special, first, end, acc);
  for (std::int64_t k = first; k < end; k += chunk) {
    float part[lanes] = {};
    align_chain(plan, in, a_table, b_table, special, k, smaller(k + chunk, end), part);
    for (int l = 0; l < lanes; ++l) acc[l] += part[l];
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
