// How a tensor is cut into tiles.
#pragma once

#include "encode.h"

namespace sparq::ops {

std::int64_t round_up(std::int64_t value, std::int64_t unit);

// The largest divisor of `value` up to `limit`.
std::int64_t largest_divisor(std::int64_t value, std::int64_t limit);

std::int64_t tile_count(const Geometry& g);

// Lines, strides and tiles. A tile's length is a multiple of `align` unless it is a whole line.
Geometry make_geometry(const Shape& shape, std::int64_t block, std::int64_t blocks, bool one_scale, std::int64_t align);

}  // namespace sparq::ops
