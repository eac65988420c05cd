// Quantization, decoding and sparsification of whole tensors. Functions return an empty string, or what is wrong.
#pragma once

#include <cstdint>
#include <string>

#include "../kernel_table.h"

namespace sparq::ops {

// A tensor in C order seen along its reduction axis: element (o, k, i) lies at (o * length + k) * inner + i.
struct Shape {
  std::int64_t outer = 0, length = 0, inner = 1;

  std::int64_t size() const { return outer * length * inner; }
};

// Elements of a line under one scale, and scales of a line; 1 for a scale per line or tensor.
std::int64_t block_length(const BlockFormat& format, std::int64_t length);
std::int64_t blocks_per_line(const BlockFormat& format, std::int64_t length);
ScaleKind scale_kind(const BlockFormat& format);

// Scales of a whole tensor.
std::int64_t scale_count(const BlockFormat& format, const Shape& shape);

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
  void* codes = nullptr;   // code_bytes(element) each
  void* scales = nullptr;  // code_bytes(scale) each; read when scales_given
  bool scales_given = false;
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
  const void* scales = nullptr;
  void* values = nullptr;
  FloatType values_type = FloatType::fp32;
  int threads = 0;
};

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
