// Rows of any float type to carrier bits, exactly, and back.
#pragma once

#include "round.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

inline std::uint32_t widen_half(std::uint32_t h) {
  const std::uint32_t magnitude = h & 0x7FFF;
  // A subnormal is an integer times 2^-24; conversion and product are exact.
  const std::uint32_t subnormal =
      as_bits<Carrier32>(static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f);
  const std::uint32_t offset = magnitude >= 0x7C00 ? std::uint32_t{255 - 31} << 23 : std::uint32_t{127 - 15} << 23;
  // Masks, because a choice that skips floating-point operations would not be vectorised.
  const std::uint32_t small = magnitude < 0x0400 ? ~std::uint32_t{0} : 0;
  return (subnormal & small) | (((magnitude << 13) + offset) & ~small) | (h & 0x8000) << 16;
}

template <class C>
inline typename C::Bits from_float(float value) {
  return as_bits<C>(static_cast<typename C::Value>(value));
}

// `count` elements, `step` apart, to contiguous carrier bits. float64 into float32 bits rounds to nearest even.
template <class C>
inline void load_row(const void* source, FloatType type, std::int64_t step, std::int64_t count,
                     typename C::Bits* __restrict to) {
  switch (type) {
    case FloatType::fp32: {
      const auto* from = static_cast<const float*>(source);
      for (std::int64_t i = 0; i < count; ++i) to[i] = from_float<C>(from[i * step]);
      return;
    }
    case FloatType::fp64: {
      const auto* from = static_cast<const double*>(source);
      for (std::int64_t i = 0; i < count; ++i) to[i] = as_bits<C>(static_cast<typename C::Value>(from[i * step]));
      return;
    }
    case FloatType::bf16: {
      const auto* from = static_cast<const std::uint16_t*>(source);
      for (std::int64_t i = 0; i < count; ++i)
        to[i] = from_float<C>(as_value<Carrier32>(static_cast<std::uint32_t>(from[i * step]) << 16));
      return;
    }
    case FloatType::fp16: {
      const auto* from = static_cast<const std::uint16_t*>(source);
      for (std::int64_t i = 0; i < count; ++i) to[i] = from_float<C>(as_value<Carrier32>(widen_half(from[i * step])));
      return;
    }
  }
}

// Rounds carrier bits to a narrower IEEE type, nearest even. Returns how many values lost bits or overflowed.
template <class C>
inline std::int64_t narrow_row(const typename C::Bits* __restrict from, std::int64_t count, int exponent_bits,
                               int mantissa_bits, std::uint32_t* __restrict to) {
  using Bits = typename C::Bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const Bits infinity = static_cast<Bits>((1 << exponent_bits) - 1) << mantissa_bits;
  const Bits quiet = infinity | Bits{1} << (mantissa_bits - 1);
  const int sign_shift = C::width - 1 - (exponent_bits + mantissa_bits);
  const Bits min_power = static_cast<Bits>(1 - bias + C::bias) << C::mantissa;
  const Bits limit = static_cast<Bits>(1 + bias + C::bias) << C::mantissa;  // where Inf begins
  constexpr ChanceRule unused{};
  const FixedPrecision<C> precision(mantissa_bits);
  Bits lost = 0;
  const auto put = [=, &lost](std::int64_t i, Bits magnitude, Bits rounded, Bits code) {
    const bool changed = (rounded != magnitude) | (code == infinity);
    lost += (magnitude < infinity_bits<C>)&changed ? 1 : 0;
    code = magnitude > infinity_bits<C> ? quiet : code;
    to[i] = static_cast<std::uint32_t>(code | (from[i] & sign_mask<C>) >> sign_shift);
  };
  if (C::bias == bias) {  // float32 to bfloat16: the subnormals are shared
    for (std::int64_t i = 0; i < count; ++i) {
      const Bits magnitude = from[i] & ~sign_mask<C>;
      const Bits rounded = aligned_value<C, Round::nearest_even>(magnitude, mantissa_bits, 0, unused, 0);
      put(i, magnitude, rounded, rounded >> (C::mantissa - mantissa_bits));
    }
  } else {
    for (std::int64_t i = 0; i < count; ++i) {
      const Bits magnitude = from[i] & ~sign_mask<C>;
      const Bits within = smaller_magnitude<C>(magnitude, limit);
      const Rounded<C> r = round_magnitude<C, Round::nearest_even>(within, min_power, precision, 0, unused, 0);
      put(i, magnitude, rounded_value<C>(r), rounded_code<C>(r, min_power, mantissa_bits));
    }
  }
  return static_cast<std::int64_t>(lost);
}

// Whether float32 bits are bfloat16 as they are: nothing to round, and every NaN the one that is written.
inline bool has_bf16_bits(const std::uint32_t* bits, std::int64_t count) {
  std::uint32_t others = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t magnitude = bits[i] & ~sign_mask<Carrier32>;
    const bool other_nan = (magnitude > infinity_bits<Carrier32>)&(magnitude != nan_bits<Carrier32>);
    others |= (bits[i] & 0xFFFF) | (other_nan ? 1U : 0U);
  }
  return others == 0;
}

// Contiguous carrier bits to `count` elements, `step` apart. Returns how many were inexact.
template <class C>
inline std::int64_t store_row(const typename C::Bits* from, std::int64_t count, void* target, FloatType type,
                              std::int64_t step) {
  if constexpr (C::width == 32) {
    if (type == FloatType::fp32) {
      auto* to = static_cast<std::uint32_t*>(target);
      if (static_cast<const void*>(to) == from) return 0;
      for (std::int64_t i = 0; i < count; ++i) to[i * step] = from[i];
      return 0;
    }
  }
  if (type == FloatType::fp64) {
    auto* to = static_cast<double*>(target);
    for (std::int64_t i = 0; i < count; ++i) to[i * step] = static_cast<double>(as_value<C>(from[i]));
    return 0;
  }
  constexpr std::int64_t chunk = 256;
  std::uint32_t codes[chunk];
  std::int64_t inexact = 0;
  for (std::int64_t done = 0; done < count; done += chunk) {
    const std::int64_t n = smaller(chunk, count - done);
    if constexpr (C::width == 32) {
      if (type == FloatType::bf16 && step == 1 && has_bf16_bits(from + done, n)) {
        auto* to = static_cast<std::uint16_t*>(target) + done;
        for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<std::uint16_t>(from[done + i] >> 16);
        continue;
      }
    }
    if (type == FloatType::fp32) {
      inexact += narrow_row<C>(from + done, n, 8, 23, codes);
      auto* to = static_cast<std::uint32_t*>(target) + done * step;
      for (std::int64_t i = 0; i < n; ++i) to[i * step] = codes[i];
    } else {
      inexact += type == FloatType::bf16 ? narrow_row<C>(from + done, n, 8, 7, codes)
                                         : narrow_row<C>(from + done, n, 5, 10, codes);
      auto* to = static_cast<std::uint16_t*>(target) + done * step;
      for (std::int64_t i = 0; i < n; ++i) to[i * step] = static_cast<std::uint16_t>(codes[i]);
    }
  }
  return inexact;
}

inline void store_codes(const std::uint32_t* from, std::int64_t count, void* target, int code_bytes,
                        std::int64_t step) {
  if (code_bytes == 1) {
    auto* to = static_cast<std::uint8_t*>(target);
    for (std::int64_t i = 0; i < count; ++i) to[i * step] = static_cast<std::uint8_t>(from[i]);
  } else if (code_bytes == 2) {
    auto* to = static_cast<std::uint16_t*>(target);
    for (std::int64_t i = 0; i < count; ++i) to[i * step] = static_cast<std::uint16_t>(from[i]);
  } else {
    auto* to = static_cast<std::uint32_t*>(target);
    for (std::int64_t i = 0; i < count; ++i) to[i * step] = from[i];
  }
}

inline std::uint32_t load_code(const void* source, int code_bytes, std::int64_t index) {
  if (code_bytes == 1) return static_cast<const std::uint8_t*>(source)[index];
  if (code_bytes == 2) return static_cast<const std::uint16_t*>(source)[index];
  return static_cast<const std::uint32_t*>(source)[index];
}

struct Tile {
  std::int64_t batch, first_line, lines, first_element, length;
};

inline Tile tile_at(const Geometry& g, std::int64_t index) {
  const TilePlace p = place_of_tile(g, index);
  return {p.batch, p.line, smaller(g.tile_lines, g.lines - p.line), p.element,
          smaller(g.tile_length, g.length - p.element)};
}

inline std::int64_t element_offset(const Geometry& g, const Tile& t, std::int64_t line) {
  return t.batch * g.batch_stride + (t.first_line + line) * g.line_stride + t.first_element * g.step;
}

inline const void* advance(const void* p, std::int64_t bytes) { return static_cast<const char*>(p) + bytes; }
inline void* advance(void* p, std::int64_t bytes) { return static_cast<char*>(p) + bytes; }

// All lines of a tile into contiguous rows. With a step between elements the lines are neighbours in memory, so
// the loop over lines is the inner one.
template <class C>
inline void load_tile(const Geometry& g, const Tile& t, const void* input, FloatType type, typename C::Bits* rows) {
  const int size = bytes_of(type);
  if (g.step == 1) {
    for (std::int64_t l = 0; l < t.lines; ++l)
      load_row<C>(advance(input, element_offset(g, t, l) * size), type, 1, t.length, rows + l * t.length);
    return;
  }
  typename C::Bits across[tile_capacity];
  for (std::int64_t k = 0; k < t.length; ++k) {
    const void* from = advance(input, (element_offset(g, t, 0) + k * g.step) * size);
    load_row<C>(from, type, g.line_stride, t.lines, across);
    for (std::int64_t l = 0; l < t.lines; ++l) rows[l * t.length + k] = across[l];
  }
}

// The way back. Returns how many values were inexact.
template <class C>
inline std::int64_t store_tile(const Geometry& g, const Tile& t, const typename C::Bits* rows, void* values,
                               FloatType type) {
  const int size = bytes_of(type);
  std::int64_t inexact = 0;
  if (g.step == 1) {
    for (std::int64_t l = 0; l < t.lines; ++l)
      inexact += store_row<C>(rows + l * t.length, t.length, advance(values, element_offset(g, t, l) * size), type, 1);
    return inexact;
  }
  typename C::Bits across[tile_capacity];
  for (std::int64_t k = 0; k < t.length; ++k) {
    for (std::int64_t l = 0; l < t.lines; ++l) across[l] = rows[l * t.length + k];
    void* to = advance(values, (element_offset(g, t, 0) + k * g.step) * size);
    inexact += store_row<C>(across, t.lines, to, type, g.line_stride);
  }
  return inexact;
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
