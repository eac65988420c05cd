// Every implementation that this processor can run gives the bits of the baseline: encode, decode, sparsify and
// multiply on random bit patterns. Needs no Python, so that it also runs where only an emulator has an instruction set.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "catalog/datapaths.h"
#include "catalog/formats.h"
#include "describe.h"
#include "dispatch.h"
#include "ops/encode.h"
#include "ops/multiply.h"
#include "ops/storage.h"

namespace {

using namespace sparq;

std::mt19937_64 generator(20240917);

void fail(const std::string& what) {
  std::printf("FAILED: %s\n", what.c_str());
  std::exit(1);
}

void require(const std::string& error) {
  if (!error.empty()) fail(error);
}

// Normal numbers with some spread, and in every fourth tensor raw bit patterns with NaN, Inf and subnormals.
std::vector<std::uint8_t> random_tensor(FloatType type, std::size_t count, bool raw) {
  std::vector<std::uint8_t> bytes(count * static_cast<std::size_t>(bytes_of(type)));
  if (raw || bytes_of(type) == 2) {
    for (auto& b : bytes) b = static_cast<std::uint8_t>(generator());
    return bytes;
  }
  std::normal_distribution<double> normal(0, 1);
  for (std::size_t i = 0; i < count; ++i) {
    const double wide = normal(generator) * static_cast<double>(1 << (generator() % 8));
    const auto narrow = static_cast<float>(wide);
    if (type == FloatType::fp64)
      std::memcpy(bytes.data() + 8 * i, &wide, 8);
    else
      std::memcpy(bytes.data() + 4 * i, &narrow, 4);
  }
  return bytes;
}

Ties random_ties() { return Words<Ties>::list[generator() % std::size(Words<Ties>::list)].value; }

template <class Run>
void compare(const std::string& what, const Run& run) {
  setenv("SPARQ_ISA", "baseline", 1);
  const std::vector<std::uint8_t> expected = run();
  for (const std::string& isa : available_isas()) {
    if (isa == "reference" || isa == "baseline") continue;
    setenv("SPARQ_ISA", isa.c_str(), 1);
    const std::vector<std::uint8_t> got = run();
    for (std::size_t i = 0; i < expected.size(); ++i)
      if (got[i] != expected[i])
        fail(what + " on " + isa + ": byte " + std::to_string(i) + " of " + std::to_string(expected.size()));
  }
}

bool spans_lines(const BlockFormat& format) {
  for (int i = 0; i < format.level_count; ++i)
    if (format.levels[static_cast<std::size_t>(i)].across > 1) return true;
  return false;
}

// Choices of the conversion that this format takes.
void choose(ops::EncodeRequest& r) {
  const auto attempt = [&](const auto& change) {
    Conversion tried = r.conversion;
    change(tried);
    if (generator() % 3 == 0 && ops::check_conversion(r.format, tried).empty()) r.conversion = tried;
  };
  const bool in_lines = !spans_lines(r.format);  // what NaN makes of a block is not for blocks of many lines
  if (r.sparsity.group == 0 || r.order == Order::sparsify_first)
    attempt([&](Conversion& c) {
      constexpr NonFinite words[] = {NonFinite::poison, NonFinite::keep,     NonFinite::ignore,    NonFinite::largest,
                                     NonFinite::zero,   NonFinite::saturate, NonFinite::zero_block};
      c.nonfinite = words[generator() % (in_lines ? 7 : 6)];
    });
  attempt([](Conversion& c) { c.signed_zero = static_cast<SignedZero>(generator() % 3); });
  attempt([](Conversion& c) { c.subnormals = Subnormals::flush; });
  attempt([](Conversion& c) { c.input_subnormals = Subnormals::flush; });
  attempt([](Conversion& c) { c.integer_range = IntegerRange::full; });
  attempt([](Conversion& c) { c.preround = Prerounding::bf16; });
  attempt([](Conversion& c) { c.scale_apply = ScaleApply::reciprocal; });
  attempt([](Conversion& c) { c.divisor = 7.25F; });
  attempt([](Conversion& c) { c.even_bits = static_cast<int>(generator() % 4); });
  attempt([](Conversion& c) { c.zero_scale = 5; });
  attempt([](Conversion& c) { c.scale_rounding = ScaleRounding::up; });
  attempt([](Conversion& c) { c.amax_exponent = AmaxExponent::log2; });
  attempt([](Conversion& c) { c.element_exponent = ElementExponent::log2; });
  attempt([](Conversion& c) { c.half_sum = HalfSum::fp32; });
  if (in_lines && (r.sparsity.group == 0 || r.order == Order::sparsify_first))
    attempt([](Conversion& c) { c.nan_scale = NanScale::least; });
  attempt([](Conversion& c) { c.scale_overflow = static_cast<ScaleOverflow>(generator() % 3); });
  attempt([](Conversion& c) { c.least_scale = static_cast<LeastScale>(generator() % 3); });
  attempt([](Conversion& c) { c.divisor_apply = DivisorApply::reciprocal; });
  attempt([](Conversion& c) { c.scale_compute = ScaleCompute::bf16; });
  attempt([](Conversion& c) { c.apply_compute = ApplyCompute::bf16; });
  if (has_outer_level(r.format) && generator() % 2 == 0) {
    constexpr Combine words[] = {Combine::divide, Combine::reciprocal, Combine::reciprocals, Combine::divide_top};
    BlockFormat other = r.format;
    other.levels[0].combine = words[generator() % 4];
    if (ops::check_conversion(other, r.conversion).empty()) r.format = other;
  }
  attempt([](Conversion& c) { c.outer_apply = OuterApply::reciprocal; });
  attempt([](Conversion& c) { c.outer_overflow = static_cast<OuterOverflow>(generator() % 3); });
  attempt([](Conversion& c) { c.scale_order = ScaleOrder::outer_first; });
  attempt([](Conversion& c) { c.scale_apply = ScaleApply::outer_reciprocal; });
  attempt([](Conversion& c) { c.scale_underflow = static_cast<ScaleUnderflow>(generator() % 5); });
}

// Stored codes, positions and packed bytes of random masks, and what becomes of them on the way back.
int storage(int rounds) {
  int done = 0;
  for (int round = 0; round < rounds; ++round)
    for (const Sparsity& pattern : {Sparsity{2, 4}, Sparsity{1, 4}, Sparsity{5, 8}, Sparsity{16, 32},
                                    Sparsity{4, 8, Ties::lowest_index, 2}, Sparsity{6, 12, Ties::lowest_index, 3}})
      for (const Fill fill : {Fill::lowest, Fill::highest, Fill::cutlass2, Fill::cutlass3})
        for (const int bytes : {1, 2, 4}) {
          if (!ops::check_fill(pattern, fill).empty()) continue;
          const std::int64_t lines = 5, length = 1 + static_cast<std::int64_t>(generator() % 100);
          const auto size = static_cast<std::size_t>(lines * length), width = static_cast<std::size_t>(bytes);
          const auto kept = static_cast<std::size_t>(lines * stored_length(pattern, length));
          std::vector<std::uint8_t> codes(size * width), mask(size);
          for (auto& byte : codes) byte = static_cast<std::uint8_t>(generator());
          for (std::int64_t i = 0; i < lines * length; ++i) {
            const std::int64_t in_group = i % length % pattern.group;
            const auto at = static_cast<std::size_t>(i);
            mask[at] = in_group < pattern.kept && (in_group / pattern.unit + round) % 3 != 0;
            if (mask[at] == 0) std::memset(codes.data() + at * width, 0, width);
          }
          compare("storage", [&] {
            std::vector<std::uint8_t> stored(kept * width), positions(kept), packed(kept);
            CompressJob c{pattern, fill, length, codes.data(), bytes, mask.data(), stored.data(), positions.data()};
            require(ops::compress(c, lines, 2));
            PackJob p{1,
                      5,
                      5,
                      0,
                      false,
                      static_cast<std::int64_t>(kept),
                      static_cast<std::int64_t>(kept),
                      static_cast<std::int64_t>(kept),
                      positions.data(),
                      packed.data()};
            require(ops::pack(p, 1, 1));
            std::vector<std::uint8_t> back(kept), dense(size * width), found(size);
            p.items = back.data();
            require(ops::unpack(p, 1, 1));
            ExpandJob e{pattern,      length,      stored.data(), positions.data(), bytes, fill == Fill::cutlass3,
                        dense.data(), found.data()};
            require(ops::expand(e, lines, 2));
            for (const auto* more : {&positions, &packed, &back, &dense, &found})
              stored.insert(stored.end(), more->begin(), more->end());
            return stored;
          });
          ++done;
        }
  return done;
}

// Masks of lines of few magnitudes, and of groups of 32 that need the heap of ties=topk.
int selection(int rounds) {
  constexpr float uneven[32] = {2, 0, 12, 11, 14, 14, 10, 9, 13, 14, 13, 14, 14, 12, 9, 9,
                                8, 8, 8,  8,  8,  7,  7,  7, 7,  6,  6,  5,  4,  3,  3, 1};
  int done = 0;
  for (int round = 0; round < 200 * rounds; ++round)
    for (const auto& ties : Words<Ties>::list)
      for (const FloatType type : {FloatType::fp32, FloatType::fp64}) {
        const int group = round % 4 == 0 ? 32 : 1 + static_cast<int>(generator() % max_group);
        const int kept = 1 + static_cast<int>(generator() % static_cast<unsigned>(group));
        ops::SparsifyRequest r;
        r.sparsity = {kept, group, ties.value};
        if (group % 2 == 0 && kept % 2 == 0 && generator() % 4 == 0) r.sparsity.unit = 2;
        r.shape = generator() % 2 == 0 ? ops::Shape{1, 64, 5} : ops::Shape{1, 301, 1};
        const auto size = static_cast<std::size_t>(r.shape.size());
        const std::uint64_t magnitudes = 1 + generator() % 8;
        std::vector<float> narrow(size);
        for (std::size_t i = 0; i < size; ++i) {
          narrow[i] = round % 4 == 0 ? uneven[i / static_cast<std::size_t>(r.shape.inner) % 32]
                                     : static_cast<float>(generator() % magnitudes);
          if (generator() % 2 == 0) narrow[i] = -narrow[i];
          if (round % 4 != 0 && generator() % 50 == 0) narrow[i] = std::numeric_limits<float>::quiet_NaN();
        }
        const std::vector<double> wide(narrow.begin(), narrow.end());
        r.input = type == FloatType::fp32 ? static_cast<const void*>(narrow.data()) : wide.data();
        r.input_type = type;
        r.by_score = generator() % 2 == 0;
        r.count = generator() % 2 == 0;
        r.threads = 1;
        compare("sparsify", [&] {
          std::vector<std::uint8_t> mask(size);
          r.mask_out = mask.data();
          Counts counts;
          require(ops::sparsify(r, counts));
          for (int byte = 0; byte < 8; ++byte) mask.push_back(static_cast<std::uint8_t>(counts.ties >> 8 * byte));
          return mask;
        });
        ++done;
      }
  return done;
}

int quantization(int rounds) {
  int done = 0;
  for (int round = 0; round < rounds; ++round)
    for (const auto& named : catalog::formats)
      for (const auto& rounding : Words<Rounding>::list)
        for (const FloatType type : {FloatType::fp32, FloatType::fp64, FloatType::bf16, FloatType::fp16}) {
          const bool flat = generator() % 2 == 0;
          ops::EncodeRequest r;
          r.format = named.format;
          r.conversion = named.conversion;
          r.conversion.rounding = rounding.value;
          r.conversion.stochastic = static_cast<Stochastic>(generator() % 3);
          r.conversion.random_bits = 1 + static_cast<int>(generator() % max_random_bits);
          // A rule that looks at all elements of a block takes no chance.
          if (!ops::check_conversion(r.format, r.conversion).empty()) r.conversion.scale_rule = ScaleRule::floor;
          // What is cut after an offset was added knows no other rounding.
          if (!ops::check_conversion(r.format, r.conversion).empty()) r.conversion = named.conversion;
          r.has_random = true;
          r.philox = {generator(), generator(), generator()};
          if (r.conversion.scale_rule == ScaleRule::floor)
            r.conversion.scale_rule = static_cast<ScaleRule>(generator() % 5);  // floor to nearest
          r.shape = flat || spans_lines(r.format) ? ops::Shape{8, 75, 1, 4} : ops::Shape{2, 67, 5};
          if (generator() % 2 == 0) {
            const int group = 1 + static_cast<int>(generator() % 16);
            r.sparsity = {1 + static_cast<int>(generator() % static_cast<unsigned>(group)), group, random_ties()};
            r.order = generator() % 2 == 0 ? Order::sparsify_first : Order::quantize_first;
            // Zeros after negative scales are refused.
            if (named.conversion.scale_rule == ScaleRule::signed_max ||
                named.conversion.divide_by == DivideBy::quotient)
              r.order = Order::sparsify_first;
          }
          const auto count = static_cast<std::size_t>(r.shape.size());
          const auto x = random_tensor(type, count, generator() % 4 == 0);
          r.input = x.data();
          r.input_type = r.values_type = type;
          r.count = generator() % 2 == 0;
          r.threads = 1;
          choose(r);
          compare("encode " + std::string(named.name), [&] {
            std::vector<std::uint8_t> out(count * 28, 0);
            r.values = out.data();
            r.codes = out.data() + 8 * count;
            for (std::size_t level = 0; level < r.scales.size(); ++level)
              r.scales[level].data = out.data() + (12 + 4 * level) * count;
            r.mask_out = r.sparsity.group != 0 ? out.data() + 24 * count : nullptr;
            Counts counts;
            require(ops::encode(r, counts));
            ops::DecodeRequest d;
            d.format = r.format;
            d.shape = r.shape;
            d.codes = r.codes;
            d.scales = r.scales;
            for (ops::LevelScales& level : d.scales) level.given = true;
            std::vector<std::uint8_t> decoded(count * 8);
            d.values = decoded.data();
            d.values_type = FloatType::fp64;
            d.threads = 1;
            Counts ignored;
            require(ops::decode(d, ignored));
            const auto* as_bytes = reinterpret_cast<const std::uint8_t*>(&counts);
            out.insert(out.end(), as_bytes, as_bytes + sizeof counts);
            out.insert(out.end(), decoded.begin(), decoded.end());
            return out;
          });
          ++done;
        }
  return done;
}

// A machine like the one given, where that means something.
Datapath varied(Datapath path) {
  const auto below = [](unsigned end) { return static_cast<int>(generator() % end); };
  const Datapath given = path;
  if (path.reduce == Reduce::align) {
    if (below(2) == 0) path.align_rounding = static_cast<Cut>(below(4));
    if (below(2) == 0) path.fraction_bits = 1 + below(36);
    if (below(2) == 0) path.normalize = path.presum == 1 && below(2) == 0;
    if (below(2) == 0 && path.presum == 1) {
      path.group = 1 + below(20);
      path.run = 0;
      path.instruction = below(2) * path.group * (1 + below(3));
      path.chunk = below(2) * static_cast<int>(instruction_length(path)) * (1 + below(3));
    }
    if (path.start == Start::late_floor) path.lanes = 1 + below(max_align_lanes);
  }
  if (path.reduce != Reduce::exact && path.output != Output::int32) {
    if (below(2) == 0) path.accumulator_exponent_bits = 2 + below(7);
    if (below(2) == 0) path.accumulator_fraction = 1 + below(23);
    path.overflow = static_cast<FloatOverflow>(below(2));
  }
  if (path.reduce != Reduce::integer) path.accumulator_rounding = static_cast<AccumulatorRounding>(below(5));
  return ops::check_datapath(path).empty() ? path : given;
}

int products(int rounds) {
  const std::vector<std::string_view> elements{"e4m3", "e5m2", "e2m1", "e2m3", "int8", "bf16", "fp32", "hbfp8_element"};
  int done = 0;
  for (int round = 0; round < rounds; ++round)
    for (const auto& named : catalog::datapaths)
      for (const auto a : elements)
        for (const auto b : elements) {
          ops::MultiplyRequest r;
          r.path = generator() % 2 == 0 ? named.datapath : varied(named.datapath);
          r.m = 1 + static_cast<std::int64_t>(generator() % 5);
          r.n = 1 + static_cast<std::int64_t>(generator() % 37);
          r.k = 1 + static_cast<std::int64_t>(generator() % 90);
          r.a.element = catalog::element(a);
          r.b.element = catalog::element(b);
          if (!ops::check_operands(r.path, r.a.element, r.b.element, false).empty()) continue;
          const bool raw = generator() % 3 == 0;
          std::vector<std::uint8_t> codes[2], scales[2];
          ops::Side* sides[2] = {&r.a, &r.b};
          for (int s = 0; s < 2; ++s) {
            const auto rows = static_cast<std::size_t>(s == 0 ? r.m : r.n);
            const auto bytes = static_cast<std::size_t>(code_bytes(sides[s]->element));
            codes[s] = bytes == 4 ? random_tensor(FloatType::fp32, rows * static_cast<std::size_t>(r.k), raw)
                                  : random_tensor(FloatType::bf16, rows * static_cast<std::size_t>(r.k) * bytes / 2 + 1,
                                                  raw || bytes == 1);
            const std::uint8_t mask = static_cast<std::uint8_t>((1U << std::min(8, code_bits(sides[s]->element))) - 1);
            if (bytes == 1)
              for (auto& c : codes[s]) c &= mask;
            sides[s]->codes = codes[s].data();
            if (!r.path.block_scales || generator() % 2 == 0) continue;
            for (std::int64_t end = 16; end < r.k; end += 16) sides[s]->segment_end.push_back(end);
            sides[s]->segment_end.push_back(r.k);
            scales[s].resize(rows * sides[s]->segment_end.size());
            for (auto& c : scales[s]) c = static_cast<std::uint8_t>(raw ? generator() : 117 + generator() % 20);
            sides[s]->has_block_scales = true;
            sides[s]->scale = catalog::element("e8m0");
            sides[s]->block_scales = scales[s].data();
          }
          const auto count = static_cast<std::size_t>(r.m * r.n);
          const auto c = random_tensor(FloatType::fp32, count, raw);
          if (generator() % 2 == 0) r.c = reinterpret_cast<const float*>(c.data());
          r.threads = 1;
          compare("multiply " + std::string(named.name) + " " + std::string(a) + " " + std::string(b), [&] {
            std::vector<std::uint8_t> out(count * 4);
            r.d = reinterpret_cast<float*>(out.data());
            require(ops::multiply(r));
            return out;
          });
          ++done;
        }
  return done;
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 2;
  std::string isas;
  for (const std::string& isa : available_isas()) isas += " " + isa;
  std::printf("implementations:%s\n", isas.c_str());
  const int tensors = quantization(rounds), dots = products(rounds), stored = storage(rounds);
  const int masks = selection(rounds);
  std::printf("%d tensors, %d masks, %d products and %d stored tensors give equal bits\n", tensors, masks, dots,
              stored);
}
