// N:M selection (docs/numerics.md section 8): every element counts the neighbours of its group that beat it.
#pragma once

#include "load_store.h"
#include "topk.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// What elements are ranked by.
enum class RankBy : std::uint8_t { magnitude, score };

// Signed integers that order as the rule ranks: NaN highest, zeros equal; never the largest or smallest integer.
template <class C>
inline void rank_keys(const typename C::Bits* __restrict row, std::int64_t count, RankBy by,
                      typename C::Int* __restrict keys) {
  using Bits = typename C::Bits;
  using Int = typename C::Int;
  const Bits counted_sign = by == RankBy::score ? sign_mask<C> : 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits bits = row[i] & ~sign_mask<C>;
    const Int magnitude = static_cast<Int>(bits);
    const Int key = (row[i] & counted_sign) != 0 ? -magnitude : magnitude;
    keys[i] = bits > infinity_bits<C> ? static_cast<Int>(nan_bits<C>) : key;
  }
}

// Groups in which a kept and a pruned element rank the same.
template <class Int>
inline std::int64_t count_ties(const Int* keys, std::int64_t count, std::int64_t group, const std::uint8_t* keep) {
  std::int64_t ties = 0;
  for (std::int64_t start = 0; start < count; start += group) {
    const std::int64_t end = smaller(start + group, count);
    Int lowest_kept = 0, highest_pruned = 0;
    bool kept = false, pruned = false;
    for (std::int64_t i = start; i < end; ++i) {
      if (keep[i]) {
        lowest_kept = kept ? smaller(lowest_kept, keys[i]) : keys[i];
        kept = true;
      } else {
        highest_pruned = pruned ? larger(highest_pruned, keys[i]) : keys[i];
        pruned = true;
      }
    }
    ties += kept && pruned && lowest_kept == highest_pruned;
  }
  return ties;
}

// Groups that keep too many, all equals of the last one: those of them that ties=topk keeps. Where no kept element
// equals a pruned one, every way to select keeps the same.
template <class Int>
inline void settle_ties(const Int* keys, std::int64_t count, const Sparsity& rule, std::uint8_t* keep) {
  const std::int64_t group = rule.group, kept = rule.kept, wanted = count / group * kept + smaller(count % group, kept);
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < count; ++i) found += keep[i];
  for (std::int64_t start = 0; found > wanted; start += group) {
    const std::int64_t n = smaller(group, count - start);
    std::int64_t here = 0;
    for (std::int64_t i = start; i < start + n; ++i) here += keep[i];
    if (here <= kept) continue;
    select_topk(keys + start, static_cast<int>(n), rule.kept, keep + start);
    found -= here - kept;
  }
}

// keep[i] = 1 where fewer than `kept` elements of i's group rank above it. A ragged last group is a shorter one.
// Works on stretches of whole groups; returns the groups with ties if they are to be counted.
template <class C>
inline std::int64_t select_row(const typename C::Bits* row, std::int64_t count, RankBy by, const Sparsity& rule,
                               bool want_ties, std::uint8_t* __restrict keep) {
  using Int = typename C::Int;
  constexpr std::int64_t capacity = 256, margin = max_group;
  const std::int64_t stretch = capacity / rule.group * rule.group;
  const Int group = rule.group, kept = rule.kept;
  Int place[capacity];  // position within the group
  Int defeats[capacity];
  Int with_margins[margin + capacity + margin] = {};
  Int* keys = with_margins + margin;
  Int position = 0;
  for (std::int64_t i = 0; i < smaller(stretch, count); ++i) {
    place[i] = position;
    position = position + 1 == group ? 0 : position + 1;
  }
  // With lowest_index the left one of equals wins, as if it were larger by one; with topk none of them does.
  const Int of_left = rule.ties == Ties::lowest_index ? 1 : 0, of_right = rule.ties == Ties::highest_index ? 0 : 1;
  std::int64_t ties = 0;
  for (std::int64_t done = 0; done < count; done += stretch) {
    const std::int64_t n = smaller(stretch, count - done);
    rank_keys<C>(row + done, n, by, keys);
    // Whoever is missing from a ragged group loses to all.
    for (std::int64_t i = n; i < n + margin; ++i) keys[i] = static_cast<Int>(sign_mask<C>);
    for (std::int64_t i = 0; i < n; ++i) defeats[i] = 0;
    for (std::int64_t d = 1; d < rule.group; ++d) {
      const Int distance = static_cast<Int>(d);
      for (std::int64_t i = 0; i < n; ++i) {
        const bool left_beats = (keys[i - d] + of_left > keys[i]) & (place[i] >= distance);
        const bool right_beats = (keys[i] + of_right <= keys[i + d]) & (place[i] < group - distance);
        defeats[i] += (left_beats ? 1 : 0) + (right_beats ? 1 : 0);
      }
    }
    for (std::int64_t i = 0; i < n; ++i) keep[done + i] = defeats[i] < kept ? 1 : 0;
    if (rule.ties == Ties::topk) settle_ties(keys, n, rule, keep + done);
    if (want_ties) ties += count_ties(keys, n, rule.group, keep + done);
  }
  return ties;
}

// Units of several elements: each ranks as the highest of its own.
template <class C>
inline std::int64_t select_units(const typename C::Bits* row, std::int64_t count, RankBy by, const Sparsity& rule,
                                 bool want_ties, std::uint8_t* keep) {
  if (rule.unit == 1) return select_row<C>(row, count, by, rule, want_ties, keep);
  typename C::Bits highest[tile_capacity];
  typename C::Int keys[max_group];
  std::int64_t units = 0;
  for (std::int64_t start = 0; start < count; start += rule.unit) {
    const std::int64_t n = smaller<std::int64_t>(rule.unit, count - start);
    rank_keys<C>(row + start, n, by, keys);
    std::int64_t best = 0;
    for (std::int64_t i = 1; i < n; ++i)
      if (keys[i] > keys[best]) best = i;
    highest[units++] = row[start + best];
  }
  const Sparsity of_units{stored_units(rule), group_units(rule), rule.ties};
  const std::int64_t ties = select_row<C>(highest, units, by, of_units, want_ties, keep);
  for (std::int64_t i = count - 1; i >= 0; --i) keep[i] = keep[i / rule.unit];
  return ties;
}

template <class C>
inline void select_tiles(const SelectJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  typename C::Bits rows[tile_capacity];
  std::uint8_t keep[tile_capacity];
  const Geometry& g = job.geometry;
  const RankBy by = job.by_score ? RankBy::score : RankBy::magnitude;
  for (std::int64_t index = first; index < last; ++index) {
    const Tile t = tile_at(g, index);
    load_tile<C>(g, t, job.input, job.input_type, rows);
    for (std::int64_t l = 0; l < t.lines; ++l) {
      const typename C::Bits* row = rows + l * t.length;
      counts.ties += select_units<C>(row, t.length, by, job.sparsity, job.count, keep);
      std::uint8_t* to = job.mask_out + element_offset(g, t, l);
      for (std::int64_t i = 0; i < t.length; ++i) to[i * g.step] = keep[i];
    }
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
