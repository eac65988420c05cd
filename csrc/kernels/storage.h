// N:M compression and bit packing (docs/numerics.md section 15): lines of codes to what memory holds, and back.
#pragma once

#include "load_store.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// Words wherever bytes lie.
template <class Word>
using LooseWord __attribute__((aligned(1), may_alias)) = Word;

// A byte moved up by so many bytes, modulo 4. Two steps by constants: not every processor shifts each lane by its own.
inline std::uint32_t moved_by_bytes(std::uint32_t byte, std::uint32_t places) {
  const std::uint32_t odd = 0 - (places & 1), high = 0 - (places >> 1 & 1);
  const std::uint32_t once = (byte << 8 & odd) | (byte & ~odd);
  return (once << 16 & high) | (once & ~high);
}

inline constexpr std::int64_t counted_in_32_bits = 1 << 20;  // words that are counted before the count is widened

// The units that a group of fewer than `stored_units` kept ones is stored with, ascending.
inline void fill_group(const Sparsity& rule, Fill fill, std::uint32_t kept, std::uint8_t* units) {
  const int wanted = stored_units(rule), room = group_units(rule);
  if (fill == Fill::cutlass2 || fill == Fill::cutlass3) {
    if (room == 2) {
      units[0] = cutlass2_of_two;
      return;
    }
    const std::int8_t pair = fill == Fill::cutlass2 ? cutlass2_of_four[kept & 15] : cutlass3_of_four[kept & 15];
    units[0] = static_cast<std::uint8_t>(pair & 3);
    units[1] = static_cast<std::uint8_t>(pair >> 2);
    return;
  }
  int missing = wanted - __builtin_popcount(kept);
  for (int i = 0; i < room && missing > 0; ++i) {
    const int unit = fill == Fill::lowest ? i : room - 1 - i;
    const std::uint32_t bit = std::uint32_t{1} << unit;
    missing -= (kept & bit) == 0 ? 1 : 0;
    kept |= bit;
  }
  for (int i = 0, n = 0; i < room; ++i)
    if ((kept >> i & 1) != 0) units[n++] = static_cast<std::uint8_t>(i);
}

// Any group: ragged, in units, with fewer or more units than it has room for.
template <class Code>
inline void compress_group(const CompressJob& job, std::int64_t room, const Code* codes, const std::uint8_t* mask,
                           Code* stored, std::uint8_t* positions, Counts& counts) {
  const std::int64_t unit = job.sparsity.unit;
  std::uint32_t kept = 0;
  bool split = false;
  for (std::int64_t i = 0; i < room; ++i) {
    kept |= static_cast<std::uint32_t>(mask[i] != 0) << (i / unit);
    split |= (mask[i] != 0) != (mask[i / unit * unit] != 0);
  }
  const int wanted = stored_units(job.sparsity), found = __builtin_popcount(kept);
  counts.refused += split || found > wanted;
  std::uint8_t units[max_group] = {};
  if (found < wanted)
    fill_group(job.sparsity, job.fill, kept, units);
  else
    for (int i = 0, n = 0; n < wanted; ++i)
      if ((kept >> i & 1) != 0) units[n++] = static_cast<std::uint8_t>(i);
  for (std::int64_t s = 0; s < wanted; ++s) {
    positions[s] = units[s];
    for (std::int64_t e = 0; e < unit; ++e) {
      const std::int64_t at = units[s] * unit + e;
      stored[s * unit + e] = at < room ? codes[at] : Code{0};
    }
  }
}

template <class Code>
inline void compress_line(const CompressJob& job, const Code* codes, const std::uint8_t* mask, Code* stored,
                          std::uint8_t* positions, Counts& counts) {
  const std::int64_t group = job.sparsity.group, kept = job.sparsity.kept, slots = stored_units(job.sparsity);
  for (std::int64_t start = 0; start < job.length; start += group) {
    const std::int64_t room = smaller(group, job.length - start);
    if (room == group && job.sparsity.unit == 1) {
      // Every element is written to the next place; those that are kept move the place on.
      Code codes_here[max_group + 1];
      std::uint8_t places[max_group + 1];
      std::int64_t found = 0;
      for (std::int64_t i = 0; i < group; ++i) {
        codes_here[found] = codes[start + i];
        places[found] = static_cast<std::uint8_t>(i);
        found += mask[start + i] != 0;
      }
      for (std::int64_t i = 0; i < kept; ++i) stored[i] = codes_here[i];
      for (std::int64_t i = 0; i < kept; ++i) positions[i] = places[i];
      if (found != kept) compress_group(job, room, codes + start, mask + start, stored, positions, counts);
    } else {
      compress_group(job, room, codes + start, mask + start, stored, positions, counts);
    }
    stored += kept;
    positions += slots;
  }
}

// 2:4 of bytes, the pattern of today's machines: the mask of a group is four bits, and a table has its positions.
inline void compress_two_of_four(const CompressJob& job, const std::uint8_t* codes, const std::uint8_t* mask,
                                 std::uint8_t* stored, std::uint8_t* positions, Counts& counts) {
  // By mask: the first position and, above it, the second; 0 where the general way is needed.
  static constexpr std::uint8_t pairs[16] = {0, 0, 0, 0x10, 0, 0x20, 0x21, 0, 0, 0x30, 0x31, 0, 0x32, 0, 0, 0};
  const std::int64_t whole = job.length / 4;
  for (std::int64_t g = 0; g < whole; ++g) {
    std::uint32_t flags;
    __builtin_memcpy(&flags, mask + 4 * g, 4);
    // Byte i moves to bit 28 + i; no two terms of the product meet.
    const std::uint8_t pair = pairs[(flags * 0x10204080U) >> 28];
    const std::uint8_t first = pair & 15, second = pair >> 4;
    positions[2 * g] = first;
    positions[2 * g + 1] = second;
    stored[2 * g] = codes[4 * g + first];
    stored[2 * g + 1] = codes[4 * g + second];
    if (pair == 0) compress_group(job, 4, codes + 4 * g, mask + 4 * g, stored + 2 * g, positions + 2 * g, counts);
  }
  if (job.length % 4 != 0)
    compress_group(job, job.length % 4, codes + 4 * whole, mask + 4 * whole, stored + 2 * whole, positions + 2 * whole,
                   counts);
}

template <class Code>
inline void compress_with(const CompressJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  const std::int64_t stored = stored_length(job.sparsity, job.length), slots = stored / job.sparsity.unit;
  for (std::int64_t line = first; line < last; ++line) {
    const auto* codes = static_cast<const Code*>(job.codes) + line * job.length;
    auto* to = static_cast<Code*>(job.stored) + line * stored;
    const std::uint8_t* mask = job.mask + line * job.length;
    std::uint8_t* positions = job.positions + line * slots;
    const bool two_of_four = job.sparsity.kept == 2 && job.sparsity.group == 4 && job.sparsity.unit == 1;
    if (sizeof(Code) == 1 && two_of_four)
      compress_two_of_four(job, reinterpret_cast<const std::uint8_t*>(codes), mask, reinterpret_cast<std::uint8_t*>(to),
                           positions, counts);
    else
      compress_line(job, codes, mask, to, positions, counts);
  }
}

inline void compress_lines(const CompressJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  if (job.code_bytes == 1)
    compress_with<std::uint8_t>(job, first, last, counts);
  else if (job.code_bytes == 2)
    compress_with<std::uint16_t>(job, first, last, counts);
  else
    compress_with<std::uint32_t>(job, first, last, counts);
}

template <class Code>
inline void expand_line(const ExpandJob& job, const Code* stored, const std::uint8_t* positions, Code* codes,
                        std::uint8_t* mask, Counts& counts) {
  const std::int64_t group = job.sparsity.group, unit = job.sparsity.unit;
  const int slots = stored_units(job.sparsity), room = group_units(job.sparsity);
  __builtin_memset(codes, 0, static_cast<std::size_t>(job.length) * sizeof(Code));
  if (mask != nullptr) __builtin_memset(mask, 0, static_cast<std::size_t>(job.length));
  for (std::int64_t start = 0; start < job.length; start += group) {
    const std::int64_t left = job.length - start;
    bool wrong = false, nothing = true;
    int before = -1, largest = 0;
    for (int s = 0; s < slots; ++s) {
      const int place = positions[s];
      wrong |= place <= before || place >= room;
      before = place;
      largest |= place;
      for (std::int64_t e = 0; e < unit; ++e) {
        const std::int64_t at = place * unit + e;
        const Code code = stored[s * unit + e];
        nothing &= code == 0;
        if (at < left && at < group) {
          codes[start + at] = code;
          if (mask != nullptr) mask[start + at] = 1;
        } else {
          wrong |= code != 0;  // beyond the end of the line
        }
      }
    }
    counts.refused += wrong && !(job.repeats && largest == 0 && nothing);
    stored += job.sparsity.kept;
    positions += slots;
  }
}

// 2:4 of bytes: both codes of a group are one word of 16 bits, both positions another, and so the loop is one of
// vectors.
template <bool with_mask>
inline void expand_two_of_four(const ExpandJob& job, const std::uint8_t* stored, const std::uint8_t* positions,
                               std::uint8_t* codes, std::uint8_t* mask, Counts& counts) {
  const auto* pairs = reinterpret_cast<const LooseWord<std::uint16_t>*>(stored);
  const auto* places = reinterpret_cast<const LooseWord<std::uint16_t>*>(positions);
  auto* __restrict to = reinterpret_cast<LooseWord<std::uint32_t>*>(codes);
  auto* __restrict kept = reinterpret_cast<LooseWord<std::uint32_t>*>(mask);
  const std::int64_t whole = job.length / 4;
  const std::uint32_t repeats = job.repeats ? 1 : 0;
  for (std::int64_t start = 0; start < whole; start += counted_in_32_bits) {
    const std::int64_t end = smaller(whole, start + counted_in_32_bits);
    std::uint32_t wrong = 0;
    for (std::int64_t g = start; g < end; ++g) {
      const std::uint32_t place = places[g], pair = pairs[g];
      const std::uint32_t first = place & 255, second = place >> 8;
      const std::uint32_t repeated = (place | pair) == 0 ? repeats : 0;
      wrong += ((first >= second) | (second > 3) ? 1 : 0) & ~repeated;
      // Of places that are none, something within the group is written.
      to[g] = moved_by_bytes(pair & 255, first) | moved_by_bytes(pair >> 8, second);
      if constexpr (with_mask) kept[g] = moved_by_bytes(1, first) | moved_by_bytes(1, second);
    }
    counts.refused += wrong;
  }
  if (job.length % 4 == 0) return;
  ExpandJob last = job;
  last.length = job.length % 4;
  expand_line(last, stored + 2 * whole, positions + 2 * whole, codes + 4 * whole,
              with_mask ? mask + 4 * whole : nullptr, counts);
}

template <class Code>
inline void expand_with(const ExpandJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  const std::int64_t stored = stored_length(job.sparsity, job.length), slots = stored / job.sparsity.unit;
  const bool two_of_four = job.sparsity.kept == 2 && job.sparsity.group == 4 && job.sparsity.unit == 1;
  for (std::int64_t line = first; line < last; ++line) {
    const auto* from = static_cast<const Code*>(job.stored) + line * stored;
    auto* codes = static_cast<Code*>(job.codes) + line * job.length;
    const std::uint8_t* positions = job.positions + line * slots;
    std::uint8_t* mask = job.mask == nullptr ? nullptr : job.mask + line * job.length;
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(from);
    auto* to = reinterpret_cast<std::uint8_t*>(codes);
    if (sizeof(Code) != 1 || !two_of_four)
      expand_line(job, from, positions, codes, mask, counts);
    else if (mask != nullptr)
      expand_two_of_four<true>(job, bytes, positions, to, mask, counts);
    else
      expand_two_of_four<false>(job, bytes, positions, to, mask, counts);
  }
}

inline void expand_lines(const ExpandJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  if (job.code_bytes == 1)
    expand_with<std::uint8_t>(job, first, last, counts);
  else if (job.code_bytes == 2)
    expand_with<std::uint16_t>(job, first, last, counts);
  else
    expand_with<std::uint32_t>(job, first, last, counts);
}

// Bits of a byte that item `index` of those that share it lies above.
inline int place_in_byte(const PackJob& job, std::int64_t index) {
  const int room = 8 / job.container_bits, at = static_cast<int>(index % room);
  return (job.from_top ? room - 1 - at : at) * job.container_bits;
}

// One run of n items; `to` is zero.
template <class Item>
inline void pack_run(const PackJob& job, const Item* items, std::int64_t n, std::uint8_t* to) {
  const int container = job.container_bits, shift = job.shift;
  if (container == static_cast<int>(8 * sizeof(Item)) && shift == 0) {
    __builtin_memcpy(to, items, static_cast<std::size_t>(n) * sizeof(Item));
    return;
  }
  std::int64_t done = 0;
  if (container == 4 && shift == 0) {
    const int low = job.from_top ? 4 : 0;
    for (std::int64_t i = 0; i < n / 2; ++i)
      to[i] = static_cast<std::uint8_t>(items[2 * i] << low | items[2 * i + 1] << (4 - low));
    done = n / 2 * 2;
  } else if (container == 2 && shift == 0 && !job.from_top) {
    for (std::int64_t i = 0; i < n / 4; ++i)
      to[i] = static_cast<std::uint8_t>(items[4 * i] | items[4 * i + 1] << 2 | items[4 * i + 2] << 4 |
                                        items[4 * i + 3] << 6);
    done = n / 4 * 4;
  } else if (container < 8 && !job.from_top) {
    // Eight items are as many bytes as one has bits.
    for (; done + 8 <= n; done += 8) {
      std::uint64_t word = 0;
      for (int j = 0; j < 8; ++j) word |= static_cast<std::uint64_t>(items[done + j]) << (j * container + shift);
      __builtin_memcpy(to + done / 8 * container, &word, static_cast<std::size_t>(container));
    }
  }
  for (; done < n; ++done) {
    if (job.from_top) {
      to[done * container / 8] |= static_cast<std::uint8_t>(items[done] << shift << place_in_byte(job, done));
      continue;
    }
    const std::int64_t bit = done * container;
    std::uint64_t word = static_cast<std::uint64_t>(items[done]) << shift << (bit % 8);
    for (std::int64_t at = bit / 8; word != 0; word >>= 8) to[at++] |= static_cast<std::uint8_t>(word);
  }
}

template <class Item>
inline void pack_with(const PackJob& job, std::int64_t first, std::int64_t last) {
  const std::int64_t bytes = line_bytes(job);
  for (std::int64_t line = first; line < last; ++line) {
    const auto* items = static_cast<const Item*>(job.items) + line * job.length;
    std::uint8_t* to = job.bytes + line * bytes;
    __builtin_memset(to, 0, static_cast<std::size_t>(bytes));
    for (std::int64_t done = 0; done < job.length; done += job.run, to += job.run_bytes)
      pack_run(job, items + done, smaller(job.run, job.length - done), to);
  }
}

inline void pack_lines(const PackJob& job, std::int64_t first, std::int64_t last) {
  if (job.item_bytes == 1)
    pack_with<std::uint8_t>(job, first, last);
  else if (job.item_bytes == 2)
    pack_with<std::uint16_t>(job, first, last);
  else
    pack_with<std::uint32_t>(job, first, last);
}

// The items of a run. What a container holds beside an item is counted, and what lies behind the last one.
template <class Item>
inline void unpack_run(const PackJob& job, const std::uint8_t* from, std::int64_t n, Item* items, Counts& counts) {
  const int container = job.container_bits, shift = job.shift;
  const std::uint64_t mask = (std::uint64_t{1} << job.item_bits) - 1;
  const std::uint64_t all = (std::uint64_t{1} << container) - 1;
  std::uint64_t beside = 0;
  std::int64_t done = 0;
  if (container == static_cast<int>(8 * sizeof(Item)) && shift == 0) {
    __builtin_memcpy(items, from, static_cast<std::size_t>(n) * sizeof(Item));
    for (; done < n; ++done) beside |= items[done] & ~mask;
  } else if (container == 4 && shift == 0) {
    const int low = job.from_top ? 4 : 0;
    for (std::int64_t i = 0; i < n / 2; ++i) {
      items[2 * i] = static_cast<Item>(from[i] >> low & 15);
      items[2 * i + 1] = static_cast<Item>(from[i] >> (4 - low) & 15);
    }
    done = n / 2 * 2;
    for (std::int64_t i = 0; i < done; ++i) beside |= items[i] & ~mask;
  } else if (container == 2 && shift == 0 && job.item_bits == 2 && !job.from_top) {
    for (std::int64_t i = 0; i < n / 4; ++i)
      for (int j = 0; j < 4; ++j) items[4 * i + j] = static_cast<Item>(from[i] >> (2 * j) & 3);
    done = n / 4 * 4;
  } else if (container < 8 && !job.from_top) {
    for (; done + 8 <= n; done += 8) {
      std::uint64_t word = 0;
      __builtin_memcpy(&word, from + done / 8 * container, static_cast<std::size_t>(container));
      for (int j = 0; j < 8; ++j) {
        const std::uint64_t field = word >> (j * container) & all;
        items[done + j] = static_cast<Item>(field >> shift & mask);
        beside |= field & ~(mask << shift);
      }
    }
  }
  for (; done < n; ++done) {
    std::uint64_t field = 0;
    if (job.from_top) {
      field = static_cast<std::uint64_t>(from[done * container / 8]) >> place_in_byte(job, done) & all;
    } else {
      const std::int64_t bit = done * container, end = (bit + container + 7) / 8;
      for (std::int64_t at = end - 1; at >= bit / 8; --at) field = field << 8 | from[at];
      field = field >> (bit % 8) & all;
    }
    items[done] = static_cast<Item>(field >> shift & mask);
    beside |= field & ~(mask << shift);
  }
  // Bits of the last byte, and whole bytes.
  const std::int64_t bits = n * container;
  std::int64_t behind = bits / 8;
  if (bits % 8 != 0) {
    const int used = static_cast<int>(bits % 8);
    beside |= job.from_top ? from[behind] & (255U >> used) : static_cast<std::uint64_t>(from[behind]) >> used;
    ++behind;
  }
  for (; behind < job.run_bytes; ++behind) beside |= from[behind];
  counts.refused += beside != 0;
}

template <class Item>
inline void unpack_with(const PackJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  const std::int64_t bytes = line_bytes(job);
  for (std::int64_t line = first; line < last; ++line) {
    auto* items = static_cast<Item*>(job.items) + line * job.length;
    const std::uint8_t* from = job.bytes + line * bytes;
    for (std::int64_t done = 0; done < job.length; done += job.run, from += job.run_bytes)
      unpack_run(job, from, smaller(job.run, job.length - done), items + done, counts);
  }
}

inline void unpack_lines(const PackJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  if (job.item_bytes == 1)
    unpack_with<std::uint8_t>(job, first, last, counts);
  else if (job.item_bytes == 2)
    unpack_with<std::uint16_t>(job, first, last, counts);
  else
    unpack_with<std::uint32_t>(job, first, last, counts);
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
