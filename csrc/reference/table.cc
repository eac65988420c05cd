// The definitions as one more implementation: element by element, by search and exact sums, for SPARQ_ISA=reference.
#include <algorithm>
#include <cmath>
#include <vector>

#include "dot.h"
#include "scales.h"
#include "storage.h"
#include "topk.h"

namespace sparq::reference {
namespace {

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
  if (const auto unit = static_cast<std::size_t>(rule.unit); unit > 1) {
    // A unit ranks as the highest of its elements.
    std::vector<Unpacked> highest;
    for (std::size_t i = 0; i < line.size(); ++i) {
      if (i % unit == 0)
        highest.push_back(line[i]);
      else if (outranks(line[i], highest.back(), by_score))
        highest.back() = line[i];
    }
    const auto units = select_line(highest, {stored_units(rule), group_units(rule), rule.ties}, by_score, ties);
    for (std::size_t i = 0; i < line.size(); ++i) keep[i] = units[i / unit];
    return keep;
  }
  for (std::size_t start = 0; start < line.size(); start += group) {
    const auto higher = [&](std::size_t i, std::size_t j) {
      return outranks(line[start + i], line[start + j], by_score);
    };
    std::vector<std::size_t> order(std::min(group, line.size() - start));
    for (std::size_t i = 0; i < order.size(); ++i)
      order[i] = rule.ties == Ties::highest_index ? order.size() - 1 - i : i;
    std::stable_sort(order.begin(), order.end(), higher);
    if (kept < order.size() && !higher(order[kept - 1], order[kept])) ++ties;
    if (kept < order.size() && rule.ties == Ties::topk) order = TopK::order(order.size(), kept, higher);
    for (std::size_t i = 0; i < std::min(kept, order.size()); ++i) keep[start + order[i]] = 1;
  }
  return keep;
}

// Input as it is quantized, but for what is no number.
Unpacked prepared(const Prepare& how, Unpacked x) {
  if (how.to_fp32 && x.finite()) {
    const double wide = std::ldexp(static_cast<double>(x.magnitude.significand), x.magnitude.exponent);
    const bool negative = x.negative;
    x = from_float(static_cast<float>(wide));
    x.negative = negative;
  }
  if (how.to_bf16 && x.finite()) {
    const ElementFormat bf16{8, 7, 127, Specials::ieee};
    const Encoded e = encode_element(bf16, {.overflow = Overflow::special}, x, 0, 0);
    x = decode_code(bf16, e.code);
  }
  if (how.cut_to_bf16 && x.finite() && x.magnitude.significand != 0) {
    // The 8 leading bits, or those from 2^-133 on.
    const int top = exponent_of(x.magnitude);
    x = aligned(x, std::max(top, -126) - 7, AlignRounding::toward_zero);
    if (top > 127) x.magnitude = {255, 120};  // the largest number
  }
  if (how.flush && x.finite() && compare(x.magnitude, {1, -126}) < 0) x.magnitude = {};
  if (x.finite() && x.magnitude.significand == 0) {
    if (how.no_negative_zero) x.negative = false;
    if (how.negative_zero) x.negative = true;
  }
  return x;
}

// What is no number, where something stands for it.
Unpacked replaced(const Prepare& how, const Unpacked& x) {
  if (x.finite()) return x;
  if (how.to_largest || (how.infinite_to_largest && x.infinite)) return as_largest(x);
  if (how.nan_to_infinity && x.nan) return {.infinite = true, .magnitude = {}};
  return how.to_zero ? Unpacked{} : x;
}

// Blocks with NaN or Inf as blocks of zeros.
void clear_blocks(const QuantizeJob& job, const Line& line, std::vector<Unpacked>& x, Counts& counts) {
  const std::int64_t along = job.planes[static_cast<std::size_t>(main_level(job.format))].along;
  const auto size = static_cast<std::int64_t>(x.size());
  for (std::int64_t start = 0, end = 0; start < size; start = end) {
    end = std::min(size, ((line.first + start) / along + 1) * along - line.first);
    const auto wrong = std::count_if(x.begin() + start, x.begin() + end, [](const Unpacked& e) { return !e.finite(); });
    if (wrong == 0) continue;
    counts.nonfinite += wrong;
    std::fill(x.begin() + start, x.begin() + end, Unpacked{.negative = job.prepare.negative_zero, .magnitude = {}});
  }
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
      float quotient = 0;
      if (plane.given) {
        code = static_cast<std::uint32_t>(load_bits(plane.data, plane.bytes, index));
      } else {
        code = main ? main_code(job, line, x, start, end - start, outside, quotient, counts)
               : job.format.levels[static_cast<std::size_t>(l)].combine == Combine::subtract
                   ? zero_point_code(job, x, start, end - start, outside)
                   : micro_code(job, x, start, end - start, l, outside);
        if (plane.data != nullptr) store_bits(plane.data, plane.bytes, index, code);
      }
      Scale scale = inside(job.format, l, outside, code);
      if (main && !plane.given && job.conversion.divide_by == DivideBy::quotient) scale.divisor = quotient;
      bool finite = true;
      for (std::int64_t i = start; i < end; ++i) finite = finite && x[static_cast<std::size_t>(i)].finite();
      const bool counted = finite || job.skip_nonfinite || counts_infinite(job.conversion, x, start, end - start) ||
                           counts_nan(job.conversion, x, start, end - start);
      if (main && !counted && !scale.poisoned && !job.makes_outer) {
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
    if (scale.poisoned || job.makes_outer) continue;  // whose elements stand for blocks
    Encoded e = encode_scaled(job, x[i], scale, random_of(job, line.at(static_cast<std::int64_t>(i))));
    const Unpacked made = decode_code(job.format.element, e.code);
    const bool zero = has_zero_points(job.format) ? e.code == code_of_zero(job.format.element, scale)
                                                  : made.finite() && made.magnitude.significand == 0;
    e.underflowed = zero && x[i].finite() && x[i].magnitude.significand != 0;
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
      const bool number = one.finite();
      one = replaced(job.prepare, one);
      counts.nonfinite += !number && one.finite();
    }
    if (job.zeros_blocks) clear_blocks(job, line, x, counts);
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
        if (!keep[i]) block.codes[i] = code_of_zero(element, block.scales[i]);
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
      double ignored = 0;
      double& least = job.least != nullptr ? job.least[&top - job.largest] : ignored;
      if (i % job.cell == 0) top = least = 0;
      if (job.mask_in != nullptr && !job.mask_in[line.at(i)]) continue;
      Unpacked x = prepared(job.prepare, read(job.input, job.input_type, line.at(i), job.narrow));
      x = replaced(job.prepare, x);
      if (job.skip_nonfinite && !x.finite()) continue;
      if (x.nan) top = std::nan("");
      const double magnitude =
          x.infinite ? HUGE_VAL : std::ldexp(static_cast<double>(x.magnitude.significand), x.magnitude.exponent);
      if (job.least != nullptr && x.negative)
        least = std::min(least, -magnitude);
      else if (magnitude > top)
        top = magnitude;
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
  DotCounts unread;
  multiply_counted(job, first, last, &unread, false);
}

}  // namespace

void multiply_counted(const MultiplyJob& job, std::int64_t first, std::int64_t last, DotCounts* counts,
                      bool each) noexcept {
  // Columns that stay decoded while the rows go by: of about a megabyte.
  const std::int64_t columns = std::max<std::int64_t>(1, (1 << 15) / std::max<std::int64_t>(1, job.k));
  for (std::int64_t begin = 0; begin < job.n; begin += columns) {
    std::vector<RowView> b;
    for (std::int64_t column = begin; column < std::min(begin + columns, job.n); ++column)
      b.emplace_back(job, job.b, column);
    for (std::int64_t row = first; row < last; ++row) {
      const RowView a(job, job.a, row);
      for (const RowView& column : b)
        dot(job, a, column, counts[each ? row * job.d_row_stride + column.row * job.d_column_stride : 0]);
    }
  }
}

extern const KernelTable table;
constinit const KernelTable table{"reference", quantize, amax,   select, decode,
                                  multiply,    compress, expand, pack,   unpack};

}  // namespace sparq::reference
