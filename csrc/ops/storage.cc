#include "storage.h"

#include <algorithm>
#include <vector>

#include "../describe.h"
#include "../dispatch.h"
#include "geometry.h"
#include "guard.h"
#include "parallel.h"

namespace sparq::ops {
namespace {

constexpr std::int64_t grain = 1 << 20;  // items that are worth a thread

// Runs `work(first_line, last_line, counts)` on all lines; how many were refused.
template <class Work>
std::int64_t run_lines(std::int64_t lines, std::int64_t length, int threads, const Work& work) {
  if (lines == 0 || length == 0) return 0;
  const int count = thread_count(lines * length, grain, threads, lines);
  std::vector<Counts> counts(static_cast<std::size_t>(count));
  parallel_for(lines, count, [&](std::int64_t first, std::int64_t last, int thread) {
    work(first, last, counts[static_cast<std::size_t>(thread)]);
  });
  std::int64_t refused = 0;
  for (const Counts& c : counts) refused += c.refused;
  return refused;
}

std::string pattern_text(const Sparsity& s) {
  std::string text = std::to_string(s.kept) + ":" + std::to_string(s.group);
  return s.unit == 1 ? text : text + "/" + std::to_string(s.unit);
}

std::string wrong_padding(std::int64_t runs) {
  return "packed bytes: padding that is not zero in " + std::to_string(runs) + " run(s)";
}

std::string wrong_positions(const Sparsity& sparsity, std::int64_t groups) {
  return "positions: " + std::to_string(groups) + " group(s) of " + pattern_text(sparsity) +
         " have positions that do not ascend, or lie outside of the group or, with a code, of the tensor";
}

// What a thread of decode_packed works with.
struct Scratch {
  std::vector<std::uint8_t> stored, positions, codes;
  Counts unpacked, expanded, decoded;
};

constexpr std::int64_t tile_elements =
    1 << 16;  // of decode_packed: codes, positions and values fit a second-level cache

}  // namespace

std::string check_fill(const Sparsity& sparsity, Fill fill) {
  if (std::string error = check_sparsity(sparsity); !error.empty()) return error;
  if (sparsity.group == 0) return "a sparsity pattern is needed, such as 2:4";
  if (!fills(fill, sparsity))
    return "fill='" + std::string(word_of(fill)) + "' says nothing of " + pattern_text(sparsity);
  return {};
}

std::string compress(const CompressJob& job, std::int64_t lines, int threads) {
  return guarded([&]() -> std::string {
    std::string error = check_fill(job.sparsity, job.fill);
    const KernelTable* kernels = error.empty() ? active_table(error) : nullptr;
    if (!error.empty()) return error;
    const std::int64_t refused =
        run_lines(lines, job.length, threads,
                  [&](std::int64_t first, std::int64_t last, Counts& c) { kernels->compress(job, first, last, c); });
    if (refused == 0) return {};
    return "the mask is not " + pattern_text(job.sparsity) + " in " + std::to_string(refused) +
           " group(s): more are kept, or parts of a unit";
  });
}

std::string expand(const ExpandJob& job, std::int64_t lines, int threads) {
  return guarded([&]() -> std::string {
    std::string error = check_fill(job.sparsity, Fill::lowest);
    const KernelTable* kernels = error.empty() ? active_table(error) : nullptr;
    if (!error.empty()) return error;
    const std::int64_t refused =
        run_lines(lines, job.length, threads,
                  [&](std::int64_t first, std::int64_t last, Counts& c) { kernels->expand(job, first, last, c); });
    return refused == 0 ? std::string() : wrong_positions(job.sparsity, refused);
  });
}

std::string check_pack(const PackJob& job) {
  const bool item = (job.item_bytes == 1 || job.item_bytes == 2 || job.item_bytes == 4) && job.item_bits >= 1 &&
                    job.item_bits <= 8 * job.item_bytes;
  const bool fits = item && job.container_bits >= job.item_bits && job.container_bits <= 32 && job.shift >= 0 &&
                    job.shift <= job.container_bits - job.item_bits;
  if (!fits) return "an item of " + std::to_string(job.item_bits) + " bits does not fit its container";
  if (job.from_top && (job.container_bits > 8 || 8 % job.container_bits != 0))
    return "the first item of a byte can only lie on top where containers divide a byte";
  const std::int64_t most = std::int64_t{1} << 56;
  if (job.length < 0 || job.length > most || job.run < 1 || job.run > most || job.run_bytes > most ||
      job.run_bytes < (job.run * job.container_bits + 7) / 8)
    return "a run of items does not fit its bytes";
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow((job.length + job.run - 1) / job.run, job.run_bytes, &bytes) || bytes > most)
    return "a line of more bytes than memory has";
  return {};
}

std::string pack(const PackJob& job, std::int64_t lines, int threads) {
  return guarded([&]() -> std::string {
    std::string error = check_pack(job);
    const KernelTable* kernels = error.empty() ? active_table(error) : nullptr;
    if (!error.empty()) return error;
    run_lines(lines, job.length, threads,
              [&](std::int64_t first, std::int64_t last, Counts&) { kernels->pack(job, first, last); });
    return {};
  });
}

std::string unpack(const PackJob& job, std::int64_t lines, int threads) {
  return guarded([&]() -> std::string {
    std::string error = check_pack(job);
    const KernelTable* kernels = error.empty() ? active_table(error) : nullptr;
    if (!error.empty()) return error;
    const std::int64_t refused =
        run_lines(lines, job.length, threads,
                  [&](std::int64_t first, std::int64_t last, Counts& c) { kernels->unpack(job, first, last, c); });
    return refused == 0 ? std::string() : wrong_padding(refused);
  });
}

std::string check_decode_packed(const DecodePackedRequest& r) {
  const Shape& shape = r.values.shape;
  const BlockFormat& format = r.values.format;
  const bool sparse = r.sparsity.group != 0;
  std::string error = check_decode(r.values);
  if (error.empty()) error = check_pack(r.elements);
  if (error.empty() && sparse) error = check_fill(r.sparsity, Fill::lowest);
  if (error.empty() && sparse) error = check_pack(r.positions);
  if (!error.empty()) return error;
  if (shape.inner != 1) return "packed lines run along the last axis";
  for (int l = 0; l < format.level_count; ++l) {
    const ScaleLevel& level = format.levels[static_cast<std::size_t>(l)];
    if (level.across > 1) return "packed lines that share scales cannot be decoded apart";
    if (sparse && level.combine == Combine::subtract)
      return "codes of elements that were pruned are zero points, which packed lines do not say";
  }
  const std::int64_t stored = sparse ? stored_length(r.sparsity, shape.length) : shape.length;
  if (r.elements.item_bytes != code_bytes(format.element) || r.elements.item_bits != code_bits(format.element) ||
      r.elements.length != stored)
    return "the packed elements are not those of the format and shape";
  if (sparse && (r.positions.item_bytes != 1 || r.positions.length != stored / r.sparsity.unit))
    return "the packed positions are not those of the pattern and shape";
  return {};
}

std::string decode_packed(const DecodePackedRequest& r, Counts& counts) {
  return guarded([&]() -> std::string {
    std::string error = check_decode_packed(r);
    const KernelTable* kernels = error.empty() ? active_table(error) : nullptr;
    if (!error.empty()) return error;
    const std::int64_t lines = r.values.shape.outer, length = r.values.shape.length;
    if (lines == 0 || length == 0) return {};
    const bool sparse = r.sparsity.group != 0;
    const std::int64_t tile = std::clamp<std::int64_t>(tile_elements / length, 1, lines);
    const std::int64_t tiles = (lines + tile - 1) / tile, value_bytes = bytes_of(r.values.values_type);
    const int threads = thread_count(lines * length, grain, r.values.threads, tiles);
    std::vector<Scratch> scratch(static_cast<std::size_t>(threads));
    for (Scratch& own : scratch) {
      own.stored.resize(static_cast<std::size_t>(tile * r.elements.length * r.elements.item_bytes));
      if (!sparse) continue;
      own.positions.resize(static_cast<std::size_t>(tile * r.positions.length));
      own.codes.resize(static_cast<std::size_t>(tile * length * r.elements.item_bytes));
    }
    parallel_for(tiles, threads, [&](std::int64_t first_tile, std::int64_t last_tile, int thread) {
      Scratch& own = scratch[static_cast<std::size_t>(thread)];
      for (std::int64_t t = first_tile; t < last_tile; ++t) {
        const std::int64_t first = t * tile, count = std::min(tile, lines - first);
        PackJob elements = r.elements;
        elements.items = own.stored.data();
        elements.bytes += first * line_bytes(elements);
        kernels->unpack(elements, 0, count, own.unpacked);
        DecodeRequest values = r.values;
        values.codes = own.stored.data();
        if (sparse) {
          PackJob positions = r.positions;
          positions.items = own.positions.data();
          positions.bytes += first * line_bytes(positions);
          kernels->unpack(positions, 0, count, own.unpacked);
          ExpandJob expand;
          expand.sparsity = r.sparsity;
          expand.length = length;
          expand.stored = own.stored.data();
          expand.positions = own.positions.data();
          expand.code_bytes = elements.item_bytes;
          expand.repeats = r.repeats;
          expand.codes = own.codes.data();
          kernels->expand(expand, 0, count, own.expanded);
          values.codes = own.codes.data();
        }
        // These lines as a tensor of their own.
        values.shape.outer = count;
        values.shape.rows = 0;
        values.values = static_cast<std::uint8_t*>(r.values.values) + first * length * value_bytes;
        for (std::size_t l = 0; l < static_cast<std::size_t>(values.format.level_count); ++l) {
          const ScalePlane plane = make_plane(values.format.levels[l], values.shape, values.scales[l].data, true);
          values.scales[l].data = static_cast<std::uint8_t*>(plane.data) + first * plane.line_stride * plane.bytes;
        }
        const DecodeJob job = decode_job(values);
        kernels->decode(job, 0, tile_count(job.geometry), own.decoded);
      }
    });
    std::int64_t padding = 0, groups = 0;
    for (const Scratch& own : scratch) {
      padding += own.unpacked.refused;
      groups += own.expanded.refused;
      counts.inexact += own.decoded.inexact;
    }
    return padding != 0 ? wrong_padding(padding) : groups != 0 ? wrong_positions(r.sparsity, groups) : std::string();
  });
}

}  // namespace sparq::ops
