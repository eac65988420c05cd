// How a tensor is cut into tiles.
#pragma once

#include "encode.h"

namespace sparq::ops {

std::int64_t round_up(std::int64_t value, std::int64_t unit);

// The largest divisor of `value` up to `limit`.
std::int64_t largest_divisor(std::int64_t value, std::int64_t limit);

std::int64_t tile_count(const Geometry& g);

// Lines, strides and tiles; `block` elements of a line share a main scale. A tile's length is a multiple of `align`
// unless it is a whole line.
Geometry make_geometry(const Shape& shape, std::int64_t block, std::int64_t align);

// Elements of a line under one scale of a level, such scales along a line, and lines that have scales of their own.
std::int64_t block_length(const ScaleLevel& level, std::int64_t length);
std::int64_t blocks_per_line(const ScaleLevel& level, std::int64_t length);
std::int64_t scale_lines(const ScaleLevel& level, const Shape& shape);

// Scales of a level in the geometry of a shape, in the order [lines, blocks, inner].
ScalePlane make_plane(const ScaleLevel& level, const Shape& shape, void* data, bool given);

}  // namespace sparq::ops
