// N:M compression and bit packing, bit by bit and unit by unit (docs/numerics.md section 15).
#pragma once

#include <algorithm>
#include <vector>

#include "lines.h"

namespace sparq::reference {

// The units that a group is stored with: the kept ones, and as many free ones as are missing.
inline std::vector<int> units_of_group(const Sparsity& rule, Fill fill, const std::vector<bool>& kept) {
  const auto wanted = static_cast<std::size_t>(stored_units(rule));
  std::vector<int> units, free;
  std::size_t bits = 0;
  for (std::size_t u = 0; u < kept.size(); ++u) {
    (kept[u] ? units : free).push_back(static_cast<int>(u));
    bits |= std::size_t{kept[u]} << u;
  }
  if (units.size() >= wanted) return units;
  if (fill == Fill::cutlass2 || fill == Fill::cutlass3) {
    if (kept.size() == 2) return {cutlass2_of_two};
    const int pair = fill == Fill::cutlass2 ? cutlass2_of_four[bits] : cutlass3_of_four[bits];
    return {pair % 4, pair / 4};
  }
  if (fill == Fill::highest) std::reverse(free.begin(), free.end());
  units.insert(units.end(), free.begin(), free.begin() + static_cast<std::ptrdiff_t>(wanted - units.size()));
  std::sort(units.begin(), units.end());
  return units;
}

inline void compress(const CompressJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  const std::int64_t group = job.sparsity.group, unit = job.sparsity.unit;
  std::int64_t slot = first * stored_length(job.sparsity, job.length) / unit;
  for (std::int64_t line = first; line < last; ++line)
    for (std::int64_t start = 0; start < job.length; start += group) {
      std::vector<bool> kept(static_cast<std::size_t>(group_units(job.sparsity)));
      bool wrong = false;
      for (std::int64_t i = start; i < std::min(start + group, job.length); ++i) {
        const auto u = static_cast<std::size_t>((i - start) / unit);
        const bool keep = job.mask[line * job.length + i] != 0;
        wrong = wrong || ((i - start) % unit != 0 && keep != kept[u]);
        kept[u] = kept[u] || keep;
      }
      std::vector<int> units = units_of_group(job.sparsity, job.fill, kept);
      wrong = wrong || units.size() > static_cast<std::size_t>(stored_units(job.sparsity));
      units.resize(static_cast<std::size_t>(stored_units(job.sparsity)));
      counts.refused += wrong;
      for (const int u : units) {
        job.positions[slot] = static_cast<std::uint8_t>(u);
        for (std::int64_t e = 0; e < unit; ++e) {
          const std::int64_t at = start + u * unit + e;
          const std::uint64_t code = at < job.length ? load_bits(job.codes, job.code_bytes, line * job.length + at) : 0;
          store_bits(job.stored, job.code_bytes, slot * unit + e, code);
        }
        ++slot;
      }
    }
}

inline void expand(const ExpandJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  const std::int64_t group = job.sparsity.group, unit = job.sparsity.unit, slots = stored_units(job.sparsity);
  const std::int64_t groups = (job.length + group - 1) / group;
  for (std::int64_t i = first * job.length; i < last * job.length; ++i) {
    store_bits(job.codes, job.code_bytes, i, 0);
    if (job.mask != nullptr) job.mask[i] = 0;
  }
  for (std::int64_t g = first * groups; g < last * groups; ++g) {
    const std::uint8_t* places = job.positions + g * slots;
    const std::int64_t line = g / groups, start = g % groups * group;
    bool ascending = places[slots - 1] < group_units(job.sparsity), all_zero = true, beyond = false;
    for (std::int64_t s = 0; s < slots; ++s) {
      ascending = ascending && (s == 0 || places[s - 1] < places[s]);
      for (std::int64_t e = 0; e < unit; ++e) {
        const std::int64_t in_group = places[s] * unit + e, at = start + in_group;
        const std::uint64_t code = load_bits(job.stored, job.code_bytes, (g * slots + s) * unit + e);
        all_zero = all_zero && code == 0 && places[s] == 0;
        if (in_group >= group || at >= job.length) {
          beyond = beyond || code != 0;
          continue;
        }
        store_bits(job.codes, job.code_bytes, line * job.length + at, code);
        if (job.mask != nullptr) job.mask[line * job.length + at] = 1;
      }
    }
    counts.refused += (!ascending || beyond) && !(job.repeats && all_zero);
  }
}

// Where bit `bit` of item i of a run lies in the run.
inline std::int64_t place_of_bit(const PackJob& job, std::int64_t i, std::int64_t bit) {
  const std::int64_t room = 8 / std::min(8, job.container_bits);
  if (job.from_top) i = i / room * room + (room - 1 - i % room);
  return i * job.container_bits + job.shift + bit;
}

inline void pack(const PackJob& job, std::int64_t first, std::int64_t last) noexcept {
  std::fill(job.bytes + first * line_bytes(job), job.bytes + last * line_bytes(job), std::uint8_t{0});
  for (std::int64_t line = first; line < last; ++line)
    for (std::int64_t i = 0; i < job.length; ++i)
      for (std::int64_t bit = 0; bit < job.item_bits; ++bit) {
        const std::uint64_t item = load_bits(job.items, job.item_bytes, line * job.length + i);
        const std::int64_t at = place_of_bit(job, i % job.run, bit);
        std::uint8_t* run = job.bytes + line * line_bytes(job) + i / job.run * job.run_bytes;
        run[at / 8] = static_cast<std::uint8_t>(run[at / 8] | (item >> bit & 1) << (at % 8));
      }
}

inline void unpack(const PackJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  std::vector<std::uint8_t> used(static_cast<std::size_t>(job.run_bytes));
  for (std::int64_t line = first; line < last; ++line)
    for (std::int64_t start = 0; start < job.length; start += job.run) {
      const std::uint8_t* run = job.bytes + line * line_bytes(job) + start / job.run * job.run_bytes;
      std::fill(used.begin(), used.end(), std::uint8_t{0});
      for (std::int64_t i = 0; i < std::min(job.run, job.length - start); ++i) {
        std::uint64_t item = 0;
        for (std::int64_t bit = 0; bit < job.item_bits; ++bit) {
          const std::int64_t at = place_of_bit(job, i, bit);
          item |= static_cast<std::uint64_t>(run[at / 8] >> (at % 8) & 1) << bit;
          std::uint8_t& flags = used[static_cast<std::size_t>(at / 8)];
          flags = static_cast<std::uint8_t>(flags | 1 << (at % 8));
        }
        store_bits(job.items, job.item_bytes, line * job.length + start + i, item);
      }
      bool beside = false;
      for (std::size_t b = 0; b < used.size(); ++b) beside = beside || (run[b] & ~used[b]) != 0;
      counts.refused += beside;
    }
}

}  // namespace sparq::reference
