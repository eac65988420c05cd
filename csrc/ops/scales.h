// From a request's records to what kernels read, and scales that need a pass of their own.
#pragma once

#include <vector>

#include "encode.h"
#include "geometry.h"
#include "parallel.h"

namespace sparq::ops {

// Below about a million elements a second thread costs more than it brings.
inline constexpr std::int64_t elements_per_thread = std::int64_t{1} << 20;

// Runs `call(first, last, counts)` over all tiles on threads and adds up what they counted.
template <class Call>
void run_tiles(const Geometry& g, int threads_requested, Counts& counts, const Call& call) {
  const std::int64_t tiles = tile_count(g);
  if (tiles == 0) return;
  const int threads = thread_count(g.batch * g.lines * g.length, elements_per_thread, threads_requested, tiles);
  std::vector<Counts> each(static_cast<std::size_t>(threads));
  parallel_for(tiles, threads, [&](std::int64_t first, std::int64_t last, int thread) {
    call(first, last, each[static_cast<std::size_t>(thread)]);
  });
  for (const Counts& c : each) {
    counts.saturated += c.saturated;
    counts.underflowed += c.underflowed;
    counts.nonfinite += c.nonfinite;
    counts.zero_blocks += c.zero_blocks;
    counts.ties += c.ties;
    counts.inexact += c.inexact;
    counts.refused += c.refused;
  }
}

// The derived fields of a job, from its format and conversion: of elements, and of the scales of the main level.
void derive(QuantizeJob& job);
void derive_scale(QuantizeJob& job);

// What a job's promote_by_exponent points to under amax_exponent=log2.
std::vector<std::uint64_t> log2_promotions(const QuantizeJob& job);
std::vector<std::uint64_t> element_promotions(const QuantizeJob& job);

// The scales of the levels up to `last_level` that are not given, by passes over the whole tensor.
void compute_scales(const KernelTable& kernels, QuantizeJob& job, const EncodeRequest& request,
                    const std::uint8_t* mask, int last_level, Counts& counts);

}  // namespace sparq::ops
