// What bits mean: element codes, scale levels and block formats, with the arithmetic of decoding.
//
// Rules: docs/numerics.md sections 1, 3 and 4. Functions are `static constexpr` on purpose: this header is
// also seen by files that are compiled for one instruction set, and a shared inline function would let the
// linker hand one of those copies to everybody.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace sparq {

// Which codes are no numbers (docs/numerics.md section 1).
enum class Specials : std::uint8_t { finite, ieee, fn, fnuz, fnuz_inf };

enum class Signedness : std::uint8_t { sign_magnitude, twos_complement, unsigned_code };

// A code of 1 + exponent_bits + mantissa_bits bits (without the sign bit when unsigned; two's complement spends
// it as the top bit of the integer). exponent_bits == 0 is an integer: every code is "subnormal". taper > 0: exponents
// from 2^taper on, of either sign, cost a mantissa bit for each further bit of theirs, and a prefix says how many.
struct ElementFormat {
  int exponent_bits = 0;
  int mantissa_bits = 0;
  int bias = 0;
  Specials specials = Specials::finite;
  Signedness signedness = Signedness::sign_magnitude;
  bool zero = true;  // false: exponent field 0 is one more normal binade (E8M0)
  int taper = 0;

  friend constexpr bool operator==(const ElementFormat&, const ElementFormat&) = default;
};

static constexpr bool is_signed(const ElementFormat& f) { return f.signedness != Signedness::unsigned_code; }

static constexpr int code_bits(const ElementFormat& f) {
  return f.exponent_bits + f.mantissa_bits + (is_signed(f) ? 1 : 0);
}

// Bytes that hold one code when codes are stored one by one: 1, 2 or 4.
static constexpr int code_bytes(const ElementFormat& f) { return code_bits(f) <= 8 ? 1 : code_bits(f) <= 16 ? 2 : 4; }

// The code of negative zero is the only NaN.
static constexpr bool nan_is_negative_zero(const ElementFormat& f) {
  return f.specials == Specials::fnuz || f.specials == Specials::fnuz_inf;
}

static constexpr bool has_negative_zero(const ElementFormat& f) {
  return f.signedness == Signedness::sign_magnitude && !nan_is_negative_zero(f);
}

static constexpr bool has_infinity(const ElementFormat& f) {
  return f.specials == Specials::ieee || f.specials == Specials::fnuz_inf;
}

static constexpr bool has_nan(const ElementFormat& f) { return f.specials != Specials::finite; }

static constexpr std::uint32_t sign_bit(const ElementFormat& f) {
  return is_signed(f) ? std::uint32_t{1} << (f.exponent_bits + f.mantissa_bits) : 0;
}

// All magnitude bits set.
static constexpr std::uint32_t magnitude_mask(const ElementFormat& f) {
  return static_cast<std::uint32_t>((std::uint64_t{1} << (f.exponent_bits + f.mantissa_bits)) - 1);
}

// Exponent of the smallest normal number; subnormals share its quantum.
static constexpr int min_exponent(const ElementFormat& f) { return (f.zero ? 1 : 0) - f.bias; }

// Largest magnitude code that is a finite number.
static constexpr std::uint32_t max_code(const ElementFormat& f) {
  const std::uint32_t all = magnitude_mask(f);
  switch (f.specials) {
    case Specials::ieee: return (all & ~((std::uint32_t{1} << f.mantissa_bits) - 1)) - 1;
    case Specials::fn:
    case Specials::fnuz_inf: return all - 1;
    case Specials::finite:
    case Specials::fnuz: break;
  }
  return all;
}

static constexpr std::uint32_t infinity_code(const ElementFormat& f) { return max_code(f) + 1; }

// The canonical NaN: positive; quiet for ieee.
static constexpr std::uint32_t nan_code(const ElementFormat& f) {
  if (nan_is_negative_zero(f)) return sign_bit(f);
  if (f.specials == Specials::fn) return magnitude_mask(f);
  const std::uint32_t quiet = f.mantissa_bits > 0 ? std::uint32_t{1} << (f.mantissa_bits - 1) : 0;
  return infinity_code(f) | quiet;
}

// Stored mantissa bits of the binade of 2^exponent.
static constexpr int mantissa_bits_at(const ElementFormat& f, int exponent) {
  if (f.taper == 0) return f.mantissa_bits;
  int size = (exponent < 0 ? -exponent : exponent) >> f.taper, bits = f.mantissa_bits;
  for (; size != 0 && bits > 0; size >>= 1) --bits;
  return bits;
}

// Magnitude codes are in the order of their values everywhere but in memory: the code of 2^exponent, a normal number.
static constexpr std::uint32_t first_code_of_binade(const ElementFormat& f, int exponent) {
  const int least = min_exponent(f);
  if (f.taper == 0) return static_cast<std::uint32_t>(exponent - least + (f.zero ? 1 : 0)) << f.mantissa_bits;
  std::uint32_t code = std::uint32_t{1} << mantissa_bits_at(f, least);
  for (int e = least; e < exponent; ++e) code += std::uint32_t{1} << mantissa_bits_at(f, e);
  return code;
}

// A finite magnitude as significand * 2^exponent.
struct Magnitude {
  std::uint32_t significand = 0;
  int exponent = 0;
};

static constexpr Magnitude magnitude_of(const ElementFormat& f, std::uint32_t magnitude_code) {
  if (f.taper > 0) {
    int exponent = min_exponent(f);
    if (magnitude_code < first_code_of_binade(f, exponent)) return {magnitude_code, exponent};
    std::uint32_t first = first_code_of_binade(f, exponent), next = first;
    while ((next = first + (std::uint32_t{1} << mantissa_bits_at(f, exponent))) <= magnitude_code) {
      first = next;
      ++exponent;
    }
    const int bits = mantissa_bits_at(f, exponent);
    return {(std::uint32_t{1} << bits) + magnitude_code - first, exponent - bits};
  }
  const std::uint32_t hidden = std::uint32_t{1} << f.mantissa_bits;
  const std::uint32_t mantissa = magnitude_code & (hidden - 1);
  const int field = static_cast<int>(magnitude_code >> f.mantissa_bits);
  if (field == 0 && f.zero) return {mantissa, 1 - f.bias - f.mantissa_bits};
  return {hidden | mantissa, field - f.bias - f.mantissa_bits};
}

// In memory the magnitudes of a tapered format lie by the digits of their exponent's size, a prefix for each number of
// digits (HiF8; docs/numerics.md section 1): first the lowest 2^M codes, then sign, further digits and mantissa.
static constexpr int bits_under_prefix(const ElementFormat& f, int digits) {
  return digits + mantissa_bits_at(f, digits == 0 ? 0 : 1 << (digits - 1));
}

static constexpr std::uint32_t code_in_memory(const ElementFormat& f, std::uint32_t code) {
  const std::uint32_t magnitude = code & magnitude_mask(f);
  if (f.taper == 0 || magnitude >> f.mantissa_bits == 0) return code;
  const Magnitude m = magnitude_of(f, magnitude);
  int mantissa_bits = 0, digits = 0;
  while (m.significand >> (mantissa_bits + 1) != 0) ++mantissa_bits;
  const int exponent = m.exponent + mantissa_bits, size = exponent < 0 ? -exponent : exponent;
  while (size >> digits != 0) ++digits;
  std::uint32_t first = std::uint32_t{1} << f.mantissa_bits;
  for (int d = 0; d < digits; ++d) first += std::uint32_t{1} << bits_under_prefix(f, d);
  // The leading digit makes room for the sign.
  const auto leading = digits == 0 ? 0U : 1U << (digits - 1);
  const std::uint32_t exponent_field = static_cast<std::uint32_t>(size) - leading + (exponent < 0 ? leading : 0);
  const std::uint32_t mantissa = m.significand - (std::uint32_t{1} << mantissa_bits);
  return (code & sign_bit(f)) | (first + (exponent_field << mantissa_bits) + mantissa);
}

// The way back.
static constexpr std::uint32_t code_from_memory(const ElementFormat& f, std::uint32_t code) {
  const std::uint32_t magnitude = code & magnitude_mask(f);
  std::uint32_t first = std::uint32_t{1} << f.mantissa_bits;
  if (f.taper == 0 || magnitude < first) return code;
  int digits = 0;
  while (magnitude >= first + (std::uint32_t{1} << bits_under_prefix(f, digits)))
    first += std::uint32_t{1} << bits_under_prefix(f, digits++);
  const int mantissa_bits = bits_under_prefix(f, digits) - digits;
  const std::uint32_t exponent_field = (magnitude - first) >> mantissa_bits;
  const auto leading = digits == 0 ? 0U : 1U << (digits - 1);
  const auto size = static_cast<int>(exponent_field < leading ? exponent_field + leading : exponent_field);
  const int exponent = exponent_field < leading ? size : -size;
  const std::uint32_t mantissa = (magnitude - first) & ((std::uint32_t{1} << mantissa_bits) - 1);
  return (code & sign_bit(f)) | (first_code_of_binade(f, exponent) + mantissa);
}

// Whether every code of a tapered format has a place in memory, and every place a code.
static constexpr bool fills_memory(const ElementFormat& f) {
  std::uint32_t codes = std::uint32_t{1} << f.mantissa_bits;
  for (int digits = 0; digits <= f.exponent_bits; ++digits) codes += std::uint32_t{1} << bits_under_prefix(f, digits);
  const int largest = (1 << f.exponent_bits) - 1;
  return codes == magnitude_mask(f) + 1 && min_exponent(f) == 1 - largest - (1 << f.mantissa_bits) &&
         mantissa_bits_at(f, largest + 1) == 0;
}

enum class CodeClass : std::uint8_t { finite, infinity, nan };

// Of a code as it lies in memory.
static constexpr CodeClass classify(const ElementFormat& f, std::uint32_t memory_code) {
  const std::uint32_t code = code_from_memory(f, memory_code), magnitude = code & magnitude_mask(f);
  if (nan_is_negative_zero(f) && code == nan_code(f)) return CodeClass::nan;
  if (f.signedness == Signedness::twos_complement || magnitude <= max_code(f)) return CodeClass::finite;
  return has_infinity(f) && magnitude == infinity_code(f) ? CodeClass::infinity : CodeClass::nan;
}

// floor(log2 of the largest finite value): what the scale rules call emax.
static constexpr int max_exponent(const ElementFormat& f) {
  Magnitude top = magnitude_of(f, max_code(f));
  int exponent = top.exponent;
  while (top.significand > 1) {
    top.significand >>= 1;
    ++exponent;
  }
  return exponent;
}

// Fraction bits of the binade that holds the largest value: M for floats, M - 1 for integers.
static constexpr int top_fraction_bits(const ElementFormat& f) {
  return max_exponent(f) - magnitude_of(f, max_code(f)).exponent;
}

static constexpr bool is_power_of_two_scale(const ElementFormat& f) {
  return f.mantissa_bits == 0 && f.signedness == Signedness::unsigned_code && !f.zero;
}

static constexpr bool is_float32(const ElementFormat& f) { return f == ElementFormat{8, 23, 127, Specials::ieee}; }

// A scale that is a short float: with zero and subnormals (UE4M3, UE5M3, float16) or without (E6M2).
static constexpr bool is_short_float_scale(const ElementFormat& f) {
  return f.signedness != Signedness::twos_complement && f.exponent_bits >= 2 && f.mantissa_bits >= 1 && !is_float32(f);
}

// How a scale level acts on what lies inside it. What is subtracted is a zero point, in units of the element. A float32
// scale g above others that divides is one that encoders multiply by; of a scale s below it, decoders make s / g, or
// s * (1 / g), or the reciprocal of the reciprocal of that, or s over the largest scale times g, in float64
// (docs/numerics.md section 4).
enum class Combine : std::uint8_t { multiply, divide, subtract, reciprocal, reciprocals, divide_top };

// Extent of a block in elements along the reduction axis or across lines; `whole` spans it all.
inline constexpr int whole = 0;

struct ScaleLevel {
  ElementFormat format;
  int along = whole;  // elements of the reduction axis under one scale
  int across = 1;     // neighbouring lines under one scale
  Combine combine = Combine::multiply;

  friend constexpr bool operator==(const ScaleLevel&, const ScaleLevel&) = default;
};

inline constexpr int max_levels = 3;
inline constexpr int max_micro_block = 64;

// Everything that decoding needs. Levels run from the outermost to the innermost: a float32 scale above short float
// scales, the main level, whose scales are those of blocks, and micro-exponents inside its blocks; or float32 scales of
// blocks and their zero points.
struct BlockFormat {
  ElementFormat element;
  std::array<ScaleLevel, max_levels> levels{};
  int level_count = 0;

  friend constexpr bool operator==(const BlockFormat&, const BlockFormat&) = default;
};

// Zero points are a level of their own, the innermost one: one for each scale of the main level.
static constexpr bool has_zero_points(const BlockFormat& f) {
  return f.level_count > 0 && f.levels[static_cast<std::size_t>(f.level_count - 1)].combine == Combine::subtract;
}

// Levels that scale: all but that of zero points.
static constexpr int scaling_levels(const BlockFormat& f) { return f.level_count - (has_zero_points(f) ? 1 : 0); }

// A code of two's complement as the integer that it is.
static constexpr int signed_integer(const ElementFormat& f, std::uint32_t code) {
  return static_cast<int>(code & magnitude_mask(f)) - static_cast<int>(code & sign_bit(f));
}

// The exponent of the unit of an integer: value = k * 2^exponent.
static constexpr int unit_exponent(const ElementFormat& f) { return magnitude_of(f, 0).exponent; }

// What zero points of such elements are written as: integers of as many bits, whose unit is 1.
static constexpr ElementFormat zero_point_format(const ElementFormat& element) {
  return {0, element.mantissa_bits, 1 - element.mantissa_bits, Specials::finite, Signedness::twos_complement};
}

// Elements above zero points are rounded as integers with room for what the zero point adds, and cut to their own range
// afterwards: two bits more also tell a sum at the end of that range from one that passes it.
static constexpr ElementFormat rounded_element(const BlockFormat& f) {
  ElementFormat e = f.element;
  if (!has_zero_points(f)) return e;
  e.mantissa_bits += 2;
  e.bias -= 2;
  return e;
}

static constexpr bool has_outer_level(const BlockFormat& f) {
  return scaling_levels(f) > 1 && is_float32(f.levels[0].format);
}

// A scale of the outer level that encoders multiply by.
static constexpr bool is_encode_scale(const ScaleLevel& level) { return level.combine != Combine::multiply; }

// The level of the blocks. Only for formats with scales.
static constexpr int main_level(const BlockFormat& f) { return has_outer_level(f) ? 1 : 0; }

static constexpr const ScaleLevel& main_scale(const BlockFormat& f) {
  return f.levels[static_cast<std::size_t>(main_level(f))];
}

// Exponents that a level of powers of two can give to what lies inside it.
static constexpr int lowest_shift(const ScaleLevel& level) {
  const int least = min_exponent(level.format), most = least + static_cast<int>(max_code(level.format));
  return level.combine == Combine::divide ? -most : least;
}
static constexpr int highest_shift(const ScaleLevel& level) {
  const int least = min_exponent(level.format), most = least + static_cast<int>(max_code(level.format));
  return level.combine == Combine::divide ? -least : most;
}

// The exponent that a code of such a level gives.
static constexpr int shift_of(const ScaleLevel& level, std::uint32_t code) {
  const int exponent = min_exponent(level.format) + static_cast<int>(code);
  return level.combine == Combine::divide ? -exponent : exponent;
}
static constexpr std::uint32_t code_of_shift(const ScaleLevel& level, int shift) {
  return static_cast<std::uint32_t>((level.combine == Combine::divide ? -shift : shift) - min_exponent(level.format));
}

// By how much the levels inside `level` can lift an element at most, as an exponent.
static constexpr int reach_inside(const BlockFormat& f, int level) {
  int reach = 0;
  for (int i = level + 1; i < scaling_levels(f); ++i) reach += highest_shift(f.levels[static_cast<std::size_t>(i)]);
  return reach;
}

}  // namespace sparq
