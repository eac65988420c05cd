// Matrix products on a described datapath. Functions return an empty string, or what is wrong.
#pragma once

#include <string>
#include <vector>

#include "../kernel_table.h"
#include "../reference/counts.h"

namespace sparq::ops {

// One side of a product as its owner holds it: rows of K codes; scales per own segment of K, per row, or one.
struct Side {
  const void* codes = nullptr;
  ElementFormat element;
  std::vector<std::int64_t> segment_end;  // own segments of K, ascending, the last is K; empty without such scales
  bool has_block_scales = false;
  ElementFormat scale;                  // of the block scales, powers of two
  const void* block_scales = nullptr;   // codes [rows, segment_end.size()]
  const float* float_scales = nullptr;  // [rows, segment_end.size()]
  bool has_tensor_scale = false;
  double tensor_scale = 1;  // a float32 number
};

struct MultiplyRequest {
  Datapath path;
  Side a, b;
  // `groups` products of [m, k] by [n, k], one after the other in the operands' rows and side by side in the result.
  std::int64_t groups = 1, m = 0, n = 0, k = 0;
  const float* c = nullptr;     // [m, groups * n] or null
  const float* bias = nullptr;  // [groups * n] or null
  float* d = nullptr;           // [m, groups * n]
  int threads = 0;
  // Where not null the reference multiplies, and adds what happened to counts[0], or with `counts_each` to the item of
  // each d.
  reference::DotCounts* counts = nullptr;
  bool counts_each = false;
};

std::string check_datapath(const Datapath& path);

// Whether a machine takes operands of these elements and scales, before there is any data.
std::string check_operands(const Datapath& path, const ElementFormat& a, const ElementFormat& b, bool block_scales);

std::string multiply(const MultiplyRequest& request);

}  // namespace sparq::ops
