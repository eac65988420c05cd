#include "storage.h"

#include <vector>

#include "../describe.h"
#include "../dispatch.h"
#include "encode.h"
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
    if (refused == 0) return {};
    return "positions: " + std::to_string(refused) + " group(s) of " + pattern_text(job.sparsity) +
           " have positions that do not ascend, or lie outside of the group or, with a code, of the tensor";
  });
}

std::string check_pack(const PackJob& job) {
  const bool widths = (job.item_bytes == 1 || job.item_bytes == 2 || job.item_bytes == 4) && job.item_bits >= 1 &&
                      job.item_bits <= 8 * job.item_bytes && job.container_bits <= 32 && job.shift >= 0 &&
                      job.shift + job.item_bits <= job.container_bits;
  if (!widths) return "an item of " + std::to_string(job.item_bits) + " bits does not fit its container";
  if (job.from_top && (job.container_bits > 8 || 8 % job.container_bits != 0))
    return "the first item of a byte can only lie on top where containers divide a byte";
  const std::int64_t most = std::int64_t{1} << 56;
  if (job.length < 0 || job.length > most || job.run < 1 || job.run > most || job.run_bytes > most ||
      job.run_bytes < (job.run * job.container_bits + 7) / 8)
    return "a run of items does not fit its bytes";
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
    if (refused == 0) return {};
    return "packed bytes: padding that is not zero in " + std::to_string(refused) + " run(s)";
  });
}

}  // namespace sparq::ops
