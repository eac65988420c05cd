// N:M selection (docs/numerics.md section 8): every element counts the neighbours of its group that beat it.
#pragma once

#include "load_store.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// Unsigned integers that order as the rule ranks: NaN highest, zeros equal.
template <class C>
inline void magnitude_keys(typename C::Bits* row, std::int64_t count) {
  using Bits = typename C::Bits;
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits magnitude = row[i] & ~sign_mask<C>;
    row[i] = magnitude > infinity_bits<C> ? nan_bits<C> : magnitude;
  }
}

template <class C>
inline void score_keys(typename C::Bits* row, std::int64_t count) {
  using Bits = typename C::Bits;
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits magnitude = row[i] & ~sign_mask<C>;
    const Bits key = row[i] == magnitude || magnitude == 0 ? magnitude + sign_mask<C> : sign_mask<C> - magnitude;
    row[i] = magnitude > infinity_bits<C> ? ~Bits{0} : key;
  }
}

// keep[i] = 1 where fewer than `kept` elements of i's group rank above it. A ragged last group is a shorter one.
// `row` holds keys; `count` is at most tile_capacity.
template <class C>
inline void select_row(const typename C::Bits* __restrict row, std::int64_t count, const Sparsity& rule,
                       std::uint8_t* __restrict keep) {
  using Bits = typename C::Bits;
  using Int = typename C::Int;
  Bits place[tile_capacity];      // position within the group
  Bits lost_left[tile_capacity];  // defeats by neighbours further right, and further left
  Bits lost_right[tile_capacity];
  Bits position = 0;
  const Bits group = static_cast<Bits>(rule.group);
  for (std::int64_t i = 0; i < count; ++i) {
    place[i] = position;
    position = position + 1 == group ? 0 : position + 1;
    lost_left[i] = 0;
    lost_right[i] = 0;
  }
  // With lowest_index the left one of equals wins; adding 1 to the left key would overflow, so compare twice.
  const Bits left_wins_ties = rule.ties == Ties::lowest_index ? 1 : 0;
  for (std::int64_t d = 1; d < rule.group; ++d) {
    const Bits last = group - static_cast<Bits>(d);
    for (std::int64_t i = 0; i < count - d; ++i) {
      // Keys differ in their upper bit only as unsigned numbers, so compare as signed after flipping it.
      const Int left = static_cast<Int>(row[i] ^ sign_mask<C>);
      const Int right = static_cast<Int>(row[i + d] ^ sign_mask<C>);
      const Bits same_group = place[i] < last ? 1 : 0;
      const Bits left_wins = (left > right ? Bits{1} : Bits{0}) | (left == right ? left_wins_ties : Bits{0});
      lost_right[i + d] += left_wins & same_group;
      lost_left[i] += (left_wins ^ 1) & same_group;
    }
  }
  const Bits kept = static_cast<Bits>(rule.kept);
  for (std::int64_t i = 0; i < count; ++i) keep[i] = lost_left[i] + lost_right[i] < kept ? 1 : 0;
}

// Groups in which a kept and a pruned element rank the same.
template <class C>
inline std::int64_t count_ties(const typename C::Bits* row, std::int64_t count, const Sparsity& rule,
                               const std::uint8_t* keep) {
  std::int64_t ties = 0;
  for (std::int64_t start = 0; start < count; start += rule.group) {
    const std::int64_t end = smaller(start + rule.group, count);
    typename C::Bits lowest_kept = ~typename C::Bits{0}, highest_pruned = 0;
    bool kept = false, pruned = false;
    for (std::int64_t i = start; i < end; ++i) {
      if (keep[i]) {
        lowest_kept = smaller(lowest_kept, row[i]);
        kept = true;
      } else {
        highest_pruned = larger(highest_pruned, row[i]);
        pruned = true;
      }
    }
    ties += kept && pruned && lowest_kept == highest_pruned;
  }
  return ties;
}

template <class C>
inline void select_tiles(const SelectJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  typename C::Bits rows[tile_capacity];
  std::uint8_t keep[tile_capacity];
  const Geometry& g = job.geometry;
  for (std::int64_t index = first; index < last; ++index) {
    const Tile t = tile_at(g, index);
    load_tile<C>(g, t, job.input, job.input_type, rows);
    for (std::int64_t l = 0; l < t.lines; ++l) {
      typename C::Bits* row = rows + l * t.length;
      if (job.by_score)
        score_keys<C>(row, t.length);
      else
        magnitude_keys<C>(row, t.length);
      select_row<C>(row, t.length, job.sparsity, keep);
      if (job.count) counts.ties += count_ties<C>(row, t.length, job.sparsity, keep);
      std::uint8_t* to = job.mask_out + element_offset(g, t, l);
      for (std::int64_t i = 0; i < t.length; ++i) to[i * g.step] = keep[i];
    }
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
