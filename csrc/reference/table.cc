// The definitions as one more implementation: element by element, by search and exact sums, for SPARQ_ISA=reference.
#include <algorithm>
#include <cmath>
#include <cstring>
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

// One line of a tile: element offsets in memory.
struct Line {
  std::int64_t origin, step, first, length, scale_origin, scale_step;

  std::int64_t at(std::int64_t i) const { return origin + i * step; }
};

template <class Visit>
void for_lines(const Geometry& g, std::int64_t first_tile, std::int64_t last_tile, const Visit& visit) {
  for (std::int64_t tile = first_tile; tile < last_tile; ++tile) {
    const auto [batch, line0, first] = place_of_tile(g, tile);
    for (std::int64_t l = line0; l < std::min(g.lines, line0 + g.tile_lines); ++l)
      visit(tile, l - line0,
            Line{batch * g.batch_stride + l * g.line_stride + first * g.step, g.step, first,
                 std::min(g.tile_length, g.length - first), batch * g.scale_batch_stride + l * g.scale_line_stride,
                 g.scale_step});
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

struct Scale {
  int exponent = 0;
  float factor = 1;
  std::uint32_t code = 0;  // of short float scales
  bool poisoned = false;
};

Scale given_scale(const QuantizeJob& job, std::int64_t index) {
  Scale scale;
  const ElementFormat& format = job.format.levels[0].format;
  if (is_short_float_scale(format)) {
    scale.code = static_cast<std::uint32_t>(load_bits(job.scales, code_bytes(format), index));
    const Unpacked x = decode_code(format, scale.code);
    scale.poisoned = x.nan;
    scale.factor = to_float(x);
  } else if (job.scale_kind == ScaleKind::floating) {
    const auto bits = static_cast<std::uint32_t>(load_bits(job.scales, 4, index));
    std::memcpy(&scale.factor, &bits, sizeof bits);
    scale.poisoned = std::isnan(scale.factor);
  } else {
    const ElementFormat& f = job.format.levels[0].format;
    const Unpacked x = decode_code(f, static_cast<std::uint32_t>(load_bits(job.scales, job.scale_bytes, index)));
    scale.poisoned = x.nan;
    scale.exponent = x.magnitude.exponent;
  }
  return scale;
}

void put_scale(const QuantizeJob& job, std::int64_t index, const Scale& scale) {
  if (job.scales == nullptr) return;
  const ElementFormat& f = job.format.levels[0].format;
  if (is_short_float_scale(f)) {
    store_bits(job.scales, code_bytes(f), index, scale.poisoned && has_nan(f) ? nan_code(f) : scale.code);
  } else if (job.scale_kind == ScaleKind::floating) {
    const float value = scale.poisoned ? std::nanf("") : scale.factor;
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    store_bits(job.scales, 4, index, scale.poisoned ? nan_code(f) : bits);
  } else {
    std::uint32_t code = has_nan(f) ? nan_code(f) : 0;
    if (!scale.poisoned) code = static_cast<std::uint32_t>(scale.exponent - min_exponent(f));
    store_bits(job.scales, job.scale_bytes, index, code);
  }
}

Scale computed_scale(const QuantizeJob& job, const std::vector<Unpacked>& block, Counts& counts) {
  Scale scale;
  Dyadic amax;
  for (const Unpacked& x : block) {
    scale.poisoned = scale.poisoned || !x.finite();
    if (x.finite() && compare(x.magnitude, amax) > 0) amax = x.magnitude;
  }
  const ScaleLevel& level = job.format.levels[0];
  if (scale.poisoned && !has_nan(level.format)) ++counts.refused;
  if (job.scale_kind == ScaleKind::power_of_two) {
    const int lowest = min_exponent(level.format) + job.conversion.scale_minimum;
    const int highest = min_exponent(level.format) + static_cast<int>(max_code(level.format));
    scale.exponent = lowest;
    if (!scale.poisoned && amax.significand != 0)
      scale.exponent =
          std::clamp(choose_exponent(job.format.element, job.conversion.scale_rule, amax), lowest, highest);
  } else if (!scale.poisoned && amax.significand != 0) {
    const Dyadic top = value_of(job.format.element, max_code(job.format.element));
    scale.factor = to_float({.magnitude = amax}) / to_float({.magnitude = top});
    if (scale.factor == 0) scale.factor = std::nextafter(0.0F, 1.0F);
    if (std::isinf(scale.factor)) ++counts.refused;
  }
  if (is_short_float_scale(level.format) && !scale.poisoned) {
    // The codes around the quotient by search, then the smallest instead of zero.
    const Unpacked quotient = amax.significand == 0 ? Unpacked{} : from_float(scale.factor);
    const bool up = job.conversion.scale_rounding == ScaleRounding::up;
    const Conversion how{.rounding = up ? Rounding::up : Rounding::nearest_even};
    const auto least = static_cast<std::uint32_t>(std::max(1, job.conversion.scale_minimum));
    scale.code = std::max(least, encode_element(level.format, how, quotient, 0, 0).code);
    scale.factor = to_float(decode_code(level.format, scale.code));
  }
  if (!scale.poisoned && amax.significand == 0) ++counts.zero_blocks;
  return scale;
}

// The value of a code under its block's scale, in the result's type.
std::uint64_t decode_value(const ElementFormat& f, ScaleKind kind, const Scale& scale, std::uint32_t code,
                           FloatType type, Counts& counts) {
  const IeeeType to = ieee_type(type);
  Unpacked x = decode_code(f, code);
  if (scale.poisoned) x.nan = true;
  if (x.nan) return to.nan();
  if (kind == ScaleKind::floating) x = from_float(to_float(x) * scale.factor);
  if (x.nan) return to.nan();
  const std::uint64_t sign = x.negative ? std::uint64_t{1} << (to.exponent_bits + to.mantissa_bits) : 0;
  if (x.infinite) return to.infinity() | sign;
  Fixed exact_value;
  exact_value.add(x.magnitude.significand, x.magnitude.exponent + scale.exponent, false);
  bool exact = true;
  const std::uint64_t bits = to_ieee(exact_value, to, false, exact);
  counts.inexact += !exact;
  return bits | sign;
}

std::uint32_t random_of(const QuantizeJob& job, std::int64_t index) {
  if (job.conversion.rounding != Rounding::stochastic) return 0;
  const std::uint32_t mask = (std::uint32_t{1} << job.conversion.random_bits) - 1;
  if (job.random != nullptr) return job.random[index] & mask;
  return philox_word(job.philox, static_cast<std::uint64_t>(index)) >> (32 - job.conversion.random_bits);
}

struct BlockResult {
  std::vector<std::uint32_t> codes;
  std::vector<Scale> scales;  // per element
};

// All blocks of a line (or of the part of it that lies in a tile).
BlockResult encode_line(const QuantizeJob& job, const Line& line, const std::vector<Unpacked>& x, Counts& counts) {
  BlockResult result{std::vector<std::uint32_t>(x.size()), std::vector<Scale>(x.size())};
  std::size_t end = 0;
  for (std::size_t start = 0; start < x.size(); start = end) {
    const std::int64_t block = (line.first + static_cast<std::int64_t>(start)) / job.geometry.block;
    end = std::min(x.size(), static_cast<std::size_t>((block + 1) * job.geometry.block - line.first));
    const std::vector<Unpacked> members(x.begin() + static_cast<std::ptrdiff_t>(start),
                                        x.begin() + static_cast<std::ptrdiff_t>(end));
    const std::int64_t index = line.scale_origin + block * line.scale_step;
    Scale scale;
    if (job.scale_kind != ScaleKind::none) {
      const bool given = job.scale_source == ScaleSource::given;
      scale = given ? given_scale(job, index) : computed_scale(job, members, counts);
      if (!given) put_scale(job, index, scale);
    }
    bool finite = true;
    for (const Unpacked& element : members) {
      finite = finite && element.finite();
      counts.nonfinite += !element.finite();
    }
    if (job.scale_kind != ScaleKind::none && !scale.poisoned && !finite) {
      ++counts.refused;
      scale.poisoned = true;
    }
    for (std::size_t i = start; i < end; ++i) {
      result.scales[i] = scale;
      if (scale.poisoned) continue;
      Unpacked v = x[i];
      if (job.scale_kind == ScaleKind::floating) v = from_float(to_float(v) / scale.factor);
      Encoded e = encode_element(job.format.element, job.conversion, v, scale.exponent,
                                 random_of(job, line.at(static_cast<std::int64_t>(i))));
      if (v.infinite && x[i].finite()) e.saturated = true;  // x / s left float32: Inf saturates too
      e.underflowed = (e.code & magnitude_mask(job.format.element)) == 0 &&
                      classify(job.format.element, e.code) != CodeClass::nan && x[i].finite() &&
                      x[i].magnitude.significand != 0;
      result.codes[i] = e.code;
      counts.saturated += e.saturated;
      counts.underflowed += e.underflowed;
      counts.refused += e.refused;
    }
  }
  return result;
}

void quantize(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  const bool narrow = job.scale_kind == ScaleKind::floating;
  const bool sparse = job.mask_source != MaskSource::dense;
  const ElementFormat& element = job.format.element;
  for_lines(job.geometry, first, last, [&](std::int64_t, std::int64_t, const Line& line) {
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
  for_lines(job.geometry, first, last, [&](std::int64_t tile, std::int64_t l, const Line& line) {
    double top = 0;
    for (std::int64_t i = 0; i < line.length; ++i) {
      if (job.mask_in != nullptr && !job.mask_in[line.at(i)]) continue;
      const Unpacked x = read(job.input, job.input_type, line.at(i), job.narrow);
      const double magnitude =
          x.finite() ? std::ldexp(static_cast<double>(x.magnitude.significand), x.magnitude.exponent) : HUGE_VAL;
      top = std::max(top, magnitude);
    }
    job.partial[tile * job.geometry.tile_lines + l] = top;
  });
}

void select(const SelectJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  for_lines(job.geometry, first, last, [&](std::int64_t, std::int64_t, const Line& line) {
    std::vector<Unpacked> x(static_cast<std::size_t>(line.length));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = read(job.input, job.input_type, line.at(static_cast<std::int64_t>(i)), false);
    const std::vector<std::uint8_t> keep = select_line(x, job.sparsity, job.by_score, counts.ties);
    for (std::size_t i = 0; i < x.size(); ++i) job.mask_out[line.at(static_cast<std::int64_t>(i))] = keep[i];
  });
}

void decode(const DecodeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  QuantizeJob scales;
  scales.format = job.format;
  scales.scale_kind = job.scale_kind;
  scales.scales = const_cast<void*>(job.scales);
  scales.scale_bytes = job.scale_bytes;
  for_lines(job.geometry, first, last, [&](std::int64_t, std::int64_t, const Line& line) {
    for (std::int64_t i = 0; i < line.length; ++i) {
      Scale scale;
      if (job.scale_kind != ScaleKind::none)
        scale = given_scale(scales, line.scale_origin + (line.first + i) / job.geometry.block * line.scale_step);
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
