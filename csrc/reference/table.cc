// The definitions as one more implementation: element by element, by search and exact sums, for SPARQ_ISA=reference.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../kernel_table.h"
#include "dot.h"
#include "element.h"

namespace sparq::reference {
namespace {

std::uint64_t load_bits(const void* data, int bytes, std::int64_t index) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, static_cast<const char*>(data) + index * bytes, static_cast<std::size_t>(bytes));
  return bits;
}

void store_bits(void* data, int bytes, std::int64_t index, std::uint64_t bits) {
  std::memcpy(static_cast<char*>(data) + index * bytes, &bits, static_cast<std::size_t>(bytes));
}

// One line of a tile: where it is, and element offsets in memory.
struct Line {
  std::int64_t batch, line, first, length, origin, step;

  std::int64_t at(std::int64_t i) const { return origin + i * step; }
  std::int64_t scale(const ScalePlane& plane, std::int64_t i) const {
    return scale_index(plane, batch, line, first + i);
  }
};

template <class Visit>
void for_lines(const Geometry& g, std::int64_t first_tile, std::int64_t last_tile, const Visit& visit) {
  for (std::int64_t tile = first_tile; tile < last_tile; ++tile) {
    const auto [batch, line0, first] = place_of_tile(g, tile);
    for (std::int64_t l = line0; l < std::min(g.lines, line0 + g.tile_lines); ++l)
      visit(Line{batch, l, first, std::min(g.tile_length, g.length - first),
                 batch * g.batch_stride + l * g.line_stride + first * g.step, g.step});
  }
}

// The input element, rounded to float32 first where float scales ask for it.
Unpacked read(const void* data, FloatType type, std::int64_t index, bool through_float32) {
  const std::uint64_t bits = load_bits(data, bytes_of(type), index);
  if (!through_float32 || type != FloatType::fp64) return unpack(bits, ieee_type(type));
  double wide = 0;
  std::memcpy(&wide, &bits, sizeof wide);
  const auto narrow = static_cast<float>(wide);
  std::uint32_t narrow_bits = 0;
  std::memcpy(&narrow_bits, &narrow, sizeof narrow);
  return unpack(narrow_bits, ieee_type(FloatType::fp32));
}

float to_float(const Unpacked& x) {
  if (x.nan) return std::nanf("");
  const float magnitude =
      x.infinite ? HUGE_VALF : std::ldexp(static_cast<float>(x.magnitude.significand), x.magnitude.exponent);
  return x.negative ? -magnitude : magnitude;
}

Unpacked from_float(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return unpack(bits, ieee_type(FloatType::fp32));
}

// Larger ranks are kept: NaN, then magnitude (or the signed score).
bool outranks(const Unpacked& a, const Unpacked& b, bool by_score) {
  if (a.nan || b.nan) return a.nan && !b.nan;
  const Dyadic huge{1, 5000};
  const int order = compare(a.infinite ? huge : a.magnitude, b.infinite ? huge : b.magnitude);
  if (!by_score) return order > 0;
  const bool a_negative = a.negative && (a.infinite || a.magnitude.significand != 0);
  const bool b_negative = b.negative && (b.infinite || b.magnitude.significand != 0);
  if (a_negative != b_negative) return b_negative;
  return a_negative ? order < 0 : order > 0;
}

std::vector<std::uint8_t> select_line(const std::vector<Unpacked>& line, const Sparsity& rule, bool by_score,
                                      std::int64_t& ties) {
  std::vector<std::uint8_t> keep(line.size(), 0);
  const auto group = static_cast<std::size_t>(rule.group), kept = static_cast<std::size_t>(rule.kept);
  for (std::size_t start = 0; start < line.size(); start += group) {
    std::vector<std::size_t> order(std::min(group, line.size() - start));
    for (std::size_t i = 0; i < order.size(); ++i)
      order[i] = start + (rule.ties == Ties::lowest_index ? i : order.size() - 1 - i);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t i, std::size_t j) { return outranks(line[i], line[j], by_score); });
    for (std::size_t i = 0; i < std::min(kept, order.size()); ++i) keep[order[i]] = 1;
    if (kept < order.size() && !outranks(line[order[kept - 1]], line[order[kept]], by_score)) ++ties;
  }
  return keep;
}

// What all levels together do to an element.
struct Scale {
  int exponent = 0;  // of powers of two, micro-exponents included
  float factor = 1;  // of float scales, the outer one included
  bool poisoned = false;
};

// The scale below `outside` once a level's code is known.
Scale inside(const BlockFormat& format, int l, Scale outside, std::uint32_t code) {
  const ScaleLevel& level = format.levels[static_cast<std::size_t>(l)];
  const Unpacked x =
      is_float32(level.format) ? unpack(code, ieee_type(FloatType::fp32)) : decode_code(level.format, code);
  Scale scale = outside;
  scale.poisoned = outside.poisoned || x.nan;
  if (!is_power_of_two_scale(level.format))
    scale.factor = to_float(x) * outside.factor;
  else
    scale.exponent += level.combine == Combine::divide ? -x.magnitude.exponent : x.magnitude.exponent;
  return scale;
}

// RN32(x / factor), or RN32(x * RN32(1 / factor)); where a factor is no positive number of float32, by the nearest one.
Unpacked divided(const Unpacked& x, float factor, ScaleApply how = ScaleApply::divide) {
  const float largest = std::numeric_limits<float>::max();
  const float divisor = std::clamp(factor, std::nextafter(0.0F, 1.0F), largest);
  if (how == ScaleApply::reciprocal) return from_float(to_float(x) * std::min(1 / divisor, largest));
  return from_float(to_float(x) / divisor);
}

Dyadic largest_of(const std::vector<Unpacked>& line, std::int64_t start, std::int64_t count) {
  Dyadic amax;
  for (std::int64_t i = start; i < start + count; ++i) {
    const Unpacked& x = line[static_cast<std::size_t>(i)];
    if (x.finite() && compare(x.magnitude, amax) > 0) amax = x.magnitude;
  }
  return amax;
}

// A quotient as the code of a short float: the codes around it by search, then the smallest instead of zero.
std::uint32_t short_code(const QuantizeJob& job, float quotient) {
  const bool up = job.conversion.scale_rounding == ScaleRounding::up;
  const Conversion how{.rounding = up ? Rounding::up : Rounding::nearest_even};
  const auto least = static_cast<std::uint32_t>(std::max(1, job.conversion.scale_minimum));
  return std::max(least, encode_element(main_scale(job.format).format, how, from_float(quotient), 0, 0).code);
}

// Section 4, step 2: the code of amax / Vmax, below `outer`.
std::uint32_t float_scale_code(const QuantizeJob& job, Dyadic amax, float outer, Counts& counts) {
  const ElementFormat& format = main_scale(job.format).format;
  float quotient = 0;
  if (amax.significand != 0) {
    Dyadic top = divisor_of(job.format.element, job.conversion);
    top.exponent += job.reach;
    quotient = to_float({.magnitude = amax}) / (job.outer_divisor * to_float({.magnitude = top}));
    if (has_outer_level(job.format)) quotient = quotient / outer;
    if (quotient == 0) quotient = std::nextafter(0.0F, 1.0F);
    if (std::isinf(quotient)) ++counts.refused;
  }
  if (is_float32(format)) {
    const float scale = amax.significand == 0 ? 1.0F : quotient;
    std::uint32_t bits = 0;
    std::memcpy(&bits, &scale, sizeof bits);
    return bits;
  }
  if (amax.significand == 0 && job.zero_code != 0) return job.zero_code;
  return short_code(job, quotient);
}

// Section 3: the code of the power of two for amax.
std::uint32_t power_scale_code(const QuantizeJob& job, Dyadic amax) {
  const ElementFormat& format = main_scale(job.format).format;
  const int lowest = min_exponent(format) + job.conversion.scale_minimum;
  const int highest = min_exponent(format) + static_cast<int>(max_code(format));
  int exponent = job.conversion.zero_scale < 0 ? lowest : min_exponent(format) + job.conversion.zero_scale;
  if (amax.significand != 0)
    exponent = std::clamp(choose_exponent(job.format.element, job.conversion, amax) - job.reach, lowest, highest);
  return static_cast<std::uint32_t>(exponent - min_exponent(format));
}

std::uint32_t random_of(const QuantizeJob& job, std::int64_t index);

// The value of a code under its block's scale, in the result's type.
std::uint64_t decode_value(const ElementFormat& f, ScaleKind kind, const Scale& scale, std::uint32_t code,
                           FloatType type, Counts& counts) {
  const IeeeType to = ieee_type(type);
  Unpacked x = decode_code(f, code);
  if (scale.poisoned) x.nan = true;
  if (x.nan) return to.nan();
  int exponent = scale.exponent;
  if (kind == ScaleKind::floating) {
    x.magnitude.exponent += exponent;
    exponent = 0;
    x = from_float(to_float(x) * scale.factor);
  }
  if (x.nan) return to.nan();
  const std::uint64_t sign = x.negative ? std::uint64_t{1} << (to.exponent_bits + to.mantissa_bits) : 0;
  if (x.infinite) return to.infinity() | sign;
  Fixed exact_value;
  exact_value.add(x.magnitude.significand, x.magnitude.exponent + exponent, false);
  bool exact = true;
  const std::uint64_t bits = to_ieee(exact_value, to, false, exact);
  counts.inexact += !exact;
  return bits | sign;
}

Unpacked as_largest(Unpacked x) {
  if (x.finite()) return x;
  return {.negative = x.negative && !x.nan, .magnitude = {(1U << 24) - 1, 104}};
}

// One element under a scale, before its value is decoded.
Encoded encode_scaled(const QuantizeJob& job, const Unpacked& x, const Scale& scale, std::uint32_t random) {
  const bool floating = job.scale_kind == ScaleKind::floating;
  Unpacked v = floating ? divided(x, scale.factor, job.conversion.scale_apply) : x;
  if (v.infinite && x.finite()) v = as_largest(v);  // x / s left float32: a large number
  if (job.conversion.align_bits > 0)
    v = aligned(v, scale.exponent + max_exponent(job.format.element) - job.conversion.align_bits,
                job.conversion.align_rounding);
  return encode_element(job.format.element, job.conversion, v, scale.exponent, random);
}

// What the rules mse and mae add up over a block under a candidate scale.
double error_under(const QuantizeJob& job, const Line& line, const std::vector<Unpacked>& x, std::int64_t start,
                   std::int64_t count, const Scale& scale) {
  double sum = 0;
  for (std::int64_t i = start; i < start + count; ++i) {
    const Unpacked& element = x[static_cast<std::size_t>(i)];
    if (!element.finite()) continue;
    const Encoded e = encode_scaled(job, element, scale, random_of(job, line.at(i)));
    Counts ignored;
    const std::uint64_t made =
        decode_value(job.format.element, job.scale_kind, scale, e.code, FloatType::fp64, ignored);
    double value = 0;
    std::memcpy(&value, &made, sizeof value);
    const double size = std::ldexp(static_cast<double>(element.magnitude.significand), element.magnitude.exponent);
    const double error = std::fabs(value - (element.negative ? -size : size));
    sum += job.conversion.scale_rule == ScaleRule::mse ? error * error : error;
  }
  return sum;
}

// The codes that the rules mse and mae choose among, the preferred one first.
std::vector<std::uint32_t> candidate_codes(const QuantizeJob& job, Dyadic amax, std::uint32_t code, float outer) {
  const ElementFormat& format = main_scale(job.format).format;
  if (job.scale_kind == ScaleKind::power_of_two) {
    const int lowest = job.conversion.scale_minimum, highest = static_cast<int>(max_code(format));
    std::vector<std::uint32_t> codes;
    for (const int step : {1, 0, -1})
      codes.push_back(static_cast<std::uint32_t>(std::clamp(static_cast<int>(code) + step, lowest, highest)));
    return codes;
  }
  // Multiplied by the largest element over the largest power of two among elements.
  Dyadic ratio = value_of(job.format.element, max_code(job.format.element));
  ratio.exponent -= max_exponent(job.format.element);
  Dyadic top = divisor_of(job.format.element, job.conversion);
  float quotient = to_float({.magnitude = amax}) / to_float({.magnitude = top});
  if (has_outer_level(job.format)) quotient = quotient / outer;
  quotient = quotient * to_float({.magnitude = ratio});
  return {code, short_code(job, quotient)};
}

// The code of the main level for a block that begins at `start`.
std::uint32_t main_code(const QuantizeJob& job, const Line& line, const std::vector<Unpacked>& x, std::int64_t start,
                        std::int64_t count, Scale outside, Counts& counts) {
  const ElementFormat& format = main_scale(job.format).format;
  bool poisoned = outside.poisoned;
  for (std::int64_t i = start; i < start + count; ++i)
    poisoned = poisoned || (!job.skip_nonfinite && !x[static_cast<std::size_t>(i)].finite());
  if (poisoned) {
    counts.refused += !has_nan(format);
    return has_nan(format) ? nan_code(format) : 0;
  }
  const Dyadic amax = largest_of(x, start, count);
  counts.zero_blocks += amax.significand == 0;
  if (job.conversion.scale_rule == ScaleRule::fit && amax.significand != 0) {
    const std::uint32_t code = power_scale_code(job, amax);
    bool saturated = false;
    for (std::int64_t i = start; i < start + count; ++i) {
      const Unpacked& element = x[static_cast<std::size_t>(i)];
      const int exponent = min_exponent(format) + static_cast<int>(code);
      if (element.finite())
        saturated = saturated || encode_element(job.format.element, job.conversion, element, exponent, 0).saturated;
    }
    return std::min(code + (saturated ? 1 : 0), max_code(format));
  }
  const std::uint32_t code = job.scale_kind == ScaleKind::power_of_two
                                 ? power_scale_code(job, amax)
                                 : float_scale_code(job, amax, outside.factor, counts);
  if (!searches(job.conversion.scale_rule) || amax.significand == 0) return code;
  std::uint32_t best = code;
  double least = HUGE_VAL;
  for (const std::uint32_t candidate : candidate_codes(job, amax, code, outside.factor)) {
    const Scale scale = inside(job.format, main_level(job.format), outside, candidate);
    const double error = error_under(job, line, x, start, count, scale);
    if (!(error < least)) continue;
    least = error;
    best = candidate;
  }
  return best;
}

// The code of a micro-level for the part of a block that begins at `start`: among those that it has, the nearest to
// what the rule wants for the largest element.
std::uint32_t micro_code(const QuantizeJob& job, const std::vector<Unpacked>& x, std::int64_t start, std::int64_t count,
                         int l, Scale outside) {
  const ScaleLevel& level = job.format.levels[static_cast<std::size_t>(l)];
  const bool floating = job.scale_kind == ScaleKind::floating;
  Dyadic amax = outside.poisoned ? Dyadic{} : largest_of(x, start, count);
  if (floating) amax = divided({.magnitude = amax}, outside.factor).magnitude;
  if (outside.poisoned) return 0;
  int shift = lowest_shift(level);
  Conversion how = job.conversion;
  if (floating) how.scale_rule = ScaleRule::floor;
  if (amax.significand != 0)
    shift = choose_exponent(job.format.element, how, amax) - reach_inside(job.format, l) - outside.exponent;
  return code_of_shift(level, std::clamp(shift, lowest_shift(level), highest_shift(level)));
}

std::uint32_t random_of(const QuantizeJob& job, std::int64_t index) {
  if (job.conversion.rounding != Rounding::stochastic) return 0;
  const std::uint32_t mask = (std::uint32_t{1} << job.conversion.random_bits) - 1;
  if (job.random != nullptr) return job.random[index] & mask;
  return philox_word(job.philox, static_cast<std::uint64_t>(index)) >> (32 - job.conversion.random_bits);
}

// Input as it is quantized, but for what is no number.
Unpacked prepared(const Prepare& how, Unpacked x) {
  if (how.to_bf16 && x.finite()) {
    const ElementFormat bf16{8, 7, 127, Specials::ieee};
    const Encoded e = encode_element(bf16, {.overflow = Overflow::special}, x, 0, 0);
    x = decode_code(bf16, e.code);
  }
  if (how.cut_to_bf16 && x.finite() && x.magnitude.significand != 0) {
    // The 8 leading bits, or those from 2^-133 on.
    int top = x.magnitude.exponent - 1;
    for (std::uint64_t rest = x.magnitude.significand; rest != 0; rest >>= 1) ++top;
    x = aligned(x, std::max(top, -126) - 7, AlignRounding::toward_zero);
    if (top > 127) x.magnitude = {255, 120};  // the largest number
  }
  if (how.flush && x.finite() && compare(x.magnitude, {1, -126}) < 0) x.magnitude = {};
  if (how.no_negative_zero && x.finite() && x.magnitude.significand == 0) x.negative = false;
  return x;
}

struct BlockResult {
  std::vector<std::uint32_t> codes;
  std::vector<Scale> scales;  // per element
};

// The scales above the elements of a line (or of the part of it that lies in a tile), level by level.
std::vector<Scale> scale_line(const QuantizeJob& job, const Line& line, const std::vector<Unpacked>& x,
                              Counts& counts) {
  const auto size = static_cast<std::int64_t>(x.size());
  std::vector<Scale> scales(x.size());
  for (int l = 0; l < job.format.level_count; ++l) {
    const ScalePlane& plane = job.planes[static_cast<std::size_t>(l)];
    const bool main = l == main_level(job.format);
    for (std::int64_t start = 0, end = 0; start < size; start = end) {
      end = std::min(size, ((line.first + start) / plane.along + 1) * plane.along - line.first);
      const Scale outside = scales[static_cast<std::size_t>(start)];
      const std::int64_t index = line.scale(plane, start);
      std::uint32_t code = 0;
      if (plane.given) {
        code = static_cast<std::uint32_t>(load_bits(plane.data, plane.bytes, index));
      } else {
        code = main ? main_code(job, line, x, start, end - start, outside, counts)
                    : micro_code(job, x, start, end - start, l, outside);
        if (plane.data != nullptr) store_bits(plane.data, plane.bytes, index, code);
      }
      Scale scale = inside(job.format, l, outside, code);
      bool finite = true;
      for (std::int64_t i = start; i < end; ++i) finite = finite && x[static_cast<std::size_t>(i)].finite();
      if (main && !finite && !scale.poisoned && !job.skip_nonfinite) {
        ++counts.refused;
        scale.poisoned = true;
      }
      std::fill(scales.begin() + start, scales.begin() + end, scale);
    }
  }
  return scales;
}

// All blocks of a line (or of the part of it that lies in a tile).
BlockResult encode_line(const QuantizeJob& job, const Line& line, const std::vector<Unpacked>& x, Counts& counts) {
  BlockResult result{std::vector<std::uint32_t>(x.size()), scale_line(job, line, x, counts)};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const Scale& scale = result.scales[i];
    counts.nonfinite += !x[i].finite();
    counts.refused += !x[i].finite() && job.conversion.nonfinite == NonFinite::error;
    if (scale.poisoned) continue;
    Encoded e = encode_scaled(job, x[i], scale, random_of(job, line.at(static_cast<std::int64_t>(i))));
    const Unpacked made = decode_code(job.format.element, e.code);
    e.underflowed =
        made.finite() && made.magnitude.significand == 0 && x[i].finite() && x[i].magnitude.significand != 0;
    result.codes[i] = e.code;
    counts.saturated += e.saturated;
    counts.underflowed += e.underflowed;
    counts.refused += e.refused;
  }
  return result;
}

void quantize(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  const bool narrow = job.scale_kind == ScaleKind::floating;
  const bool sparse = job.mask_source != MaskSource::dense;
  const ElementFormat& element = job.format.element;
  for_lines(job.geometry, first, last, [&](const Line& line) {
    std::vector<Unpacked> x(static_cast<std::size_t>(line.length));
    std::vector<std::uint8_t> keep(x.size(), 1);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::int64_t at = line.at(static_cast<std::int64_t>(i));
      x[i] = read(job.input, job.input_type, at, narrow);
      if (job.mask_source == MaskSource::given) keep[i] = job.mask_in[at];
    }
    if (sparse && job.order == Order::sparsify_first) {
      if (job.mask_source == MaskSource::magnitude) keep = select_line(x, job.sparsity, false, counts.ties);
      for (std::size_t i = 0; i < x.size(); ++i)
        if (!keep[i]) x[i] = Unpacked{};
    }
    for (Unpacked& one : x) {
      one = prepared(job.prepare, one);
      if (!job.prepare.to_largest) continue;
      counts.nonfinite += !one.finite();
      one = as_largest(one);
    }
    BlockResult block = encode_line(job, line, x, counts);
    if (sparse && job.order == Order::quantize_first) {
      if (job.mask_source == MaskSource::magnitude) {
        std::vector<Unpacked> values(x.size());
        Counts ignored;
        for (std::size_t i = 0; i < x.size(); ++i)
          values[i] =
              unpack(decode_value(element, job.scale_kind, block.scales[i], block.codes[i], FloatType::fp64, ignored),
                     ieee_type(FloatType::fp64));
        keep = select_line(values, job.sparsity, false, counts.ties);
      }
      for (std::size_t i = 0; i < x.size(); ++i)
        if (!keep[i]) block.codes[i] = 0;
    }
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::int64_t at = line.at(static_cast<std::int64_t>(i));
      if (job.codes != nullptr) store_bits(job.codes, job.code_bytes, at, block.codes[i]);
      if (job.mask_out != nullptr) job.mask_out[at] = keep[i];
      if (job.values != nullptr)
        store_bits(job.values, bytes_of(job.values_type), at,
                   decode_value(element, job.scale_kind, block.scales[i], block.codes[i], job.values_type, counts));
    }
  });
}

void amax(const AmaxJob& job, std::int64_t first, std::int64_t last) noexcept {
  for_lines(job.geometry, first, last, [&](const Line& line) {
    double* to = job.largest + (line.batch * job.geometry.lines + line.line) * job.cells;
    for (std::int64_t i = 0; i < line.length; ++i) {
      double& top = to[(line.first + i) / job.cell];
      if (i % job.cell == 0) top = 0;
      if (job.mask_in != nullptr && !job.mask_in[line.at(i)]) continue;
      Unpacked x = prepared(job.prepare, read(job.input, job.input_type, line.at(i), job.narrow));
      if (job.prepare.to_largest) x = as_largest(x);
      if (job.skip_nonfinite && !x.finite()) continue;
      const double magnitude =
          x.finite() ? std::ldexp(static_cast<double>(x.magnitude.significand), x.magnitude.exponent) : HUGE_VAL;
      top = std::max(top, magnitude);
    }
  });
}

void select(const SelectJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  for_lines(job.geometry, first, last, [&](const Line& line) {
    std::vector<Unpacked> x(static_cast<std::size_t>(line.length));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = read(job.input, job.input_type, line.at(static_cast<std::int64_t>(i)), false);
    const std::vector<std::uint8_t> keep = select_line(x, job.sparsity, job.by_score, counts.ties);
    for (std::size_t i = 0; i < x.size(); ++i) job.mask_out[line.at(static_cast<std::int64_t>(i))] = keep[i];
  });
}

void decode(const DecodeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  for_lines(job.geometry, first, last, [&](const Line& line) {
    for (std::int64_t i = 0; i < line.length; ++i) {
      Scale scale;
      for (int l = 0; l < job.format.level_count; ++l) {
        const ScalePlane& plane = job.planes[static_cast<std::size_t>(l)];
        const std::uint64_t code = load_bits(plane.data, plane.bytes, line.scale(plane, i));
        scale = inside(job.format, l, scale, static_cast<std::uint32_t>(code));
      }
      const auto code = static_cast<std::uint32_t>(load_bits(job.codes, job.code_bytes, line.at(i)));
      store_bits(job.values, bytes_of(job.values_type), line.at(i),
                 decode_value(job.format.element, job.scale_kind, scale, code, job.values_type, counts));
    }
  });
}

void multiply(const MultiplyJob& job, std::int64_t first, std::int64_t last, void*) noexcept {
  for (std::int64_t row = first; row < last; ++row)
    for (std::int64_t column = 0; column < job.n; ++column) dot(job, row, column);
}

}  // namespace

extern const KernelTable table;
constinit const KernelTable table{"reference", quantize, amax, select, decode, multiply};

}  // namespace sparq::reference
