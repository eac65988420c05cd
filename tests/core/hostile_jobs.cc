// Random and hostile arguments through the checked functions of ops/ that read what memory held: each is an error text
// or leaves every byte outside of its buffers alone. Buffers are exactly as long as they have to be, so that a build
// with -fsanitize=address,undefined (the preset "sanitize") ends at the first byte or bit of arithmetic that is wrong.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "catalog/datapaths.h"
#include "catalog/formats.h"
#include "dispatch.h"
#include "ops/encode.h"
#include "ops/multiply.h"
#include "ops/storage.h"

namespace {

using namespace sparq;

std::mt19937_64 generator(20260131);

std::int64_t below(std::int64_t end) {
  return static_cast<std::int64_t>(generator() % static_cast<std::uint64_t>(end));
}

bool once_in(std::int64_t n) { return below(n) == 0; }

// Mostly from 0 to `end`; now and then what no caller means.
std::int64_t number(std::int64_t end) {
  constexpr std::int64_t odd[] = {-1, INT32_MIN, INT32_MAX, std::int64_t{1} << 56, INT64_MAX, INT64_MIN};
  return once_in(40) ? odd[below(6)] : below(end + 1);
}

int small_number(int end) {
  constexpr int odd[] = {-1, INT32_MIN, INT32_MAX, 1 << 20};
  return once_in(40) ? odd[below(4)] : static_cast<int>(below(end + 1));
}

// A buffer of random bytes with nothing behind it.
struct Bytes {
  std::unique_ptr<std::uint8_t[]> data;

  explicit Bytes(std::int64_t size) : data(new std::uint8_t[static_cast<std::size_t>(size)]) {
    const bool few = once_in(3);  // small bytes are more often positions and codes
    for (std::int64_t i = 0; i < size; ++i)
      data[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(few ? below(5) : below(256));
  }
};

int accepted = 0, refused = 0;

void count(const std::string& error) { error.empty() ? ++accepted : ++refused; }

constexpr std::int64_t most_bytes = 1 << 16;  // of a buffer

PackJob random_pack() {
  PackJob job;
  job.item_bytes = once_in(20) ? small_number(9) : 1 << below(3);
  job.item_bits = small_number(8 * 4);
  job.container_bits = once_in(2) ? job.item_bits : small_number(34);
  job.shift = once_in(2) ? 0 : small_number(8);
  job.from_top = once_in(3);
  job.length = number(100);
  job.run = once_in(2) ? std::max<std::int64_t>(1, job.length) : number(40);
  job.run_bytes = once_in(2) && job.run > 0 && job.run < 1000 && job.container_bits > 0 && job.container_bits < 40
                      ? (job.run * job.container_bits + 7) / 8
                      : number(80);
  return job;
}

void pack_and_unpack() {
  PackJob job = random_pack();
  const std::string error = ops::check_pack(job);
  count(error);
  const std::int64_t lines = 1 + below(4);
  if (!error.empty()) return;
  if (job.length > most_bytes || line_bytes(job) > most_bytes) return;
  Bytes items(lines * job.length * job.item_bytes), bytes(lines * line_bytes(job));
  job.items = items.data.get();
  job.bytes = bytes.data.get();
  count(ops::unpack(job, lines, 1));
  count(ops::pack(job, lines, 2));
}

Sparsity random_sparsity() {
  Sparsity s;
  s.group = small_number(33);
  s.kept = once_in(2) ? s.group / 2 : small_number(33);
  s.unit = once_in(2) ? 1 : small_number(4);
  return once_in(3) ? Sparsity{2, 4} : s;
}

void compress_and_expand() {
  const Sparsity sparsity = random_sparsity();
  const auto fill = static_cast<Fill>(below(4));
  const std::string error = ops::check_fill(sparsity, fill);
  count(error);
  if (!error.empty()) return;
  const std::int64_t lines = 1 + below(4), length = below(100), bytes = std::int64_t{1} << below(3);
  const std::int64_t kept = stored_length(sparsity, length);
  Bytes codes(lines * length * bytes), mask(lines * length), stored(lines * kept * bytes);
  Bytes positions(lines * kept / sparsity.unit);
  ExpandJob e;
  e.sparsity = sparsity;
  e.length = length;
  e.stored = stored.data.get();
  e.positions = positions.data.get();
  e.code_bytes = static_cast<int>(bytes);
  e.repeats = once_in(2);
  e.codes = codes.data.get();
  e.mask = once_in(4) ? nullptr : mask.data.get();
  count(ops::expand(e, lines, 2));
  CompressJob c;
  c.sparsity = sparsity;
  c.fill = fill;
  c.length = length;
  c.codes = codes.data.get();
  c.code_bytes = e.code_bytes;
  c.mask = mask.data.get();
  c.stored = stored.data.get();
  c.positions = positions.data.get();
  count(ops::compress(c, lines, 2));
}

// A format of the catalog, or one with a field that is another.
BlockFormat random_format() {
  BlockFormat format = catalog::formats[static_cast<std::size_t>(below(std::ssize(catalog::formats)))].format;
  if (once_in(2)) return format;
  ElementFormat& element =
      once_in(2) ? format.element : format.levels[static_cast<std::size_t>(below(max_levels))].format;
  switch (below(6)) {
    case 0: element.exponent_bits = small_number(12); break;
    case 1: element.mantissa_bits = small_number(24); break;
    case 2: element.bias = small_number(200); break;
    case 3: format.level_count = small_number(max_levels + 1); break;
    case 4: format.levels[static_cast<std::size_t>(below(max_levels))].along = small_number(40); break;
    default: format.levels[static_cast<std::size_t>(below(max_levels))].across = small_number(40); break;
  }
  return format;
}

// A request with buffers for all but its codes, or false if it was refused.
bool random_values(ops::DecodeRequest& r, std::vector<Bytes>& buffers) {
  r.format = random_format();
  const bool spans = once_in(4);
  r.shape = {below(9), below(140), once_in(3) ? 1 + below(4) : 1, 0};
  if (spans && r.shape.inner == 1 && r.shape.outer > 0) r.shape.rows = r.shape.outer;
  if (!ops::check_format(r.format).empty()) {
    ++refused;
    return false;
  }
  for (std::size_t l = 0; l < static_cast<std::size_t>(r.format.level_count); ++l) {
    const ScaleLevel& level = r.format.levels[l];
    if (level.across > 1 && r.shape.rows == 0) {  // refused, and not of any size
      count(ops::check_decode(r));
      return false;
    }
    buffers.emplace_back(ops::scale_count(level, r.shape) * code_bytes(level.format));
    r.scales[l].data = buffers.back().data.get();
    r.scales[l].given = true;
  }
  r.values_type = static_cast<FloatType>(below(4));
  buffers.emplace_back(r.shape.size() * bytes_of(r.values_type));
  r.values = buffers.back().data.get();
  r.threads = 1 + static_cast<int>(below(2));
  return true;
}

void decode() {
  ops::DecodeRequest r;
  std::vector<Bytes> buffers;
  if (!random_values(r, buffers)) return;
  const Bytes codes(r.shape.size() * code_bytes(r.format.element));
  r.codes = codes.data.get();
  Counts counts;
  count(ops::decode(r, counts));
}

void decode_packed() {
  ops::DecodePackedRequest r;
  std::vector<Bytes> buffers;
  if (!random_values(r.values, buffers)) return;
  const std::int64_t lines = r.values.shape.outer, length = r.values.shape.length;
  std::int64_t stored = length;
  if (once_in(2)) {
    r.sparsity = random_sparsity();
    if (!ops::check_sparsity(r.sparsity).empty()) {
      count(ops::check_decode_packed(r));
      return;
    }
    if (r.sparsity.group != 0) stored = stored_length(r.sparsity, length);
    r.repeats = once_in(2);
  }
  r.elements = random_pack();
  r.positions = random_pack();
  if (!once_in(8)) {
    r.elements.item_bytes = code_bytes(r.values.format.element);
    r.elements.item_bits = r.elements.container_bits = code_bits(r.values.format.element);
    r.elements.shift = 0;
    r.elements.length = stored;
    r.elements.run = std::max<std::int64_t>(1, stored);
    r.elements.run_bytes = (r.elements.run * r.elements.container_bits + 7) / 8;
    r.positions.item_bytes = 1;
    r.positions.length = stored / std::max(1, r.sparsity.unit);
  }
  const std::string error = ops::check_decode_packed(r);
  count(error);
  if (!error.empty()) return;
  const bool sparse = r.sparsity.group != 0;
  if (line_bytes(r.elements) > most_bytes || (sparse && line_bytes(r.positions) > most_bytes)) return;
  const Bytes elements(lines * line_bytes(r.elements)), positions(sparse ? lines * line_bytes(r.positions) : 0);
  r.elements.bytes = elements.data.get();
  r.positions.bytes = positions.data.get();
  Counts counts;
  count(ops::decode_packed(r, counts));
}

// Products as long as those at which the rows that are packed together become fewer, and ones whose steps do not fill
// up: every machine, also where Inf and NaN send rows another way. What they work in is exactly as long as they say.
void multiply_long() {
  std::vector<Datapath> machines;
  for (const auto& named : catalog::datapaths) machines.push_back(named.datapath);
  for (const int group : {2, 3, 6, 9}) {  // steps that fill up words of exponents, and short and odd presums
    Datapath path{.reduce = Reduce::align, .group = group, .fraction_bits = 20};
    machines.push_back(path);
    path.presum = group % 2 == 0 ? 2 : 3;
    machines.push_back(path);
  }
  for (const Datapath& machine : machines)
    for (const std::int64_t k : {1, 33, 2049, 5461, 8192}) {
      ops::MultiplyRequest r;
      r.path = machine;
      r.m = 2;
      r.n = 17;
      r.k = k;
      r.a.element = r.b.element = r.path.operand_count != 0 ? r.path.operands[0] : catalog::element("e2m1");
      const int bytes = code_bytes(r.a.element);
      const Bytes a(r.m * k * bytes), b(r.n * k * bytes);
      const auto mask = static_cast<std::uint8_t>((1U << std::min(8, code_bits(r.a.element))) - 1);
      if (bytes == 1)
        for (const auto& [codes, count] : {std::pair{&a, r.m * k}, std::pair{&b, r.n * k}})
          for (std::int64_t i = 0; i < count; ++i) codes->data[static_cast<std::size_t>(i)] &= mask;
      r.a.codes = a.data.get();
      r.b.codes = b.data.get();
      std::vector<float> c(static_cast<std::size_t>(r.m * r.n), 1), d(c.size());
      if (r.path.output != Output::int32) c.front() = HUGE_VALF;
      r.c = c.data();
      r.d = d.data();
      r.threads = 1;
      count(ops::multiply(r));
    }
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 2000;
  const std::vector<std::string> isas = available_isas();
  for (const std::string& isa : isas) {
    if (isa == "reference") continue;  // it has nothing to work in
    setenv("SPARQ_ISA", isa.c_str(), 1);
    multiply_long();
  }
  for (int round = 0; round < rounds; ++round) {
    setenv("SPARQ_ISA", isas[static_cast<std::size_t>(round) % isas.size()].c_str(), 1);
    pack_and_unpack();
    compress_and_expand();
    decode();
    decode_packed();
  }
  if (accepted < rounds || refused < rounds) {
    std::printf("FAILED: %d calls were accepted and %d refused in %d rounds\n", accepted, refused, rounds);
    return 1;
  }
  std::printf("%d calls accepted, %d refused, none out of bounds\n", accepted, refused);
  return 0;
}
