// Align-and-add where float32 numbers hold every product: an aligned term is a product times a power of two, converted
// to an integer, which cuts toward zero, and mended for other cuts (docs/numerics.md section 10). Largest exponents are
// sought in bytes. Rows and panels whose numbers are near enough to each other go this way; align.h does all the
// others.
#pragma once

#include "align.h"
#include "results.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

typedef std::uint8_t Bytes __attribute__((vector_size(SPARQ_REGISTER_BYTES), aligned(4), may_alias));
typedef std::int32_t HalfIntegers __attribute__((vector_size(double_width * 4), aligned(4), may_alias));
constexpr int exponents_at_once = 4;  // bytes of one lane beside each other

// Exponents of one row or panel: bytes count up to `largest_byte` for its highest exponent, and a zero is 0. Only two
// operands that are no zeros add up to `present` and more.
constexpr int largest_byte = 127, smallest_byte = 64, present = 2 * smallest_byte;

// What one packed row is like.
struct RowKind {
  bool near = false;                   // finite, and no number is too small beside the largest
  int lowest = 1000, highest = -1000;  // exponents of what is not zero
};

struct Truncation {
  const AlignPlan& plan;
  const Datapath& path;
  bool applies;
  int depth;             // bits that a step's result may reach below its largest exponent
  std::int64_t part;     // slots of one partial sum of a step: whole words of bytes, or a step of one or two products
  std::int64_t slots;    // of a step
  std::int64_t steps;    // of all of K
  std::int64_t at_once;  // products whose terms int32 sums hold
  bool cuts, single;     // the accumulator is cut toward zero to float32; a step's sum is a float32 number

  explicit Truncation(const AlignPlan& p)
      : plan(p),
        path(p.job.path),
        depth(larger(path.fraction_bits, path.start == Start::late_floor ? path.sum_fraction : 0)),
        part((path.group + path.lanes - 1) / path.lanes),
        steps((p.packed + path.group - 1) / path.group) {
    const std::int64_t products = part;
    if (!in_words()) part = (part + exponents_at_once - 1) / exponents_at_once * exponents_at_once;
    slots = part * path.lanes;
    applies = path.presum == 1 && path.zero_products == ZeroProducts::absent && path.fraction_bits <= 28 &&
              depth <= 40 && plan.product_fraction + 2 <= 24 && plan.job.k < std::int64_t{1} << 30 &&
              (path.lanes == 1 || !in_words()) && 2 * part <= 3 * products && 2 * slots <= 3 * path.group &&
              (4 * std::int64_t{path.group} + 2) << depth <= std::int64_t{1} << 50;
    // A term is less than 2^(fraction_bits + 2), or rounded up to it.
    at_once =
        applies ? larger<std::int64_t>((std::int64_t{1} << (29 - path.fraction_bits)) / (truncates() ? 1 : 2), 1) : 1;
    const bool full = path.accumulator_exponent_bits == 8 && path.overflow == FloatOverflow::infinity;
    cuts = full && path.accumulator_rounding == AccumulatorRounding::toward_zero;
    single = cuts && (4 * std::int64_t{path.group} + 2) << path.fraction_bits <= 1 << 24;
  }

  bool truncates() const { return path.align_rounding == Cut::toward_zero; }
  // Steps of one or two products lie in one word of bytes with others.
  bool in_words() const { return part <= 2; }

  // Where element k of K lies.
  std::int64_t slot(std::int64_t k) const {
    const std::int64_t at = plan.position(k), inside = at % path.group;
    return at / path.group * slots + inside % path.lanes * part + inside / path.lanes;
  }
  bool straight() const { return plan.steps == 1 && slots == path.group && path.lanes == 1; }

  // The least exponent of anything that is not zero: results stay normal numbers however many bits are lost.
  int least() const { return depth - 126; }
  bool are_near(const RowKind& a, const RowKind& b) const {
    return a.near && b.near && a.lowest + b.lowest >= least() + depth + 2 && a.highest + b.highest <= 90;
  }
  bool starts_near(const float* acc) const {
    if (path.chunk > 0 || path.start == Start::after_instruction) return true;
    bool near = true;
    const float low = static_cast<float>(power_of_two(least()));
    for (int l = 0; l < lanes; ++l) {
      const float size = acc[l] < 0 ? -acc[l] : acc[l];
      near = near & (size == 0 || (size >= low && size <= 0x1p100F));
    }
    return near;
  }
};

// One operand's rows as float32 numbers and bytes.
struct FloatPacker {
  const Truncation& how;
  const Splitter& splitter;
  const std::int32_t* slots;  // of each k
  bool straight;              // and that is k itself
  bool bounded;               // the format alone says that exponents are near enough
  bool tabled;
  float values_of[256];  // of short codes
  bool finite_of[256];

  FloatPacker(const Truncation& h, const Splitter& s, const std::int32_t* slots_of_k)
      : how(h), splitter(s), slots(slots_of_k), straight(h.straight()) {
    const ElementFormat& f = s.operand.element;
    const bool moderate = min_exponent(f) >= -90 && max_exponent(f) < 90;
    bounded = s.operand.exponents == nullptr && moderate &&
              max_exponent(f) + 1 - min_exponent(f) <= largest_byte - smallest_byte;
    tabled = s.tabled && moderate;
    for (std::uint32_t code = 0; tabled && code < 256; ++code) {
      finite_of[code] = classify(f, code) == CodeClass::finite;
      values_of[code] = value(s.table[code], 0);
    }
  }

  float value(const SplitElement& e, std::int32_t scale) const {
    if (e.significand == 0) return 0;
    const int exponent = e.exponent + scale - splitter.operand.element.mantissa_bits;
    return static_cast<float>(e.significand) * as_value<Carrier32>(static_cast<std::uint32_t>(exponent + 127) << 23);
  }

  // Row `row`: the value and the byte of each slot. Slots of no k are zeros already.
  RowKind operator()(std::int64_t row, float* values, std::uint8_t* bytes) const {
    const MultiplyJob& job = how.plan.job;
    const Operand& o = splitter.operand;
    const ElementFormat& f = o.element;
    RowKind kind{true};
    if (bounded) {
      kind.lowest = min_exponent(f);
      kind.highest = max_exponent(f) + 1;
    } else if (!find_range(row, kind)) {
      return {};
    }
    bool finite = true;
    for (std::int64_t s = 0; s < job.segments; ++s) {
      const std::int64_t begin = segment_begin(job, s), end = job.segment_end[s];
      const std::int32_t scale = o.exponents == nullptr ? 0 : o.exponents[row * job.segments + s];
      const std::int32_t to_byte = scale - kind.highest + largest_byte;
      if (tabled && scale >= -126 && scale <= 127) {
        const float power = static_cast<float>(power_of_two(scale));
        const auto* codes = static_cast<const std::uint8_t*>(o.codes) + row * job.k;
        for (std::int64_t k = begin; k < end; ++k) {
          const SplitElement e = splitter.table[codes[k]];
          const std::int64_t i = straight ? k : slots[k];
          values[i] = values_of[codes[k]] * power;
          bytes[i] = static_cast<std::uint8_t>(e.significand != 0 ? e.exponent + to_byte : 0);
          finite &= finite_of[codes[k]];
        }
        continue;
      }
      for (std::int64_t k = begin; k < end; ++k) {
        const std::uint32_t code = load_code(o.codes, o.code_bytes, row * job.k + k) >> o.code_shift;
        const SplitElement e = splitter(code);
        const std::int64_t i = straight ? k : slots[k];
        values[i] = value(e, scale);
        bytes[i] = static_cast<std::uint8_t>(e.significand != 0 ? e.exponent + to_byte : 0);
        if (e.significand == 0) finite &= classify(f, code) == CodeClass::finite;
      }
    }
    kind.near = finite;
    return kind;
  }

  // Exponents of a row whose numbers are near each other.
  bool find_range(std::int64_t row, RowKind& kind) const {
    const MultiplyJob& job = how.plan.job;
    const Operand& o = splitter.operand;
    for (std::int64_t s = 0; s < job.segments; ++s) {
      const std::int32_t scale = o.exponents == nullptr ? 0 : o.exponents[row * job.segments + s];
      if (scale == poisoned_exponent) return false;
      for (std::int64_t k = segment_begin(job, s); k < job.segment_end[s]; ++k) {
        const SplitElement e = splitter(load_code(o.codes, o.code_bytes, row * job.k + k) >> o.code_shift);
        if (e.significand == 0) continue;
        kind.lowest = smaller(kind.lowest, e.exponent + scale);
        kind.highest = larger(kind.highest, e.exponent + scale);
      }
    }
    if (kind.highest < kind.lowest) kind.lowest = kind.highest = 0;
    return kind.highest - kind.lowest <= largest_byte - smallest_byte && kind.lowest >= -90 && kind.highest <= 90;
  }
};

// Rows that go through the steps together, so that one need not wait for its own last step.
constexpr int rows_together = float_parts <= 2 ? 2 : 1;

// Rows and a panel, packed, and the slot at which the next step begins.
template <int rows>
struct FloatRows {
  const float* row[std::size_t{rows}];
  const std::uint8_t* row_bytes[std::size_t{rows}];
  const float* panel;
  const std::uint8_t* panel_bytes;
  std::int64_t at;
};

// Registers and numbers of all rows together.
template <int rows>
constexpr int all_parts = rows * float_parts;
template <int rows>
constexpr int all_lanes = rows * lanes;

typedef std::uint32_t Unsigned __attribute__((vector_size(SPARQ_REGISTER_BYTES)));
inline Unsigned larger_bytes(Unsigned words, Unsigned others) {
  const Bytes x = reinterpret_cast<const Bytes&>(words), y = reinterpret_cast<const Bytes&>(others);
  const Bytes most = x > y ? x : y;
  return reinterpret_cast<const Unsigned&>(most);
}

// Sums of the bytes of one word of slots.
template <int rows>
inline Unsigned byte_sums(const FloatRows<rows>& in, std::int64_t word, int r, int p) {
  std::int32_t own;
  std::memcpy(&own, in.row_bytes[r] + word, sizeof own);
  const Integers words = Integers{} + own;
  const Bytes sum =
      reinterpret_cast<const Bytes&>(words) + reinterpret_cast<const Bytes*>(in.panel_bytes + word * lanes)[p];
  return reinterpret_cast<const Unsigned&>(sum);
}

// top = max(top, exponents of the products of float32 that are normal).
template <int rows>
inline void raise_to_products(const FloatRows<rows>& in, std::int64_t begin, std::int64_t count, Integers* top) {
  Integers local[all_parts<rows>] = {};
  for (std::int64_t k = begin; k < begin + count; ++k) {
    const Floats* from = reinterpret_cast<const Floats*>(in.panel + k * lanes);
    for (int q = 0; q < all_parts<rows>; ++q) {
      const Integers size = as_integers(in.row[q / float_parts][k] * from[q % float_parts]) & 0x7FFFFFFF;
      local[q] = size > local[q] ? size : local[q];
    }
  }
  for (int q = 0; q < all_parts<rows>; ++q) {
    const Integers exponent = (local[q] >> 23) - 127;
    // A zero's and a subnormal product's is below what bytes have found.
    top[q] = local[q] != 0 && exponent > top[q] ? exponent : top[q];
  }
}

// The largest exponent of each lane's products in slots [begin, begin + how.part), or one far below `none`.
constexpr std::int32_t none = -500;
template <int rows>
inline void find_largest(const Truncation& how, const FloatRows<rows>& in, std::int64_t begin,
                         const std::int32_t* highest, Integers* top) {
  static_assert(SPARQ_REGISTER_BYTES == exponents_at_once * float_width);
  Unsigned local[all_parts<rows>] = {};
  if (how.in_words()) {
    const int shift = static_cast<int>(begin % exponents_at_once) * 8;
    for (int q = 0; q < all_parts<rows>; ++q) {
      const Unsigned words =
          byte_sums(in, begin / exponents_at_once * exponents_at_once, q / float_parts, q % float_parts) >> shift;
      local[q] = how.part == 1 ? words : larger_bytes(words, words >> 8);
    }
  } else {
    for (std::int64_t i = begin; i < begin + how.part; i += exponents_at_once)
      for (int q = 0; q < all_parts<rows>; ++q)
        local[q] = larger_bytes(byte_sums(in, i, q / float_parts, q % float_parts), local[q]);
    for (int q = 0; q < all_parts<rows>; ++q)
      for (const int shift : {16, 8}) local[q] = larger_bytes(local[q], local[q] >> shift);
  }
  for (int q = 0; q < all_parts<rows>; ++q) {
    const Unsigned masked = local[q] & 0xFF;
    const Integers byte = reinterpret_cast<const Integers&>(masked);
    const Integers exponent = byte + reinterpret_cast<const Integers*>(highest)[q];
    top[q] = byte >= present ? exponent : Integers{} + 2 * none;
  }
  if (how.path.normalize) raise_to_products(in, begin, how.part, top);
}

// x, which is `number` times a power of two and perhaps too small for float32, as an integer.
template <Cut cut>
inline Integers cut_to_integers(Floats x, Floats number) {
  const Integers toward_zero = __builtin_convertvector(x, Integers);
  if constexpr (cut == Cut::toward_zero) return toward_zero;
  const Floats kept = __builtin_convertvector(toward_zero, Floats);
  if constexpr (cut == Cut::nearest_even) {
    const Floats rest = x - kept;
    const Integers odd = -(toward_zero & 1);  // all bits
    const Integers up = (rest > 0.5F) | ((rest == 0.5F) & odd), down = (rest < -0.5F) | ((rest == -0.5F) & odd);
    return toward_zero - up + down;
  }
  const Integers nothing = (kept == 0) & (number != 0) & (x == 0);
  const Integers below = toward_zero + ((kept > x) | (nothing & (number < 0)));
  if constexpr (cut == Cut::down) return below;
  return below | (((kept != x) | nothing) & 1);
}

// sums += products [begin, end), times `scale`, cut.
template <Cut cut, int rows>
inline void add_cut(const FloatRows<rows>& in, std::int64_t begin, std::int64_t end, const Floats* scale,
                    Integers* sums) {
  Floats own[all_parts<rows>];
  Integers local[all_parts<rows>];
  for (int q = 0; q < all_parts<rows>; ++q) {
    own[q] = scale[q];
    local[q] = sums[q];
  }
  for (std::int64_t k = begin; k < end; ++k) {
    const Floats* from = reinterpret_cast<const Floats*>(in.panel + k * lanes);
    for (int r = 0; r < rows; ++r)
      for (int p = 0; p < float_parts; ++p) {
        const int q = r * float_parts + p;
        const Floats product = in.row[r][k] * from[p];
        local[q] += cut_to_integers<cut>(product * own[q], product);
      }
  }
  for (int q = 0; q < all_parts<rows>; ++q) sums[q] = local[q];
}

// 2^exponent of each lane.
inline Floats powers_of_two(Integers exponents) { return as_floats((exponents + 127) << 23); }

// Where the accumulator stands in the alignment; a zero nowhere.
inline Integers start_exponents(const Truncation& how, const Floats* acc, int p) {
  const Integers bits = as_integers(acc[p]) & 0x7FFFFFFF;
  const Integers own = (bits >> 23) - 127, least = Integers{} + how.plan.accumulator.emin;
  const Integers clamped = own > least ? own : least;
  return bits != 0 ? clamped : Integers{} + 2 * none;
}

// total += the terms of slots [begin, begin + how.part), at fraction_bits below 2^top, exact.
template <Cut cut, int rows>
inline void sum_terms(const Truncation& how, const FloatRows<rows>& in, std::int64_t begin, const Floats* scale,
                      double* total) {
  const std::int64_t end = begin + how.part;
  for (std::int64_t k = begin; k < end; k += how.at_once) {
    Integers sums[all_parts<rows>] = {};
    add_cut<cut>(in, k, smaller(k + how.at_once, end), scale, sums);
    const HalfIntegers* half = reinterpret_cast<const HalfIntegers*>(sums);
    Doubles* to = reinterpret_cast<Doubles*>(total);
    for (int i = 0; i < rows * lanes / double_width; ++i) to[i] += __builtin_convertvector(half[i], Doubles);
  }
}

// to = x times 2^exponent, rounded to the accumulator.
template <int rows>
inline void finish_step(const Truncation& how, double* x, const Floats* power, float* to) {
  const HalfFloats* half = reinterpret_cast<const HalfFloats*>(power);
  Doubles* wide = reinterpret_cast<Doubles*>(x);
  if (how.cuts) {
    // Normal numbers all: bits that the accumulator has no room for go before the powers of two are applied.
    const std::int64_t mask = -(std::int64_t{1} << (52 - how.path.accumulator_fraction));
    HalfFloats* narrow = reinterpret_cast<HalfFloats*>(to);
    for (int i = 0; i < rows * lanes / double_width; ++i)
      narrow[i] = __builtin_convertvector(as_doubles(as_words(wide[i]) & mask), HalfFloats) * half[i];
    return;
  }
  for (int i = 0; i < rows * lanes / double_width; ++i) wide[i] *= __builtin_convertvector(half[i], Doubles);
  for (int r = 0; r < rows; ++r) round_lanes(how.plan.accumulator, x + r * lanes, to + r * lanes);
}

// The accumulator is one of the terms.
template <Cut cut, int rows>
inline void cut_step(const Truncation& how, const FloatRows<rows>& in, const std::int32_t* highest,
                     float* accumulator) {
  const int fraction = how.path.fraction_bits;
  Floats* acc = reinterpret_cast<Floats*>(accumulator);
  Integers top[all_parts<rows>], start[all_parts<rows>];
  Floats scale[all_parts<rows>], power[all_parts<rows>];
  find_largest(how, in, in.at, highest, top);
  const Integers least = Integers{} + larger(how.least(), how.plan.least_top);
  for (int p = 0; p < all_parts<rows>; ++p) {
    const Integers own = start_exponents(how, acc, p);
    top[p] = own > top[p] ? own : top[p];
    top[p] = least > top[p] ? least : top[p];
    scale[p] = powers_of_two(fraction - top[p]);
    power[p] = powers_of_two(top[p] - fraction);
    start[p] = cut_to_integers<cut>(acc[p] * scale[p], acc[p]);
  }
  if (how.single) {
    add_cut<cut>(in, in.at, in.at + how.slots, scale, start);
    const std::int32_t mask = -(std::int32_t{1} << (23 - how.path.accumulator_fraction));
    for (int p = 0; p < all_parts<rows>; ++p)
      acc[p] = as_floats(as_integers(__builtin_convertvector(start[p], Floats) * power[p]) & mask);
    return;
  }
  double total[all_lanes<rows>];
  const HalfIntegers* half = reinterpret_cast<const HalfIntegers*>(start);
  for (int i = 0; i < rows * lanes / double_width; ++i)
    reinterpret_cast<Doubles*>(total)[i] = __builtin_convertvector(half[i], Doubles);
  sum_terms<cut>(how, in, in.at, scale, total);
  finish_step<rows>(how, total, power, accumulator);
}

// Rounded down; sizes are below 2^50.
inline Doubles floors(Doubles x) {
  const Doubles magic = Doubles{} + 0x1.8p52, near = (x + magic) - magic;
  return near - as_doubles(as_words(Doubles{} + 1.0) & (near > x));
}

// The products of each partial sum, joined at the largest of their exponents, `joined`; of which `least` stands for
// none.
template <Cut cut, int rows>
inline void sum_parts(const Truncation& how, const FloatRows<rows>& in, const std::int32_t* highest, Integers* joined,
                      double* total) {
  const Datapath& path = how.path;
  const Integers floor = Integers{} + path.exponent_floor, least = Integers{} + how.least();
  Integers top[max_align_lanes][all_parts<rows>];
  for (int q = 0; q < all_parts<rows>; ++q) joined[q] = least;
  for (int part = 0; part < path.lanes; ++part) {
    find_largest(how, in, in.at + part * how.part, highest, top[part]);
    for (int q = 0; q < all_parts<rows>; ++q) {
      const Integers raised = top[part][q] > floor ? top[part][q] : floor;
      top[part][q] = top[part][q] > none ? raised : least;
      joined[q] = top[part][q] > joined[q] ? top[part][q] : joined[q];
    }
  }
  for (int part = 0; part < path.lanes; ++part) {
    Floats scale[all_parts<rows>], down[all_parts<rows>];
    for (int q = 0; q < all_parts<rows>; ++q) {
      const Integers own = top[part][q] > least ? top[part][q] : least, distance = own - joined[q];
      const Integers farthest = Integers{} - 80;  // sums of terms that are cut so far down are 0 or -1
      scale[q] = powers_of_two(path.fraction_bits - own);
      down[q] = powers_of_two(distance > farthest ? distance : farthest);
    }
    if (path.lanes == 1) return sum_terms<cut>(how, in, in.at, scale, total);
    double sums[all_lanes<rows>] = {};
    sum_terms<cut>(how, in, in.at + part * how.part, scale, sums);
    const HalfFloats* downs = reinterpret_cast<const HalfFloats*>(down);
    for (int i = 0; i < rows * lanes / double_width; ++i)
      reinterpret_cast<Doubles*>(total)[i] +=
          floors(reinterpret_cast<const Doubles*>(sums)[i] * __builtin_convertvector(downs[i], Doubles));
  }
}

// The accumulator comes after the products, both rounded down.
template <Cut cut, int rows>
inline void floor_step(const Truncation& how, const FloatRows<rows>& in, const std::int32_t* highest,
                       float* accumulator) {
  const Datapath& path = how.path;
  Floats* acc = reinterpret_cast<Floats*>(accumulator);
  Integers products[all_parts<rows>];
  double total[all_lanes<rows>] = {};
  sum_parts<cut>(how, in, highest, products, total);
  Floats power[all_parts<rows>], down[all_parts<rows>], start[all_parts<rows>], counted[all_parts<rows>];
  const Integers least = Integers{} + how.least(), farthest = Integers{} - 80;
  for (int p = 0; p < all_parts<rows>; ++p) {
    const Integers own = start_exponents(how, acc, p);
    Integers all = own > products[p] ? own : products[p];
    all = all > least ? all : least;
    const Integers distance = products[p] - all;
    down[p] = powers_of_two((distance > farthest ? distance : farthest) + (path.sum_fraction - path.fraction_bits));
    start[p] = powers_of_two(path.start_fraction - all);
    power[p] = powers_of_two(all - path.sum_fraction);
    const Integers reached = path.start_reach == 0 ? Integers{} - 1 : own >= all - path.start_reach;
    counted[p] = as_floats(as_integers(acc[p]) & reached);
  }
  Doubles* sums = reinterpret_cast<Doubles*>(total);
  const double up = power_of_two(path.sum_fraction - path.start_fraction);
  for (int i = 0; i < rows * lanes / double_width; ++i) {
    const auto widened = [i](const Floats* from) {
      return __builtin_convertvector(reinterpret_cast<const HalfFloats*>(from)[i], Doubles);
    };
    sums[i] = floors(sums[i] * widened(down)) + up * floors(widened(counted) * widened(start));
  }
  finish_step<rows>(how, total, power, accumulator);
}

// `count` steps, whole instructions.
template <Cut cut, int rows>
inline void truncating_chain(const Truncation& how, FloatRows<rows> in, const std::int32_t* highest, std::int64_t count,
                             float* acc) {
  const Datapath& path = how.path;
  const bool after = path.start == Start::after_instruction, late = path.start == Start::late_floor;
  float inner[all_lanes<rows>];
  float* own = after ? inner : acc;
  for (std::int64_t s = 0; s < count; s += how.plan.steps) {
    if (after) std::memset(inner, 0, sizeof inner);
    for (std::int64_t i = 0; i < how.plan.steps; ++i) {
      late ? floor_step<cut>(how, in, highest, own) : cut_step<cut>(how, in, highest, own);
      in.at += how.slots;
    }
    for (int r = 0; after && r < rows; ++r) add_rounded(how.plan.accumulator, inner + r * lanes, acc + r * lanes);
  }
}

// The same, with a fresh accumulator for every chunk of so many steps where the machine has chunks.
template <Cut cut, int rows>
inline void truncating_chunks(const Truncation& how, FloatRows<rows> in, const std::int32_t* highest,
                              std::int64_t count, std::int64_t chunk, float* acc) {
  if (how.path.chunk == 0) return truncating_chain<cut>(how, in, highest, count, acc);
  for (std::int64_t s = 0; s < count; s += chunk) {
    float total[all_lanes<rows>] = {};
    const std::int64_t some = smaller(chunk, count - s);
    truncating_chain<cut>(how, in, highest, some, total);
    in.at += some * how.slots;
    for (int l = 0; l < rows * lanes; ++l) acc[l] += total[l];
  }
}

// By the machine's way of cutting.
template <int rows>
inline void truncating_steps(const Truncation& how, const FloatRows<rows>& in, const std::int32_t* highest,
                             std::int64_t count, std::int64_t chunk, float* acc) {
  switch (how.path.align_rounding) {
    case Cut::toward_zero: return truncating_chunks<Cut::toward_zero>(how, in, highest, count, chunk, acc);
    case Cut::down: return truncating_chunks<Cut::down>(how, in, highest, count, chunk, acc);
    case Cut::nearest_even: return truncating_chunks<Cut::nearest_even>(how, in, highest, count, chunk, acc);
    case Cut::to_odd: return truncating_chunks<Cut::to_odd>(how, in, highest, count, chunk, acc);
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
