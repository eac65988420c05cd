// Every float32 pattern through every kernel, for each element format and rounding of the catalog.
//
//     sweep STATE [--only NAME[:ROUNDING]] [--threads N]
//
// The definition (SPARQ_ISA=reference) finds by bisection the first input of every code, for each sign; the kernels of
// every other implementation then encode and decode all 2^32 patterns, which must follow those intervals. Overflow to
// Inf or NaN is swept where it differs from saturation. STATE lists what is done: a run that was stopped goes on there.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "catalog/formats.h"
#include "describe.h"
#include "dispatch.h"
#include "ops/encode.h"

namespace {

using namespace sparq;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t infinity = 0x7F800000, sign = 0x80000000;
constexpr std::size_t chunk = std::size_t{1} << 15;
constexpr std::uint32_t fixed_random = 0x9E37;  // of 16 bits: stochastic rounding with given bits is as monotone as any

[[noreturn]] void fail(const std::string& what) {
  std::printf("FAILED: %s\n", what.c_str());
  std::exit(1);
}

struct Case {
  std::string_view name;
  ElementFormat element;
  Conversion how;

  std::string text() const {
    return std::string(name) + ":" + std::string(word_of(how.rounding)) + ":" + std::string(word_of(how.overflow));
  }
};

// Codes and float32 values of `count` patterns, on the implementation that SPARQ_ISA names.
void encode(const Case& c, const std::uint32_t* patterns, std::size_t count, void* codes, float* values) {
  static const std::vector<std::uint32_t> random(chunk, fixed_random);
  ops::EncodeRequest r;
  r.format.element = c.element;
  r.conversion = c.how;
  r.shape = {1, static_cast<std::int64_t>(count), 1};
  r.input = patterns;
  r.codes = codes;
  r.values = values;
  r.has_random = true;
  r.random = random.data();
  r.threads = 1;
  Counts counts;
  if (const std::string error = ops::encode(r, counts); !error.empty()) fail(c.text() + ": " + error);
  if (counts.refused != 0) fail(c.text() + ": an input was refused");
}

std::uint32_t load(const std::vector<std::uint8_t>& codes, int bytes, std::size_t i) {
  std::uint32_t code = 0;
  std::memcpy(&code, codes.data() + i * static_cast<std::size_t>(bytes), static_cast<std::size_t>(bytes));
  return code;
}

// What the codes of one sign are, in the order of their magnitudes, and where each begins.
struct Side {
  std::vector<std::uint32_t> first;  // the first magnitude of rank r or more; the last rank is what overflows
  std::vector<std::uint32_t> code;
  std::vector<std::uint32_t> value;
};

// The place of a code among those of its sign; everything that is no finite number comes last.
std::uint32_t rank_of(const ElementFormat& f, std::uint32_t code, bool negative) {
  if (classify(f, code) != CodeClass::finite) return max_code(f) + 1;
  if (f.signedness == Signedness::twos_complement && negative) return (~code + 1) & (magnitude_mask(f) | sign_bit(f));
  return code_from_memory(f, code) & magnitude_mask(f);
}

// Whether `count` integers are all the same one.
template <class Integer>
bool all_are(const void* integers, std::size_t count, std::uint32_t wanted) {
  const auto* at = static_cast<const Integer*>(integers);
  std::uint32_t other = 0;
  for (std::size_t i = 0; i < count; ++i) other |= at[i] ^ wanted;
  return other == 0;
}

bool codes_are(const std::vector<std::uint8_t>& codes, int bytes, std::size_t count, std::uint32_t wanted) {
  if (bytes == 1) return all_are<std::uint8_t>(codes.data(), count, wanted);
  if (bytes == 2) return all_are<std::uint16_t>(codes.data(), count, wanted);
  return all_are<std::uint32_t>(codes.data(), count, wanted);
}

Side intervals(const Case& c, bool negative) {
  const int bytes = code_bytes(c.element);
  const std::uint32_t ranks = max_code(c.element) + 2, mark = negative ? sign : 0;
  std::vector<std::uint32_t> low(ranks, 0), high(ranks, infinity), middle(ranks);
  std::vector<std::uint8_t> codes(chunk * static_cast<std::size_t>(bytes));
  const auto ranks_at = [&](const std::vector<std::uint32_t>& magnitudes, const auto& each) {
    std::vector<std::uint32_t> patterns(chunk);
    for (std::size_t start = 0; start < magnitudes.size(); start += chunk) {
      const std::size_t count = std::min(chunk, magnitudes.size() - start);
      for (std::size_t i = 0; i < count; ++i) patterns[i] = magnitudes[start + i] | mark;
      encode(c, patterns.data(), count, codes.data(), nullptr);
      for (std::size_t i = 0; i < count; ++i)
        each(start + i, rank_of(c.element, load(codes, bytes, i), negative), load(codes, bytes, i));
    }
  };
  for (int step = 0; step < 32; ++step) {
    for (std::size_t r = 0; r < ranks; ++r) middle[r] = low[r] + (high[r] - low[r]) / 2;
    ranks_at(middle, [&](std::size_t r, std::uint32_t rank, std::uint32_t) {
      if (low[r] >= high[r]) return;
      if (rank >= r)
        high[r] = middle[r];
      else
        low[r] = middle[r] + 1;
    });
  }
  Side side;
  side.first = high;
  side.code.resize(ranks);
  side.value.resize(ranks);
  ranks_at(high, [&](std::size_t r, std::uint32_t, std::uint32_t code) { side.code[r] = code; });
  // Values by the definition's decoder.
  std::vector<std::uint8_t> all(ranks * static_cast<std::size_t>(bytes));
  for (std::size_t r = 0; r < ranks; ++r)
    std::memcpy(all.data() + r * static_cast<std::size_t>(bytes), &side.code[r], static_cast<std::size_t>(bytes));
  ops::DecodeRequest d;
  d.format.element = c.element;
  d.shape = {1, static_cast<std::int64_t>(ranks), 1};
  d.codes = all.data();
  d.values = side.value.data();
  d.threads = 1;
  Counts counts;
  if (const std::string error = ops::decode(d, counts); !error.empty()) fail(error);
  return side;
}

// Patterns from `begin` to `end` of one sign against the intervals.
void sweep_range(const Case& c, const std::string& isa, const Side& side, bool negative, std::uint64_t begin,
                 std::uint64_t end) {
  const int bytes = code_bytes(c.element);
  const std::uint32_t mark = negative ? sign : 0;
  const std::uint32_t nan = has_nan(c.element) ? nan_code(c.element) : 0;
  const std::uint32_t nan_value = has_nan(c.element) ? 0x7FC00000 : 0;
  std::vector<std::uint32_t> patterns(chunk), values(chunk), expected(chunk), expected_values(chunk);
  std::vector<std::uint8_t> codes(chunk * static_cast<std::size_t>(bytes)), wanted(codes.size());
  std::size_t rank = 0;
  for (std::uint64_t start = begin; start < end; start += chunk) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(chunk, end - start));
    bool compared = false;  // one by one, below
    for (std::size_t i = 0; i < count; ++i) patterns[i] = static_cast<std::uint32_t>(start + i) | mark;
    encode(c, patterns.data(), count, codes.data(), reinterpret_cast<float*>(values.data()));
    for (std::size_t i = 0; i < count;) {
      const auto at = static_cast<std::uint32_t>(start + i);
      while (rank + 1 < side.first.size() && side.first[rank + 1] <= at && at <= infinity) ++rank;
      // Ranks that begin at Inf only because nothing reaches them have the code of what is there.
      const bool number = at <= infinity;
      std::uint64_t until = number ? infinity + std::uint64_t{1} : end;
      if (number && rank + 1 < side.first.size() && side.first[rank + 1] > at) until = side.first[rank + 1];
      const std::uint32_t code = number ? side.code[rank] : nan, value = number ? side.value[rank] : nan_value;
      // Most pieces lie within one interval.
      const bool whole = i == 0 && start + count <= until;
      if (whole && codes_are(codes, bytes, count, code) && all_are<std::uint32_t>(values.data(), count, value)) break;
      for (; i < count && start + i < until; ++i) {
        compared = true;
        expected[i] = code;
        expected_values[i] = value;
      }
    }
    if (!compared) continue;
    if (bytes == 1)
      for (std::size_t i = 0; i < count; ++i) wanted[i] = static_cast<std::uint8_t>(expected[i]);
    else
      for (std::size_t i = 0; i < count; ++i)
        std::memcpy(wanted.data() + i * static_cast<std::size_t>(bytes), &expected[i], static_cast<std::size_t>(bytes));
    const bool same = std::memcmp(codes.data(), wanted.data(), count * static_cast<std::size_t>(bytes)) == 0 &&
                      std::memcmp(values.data(), expected_values.data(), count * 4) == 0;
    if (same) continue;
    for (std::size_t i = 0; i < count; ++i)
      if (load(codes, bytes, i) != expected[i] || values[i] != expected_values[i]) {
        char text[160];
        std::snprintf(text, sizeof text, " on %s: input 0x%08X gives code 0x%X value 0x%08X, wanted 0x%X 0x%08X",
                      isa.c_str(), patterns[i], load(codes, bytes, i), values[i], expected[i], expected_values[i]);
        fail(c.text() + text);
      }
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& named : catalog::elements) {
    // float32 itself keeps every pattern; unsigned codes are scales.
    if (!is_signed(named.format) || named.format.mantissa_bits >= 23) continue;
    for (const auto& rounding : Words<Rounding>::list)
      for (const auto& overflow : Words<Overflow>::list) {
        if (overflow.value == Overflow::special && !has_nan(named.format)) continue;
        Conversion how;
        how.rounding = rounding.value;
        how.overflow = overflow.value;
        // A NaN becomes zero where an element has none.
        how.nonfinite = has_nan(named.format) ? NonFinite::poison : NonFinite::ignore;
        all.push_back({named.name, named.format, how});
      }
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string usage = "usage: sweep STATE [--only NAME[:ROUNDING]] [--threads N]";
  if (argc < 2 || argv[1][0] == '-' || argc % 2 != 0) fail(usage);
  std::string only;
  unsigned threads = std::thread::hardware_concurrency();
  for (int i = 2; i + 1 < argc; i += 2) {
    if (std::string(argv[i]) == "--only")
      only = argv[i + 1];
    else if (std::string(argv[i]) == "--threads")
      threads = static_cast<unsigned>(std::atoi(argv[i + 1]));
    else
      fail(usage);
  }
  threads = std::max(1U, threads);
  std::set<std::string> done;
  std::ifstream before(argv[1]);
  for (std::string line; std::getline(before, line);) done.insert(line);
  std::ofstream state(argv[1], std::ios::app);
  const auto began = Clock::now();
  int swept = 0;
  for (const Case& c : cases()) {
    if (!only.empty() && c.text().rfind(only, 0) != 0) continue;
    std::vector<std::string> open;
    for (const std::string& isa : available_isas())
      if (isa != "reference" && !done.contains(c.text() + ":" + isa)) open.push_back(isa);
    if (open.empty()) continue;
    setenv("SPARQ_ISA", "reference", 1);
    const Side sides[2] = {intervals(c, false), intervals(c, true)};
    for (const std::string& isa : open) {
      const auto started = Clock::now();
      setenv("SPARQ_ISA", isa.c_str(), 1);
      for (const bool negative : {false, true}) {
        const Side& side = sides[negative];
        // Where overflow is special, everything below it was swept with saturation.
        const std::uint64_t from = c.how.overflow == Overflow::special ? side.first.back() : 0;
        const std::uint64_t span = (std::uint64_t{sign} - from + threads - 1) / threads;
        std::vector<std::jthread> team;
        for (unsigned t = 0; t < threads; ++t)
          team.emplace_back([&, t] {
            const std::uint64_t first = from + t * span;
            sweep_range(c, isa, side, negative, first, std::min<std::uint64_t>(sign, first + span));
          });
      }
      state << c.text() << ":" << isa << "\n" << std::flush;
      ++swept;
      std::printf("%s %s %.1f s\n", c.text().c_str(), isa.c_str(),
                  std::chrono::duration<double>(Clock::now() - started).count());
      std::fflush(stdout);
    }
  }
  std::printf("%d sweeps in %.0f s, all as the definition says\n", swept,
              std::chrono::duration<double>(Clock::now() - began).count());
}
