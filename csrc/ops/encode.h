// Quantization, decoding and sparsification of whole tensors. Functions return an empty string, or what is wrong.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "../kernel_table.h"

namespace sparq::ops {

// A tensor in C order seen along its reduction axis: element (o, k, i) lies at (o * length + k) * inner + i. Blocks
// that span lines need inner == 1 and `rows`, which divides outer: they span neighbours among that many lines.
struct Shape {
  std::int64_t outer = 0, length = 0, inner = 1, rows = 0;

  std::int64_t size() const { return outer * length * inner; }
};

// Of the main level.
ScaleKind scale_kind(const BlockFormat& format);

// Scales of a level for a whole tensor.
std::int64_t scale_count(const ScaleLevel& level, const Shape& shape);

// A buffer per level, outermost first.
struct LevelScales {
  void* data = nullptr;  // code_bytes(level) each; may be null
  bool given = false;    // read, else written
};
using Scales = std::array<LevelScales, max_levels>;

// What cannot be encoded or decoded, and why.
std::string check_element(const ElementFormat& element);
std::string check_format(const BlockFormat& format);
std::string check_conversion(const BlockFormat& format, const Conversion& conversion);
std::string check_sparsity(const Sparsity& sparsity);

struct EncodeRequest {
  BlockFormat format;
  Conversion conversion;
  Sparsity sparsity;
  Order order = Order::sparsify_first;
  Shape shape;
  const void* input = nullptr;
  FloatType input_type = FloatType::fp32;
  void* values = nullptr;  // any of the outputs may be null
  FloatType values_type = FloatType::fp32;
  void* codes = nullptr;  // code_bytes(element) each
  Scales scales;
  const std::uint8_t* mask_in = nullptr;
  std::uint8_t* mask_out = nullptr;
  bool count = false;
  bool has_random = false;                // stochastic rounding: either of the next two
  const std::uint32_t* random = nullptr;  // below 2^random_bits, one per element
  Philox philox;
  int threads = 0;
};

std::string encode(const EncodeRequest& request, Counts& counts);

struct DecodeRequest {
  BlockFormat format;
  Shape shape;
  const void* codes = nullptr;
  Scales scales;  // all given
  void* values = nullptr;
  FloatType values_type = FloatType::fp32;
  int threads = 0;
};

std::string check_decode(const DecodeRequest& request);
DecodeJob decode_job(const DecodeRequest& request);  // of a request that was checked
std::string decode(const DecodeRequest& request, Counts& counts);

struct SparsifyRequest {
  Sparsity sparsity;
  Shape shape;
  const void* input = nullptr;  // the tensor, or its score
  FloatType input_type = FloatType::fp32;
  bool by_score = false;
  std::uint8_t* mask_out = nullptr;
  bool count = false;
  int threads = 0;
};

std::string sparsify(const SparsifyRequest& request, Counts& counts);

}  // namespace sparq::ops
