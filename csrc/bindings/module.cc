// The extension module: arrays become pointers, error texts become exceptions. Arguments other than the records are
// checked in Python, which knows what the user called things.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "../describe.h"
#include "../dispatch.h"
#include "../ops/encode.h"
#include "../ops/fused.h"
#include "../ops/guard.h"
#include "../ops/multiply.h"
#include "arrays.h"
#include "records.h"
#include "storage.h"

namespace py = pybind11;

namespace sparq::bindings {
namespace {

Order order_of(const std::string& word) {
  for (const auto& w : Words<Order>::list)
    if (word == w.word) return w.value;
  throw py::value_error("order='" + word + "': choose sparsify_first or quantize_first");
}

py::dict encode(const py::array& x, const std::string& x_type, const Extents& shape, std::int64_t rows,
                const BlockFormat& format, const Conversion& conversion, const std::optional<Sparsity>& sparsity,
                const std::string& order, Array values, const std::string& values_type, Array codes,
                std::vector<Array> scales, const std::vector<bool>& scales_given, const Array& mask_in, Array mask_out,
                bool count, const Array& random, const std::optional<std::array<std::uint64_t, 3>>& philox,
                int threads) {
  ops::EncodeRequest r;
  r.format = format;
  r.conversion = conversion;
  r.sparsity = sparsity.value_or(Sparsity{});
  r.order = order_of(order);
  r.shape = shape_of(shape, rows);
  const NamedFloat& from = float_type(x_type);
  const NamedFloat& to = float_type(values_type);
  const std::int64_t size = r.shape.size();
  require_bytes(x, "x", size, from.bytes);
  require_bytes(values, "values", size, to.bytes);
  require_bytes(codes, "codes", size, code_bytes(format.element));
  require_bytes(mask_in, "mask_in", size, 1);
  require_bytes(mask_out, "mask_out", size, 1);
  r.scales = scales_of(format, r.shape, scales, scales_given);
  r.input = x.data();
  r.input_type = from.type;
  r.values = write_pointer(values);
  r.values_type = to.type;
  r.codes = write_pointer(codes);
  r.mask_in = static_cast<const std::uint8_t*>(read_pointer(mask_in));
  r.mask_out = static_cast<std::uint8_t*>(write_pointer(mask_out));
  r.count = count;
  r.threads = threads;
  require_bytes(random, "random", size, 4);
  r.has_random = random.has_value() || philox.has_value();
  r.random = static_cast<const std::uint32_t*>(read_pointer(random));
  if (philox) r.philox = {(*philox)[0], (*philox)[1], (*philox)[2]};
  Counts counts;
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::encode(r, counts);
  }
  require_ok(error);
  return counts_dict(counts);
}

py::dict decode(const py::array& codes, std::vector<Array> scales, const Extents& shape, std::int64_t rows,
                const BlockFormat& format, py::array values, const std::string& values_type, int threads) {
  ops::DecodeRequest r;
  r.format = format;
  r.shape = shape_of(shape, rows);
  const NamedFloat& to = float_type(values_type);
  require_bytes(codes, "codes", r.shape.size(), code_bytes(format.element));
  require_bytes(values, "values", r.shape.size(), to.bytes);
  r.scales = scales_of(format, r.shape, scales, std::vector<bool>(scales.size(), true));
  r.codes = codes.data();
  r.values = values.mutable_data();
  r.values_type = to.type;
  r.threads = threads;
  Counts counts;
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::decode(r, counts);
  }
  require_ok(error);
  return counts_dict(counts);
}

py::dict sparsify(const py::array& x, const std::string& x_type, const Extents& shape, const Sparsity& sparsity,
                  bool by_score, py::array mask_out, bool count, int threads) {
  ops::SparsifyRequest r;
  r.sparsity = sparsity;
  r.shape = shape_of(shape);
  const NamedFloat& from = float_type(x_type);
  require_bytes(x, "x", r.shape.size(), from.bytes);
  require_bytes(mask_out, "mask_out", r.shape.size(), 1);
  r.input = x.data();
  r.input_type = from.type;
  r.by_score = by_score;
  r.mask_out = static_cast<std::uint8_t*>(mask_out.mutable_data());
  r.count = count;
  r.threads = threads;
  Counts counts;
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::sparsify(r, counts);
  }
  require_ok(error);
  return counts_dict(counts);
}

// One operand of a product, filled from Python by keyword.
struct SideArrays {
  py::array codes;
  ElementFormat element;
  std::optional<ElementFormat> scale;
  Array block_scales;
  std::vector<std::int64_t> segment_end;
  Array float_scales;
  std::optional<double> tensor_scale;

  ops::Side side(std::int64_t rows, std::int64_t k) const {
    const auto segments = rows * static_cast<std::int64_t>(segment_end.size());
    require_bytes(codes, "codes", rows * k, code_bytes(element));
    if (k > 0) {  // else no scale is read
      require_bytes(float_scales, "float_scales", segments, 4);
      if (scale) require_bytes(block_scales, "block_scales", segments, code_bytes(*scale));
    }
    ops::Side s;
    s.codes = codes.data();
    s.element = element;
    s.has_block_scales = block_scales.has_value();
    if (scale) s.scale = *scale;
    s.block_scales = read_pointer(block_scales);
    s.segment_end = segment_end;
    s.float_scales = static_cast<const float*>(read_pointer(float_scales));
    s.has_tensor_scale = tensor_scale.has_value();
    s.tensor_scale = tensor_scale.value_or(1.0);
    return s;
  }
};

void multiply(const Datapath& path, const SideArrays& a, const SideArrays& b, std::int64_t groups, const Extents& mnk,
              const Array& c, const Array& bias, py::array d, Array counts, int threads) {
  ops::MultiplyRequest r;
  r.path = path;
  shape_of({groups, mnk[0], mnk[2]});
  shape_of({groups, mnk[1], mnk[2]});
  shape_of({groups, mnk[0], mnk[1]});
  r.groups = groups;
  r.m = mnk[0];
  r.n = mnk[1];
  r.k = mnk[2];
  r.a = a.side(groups * r.m, r.k);
  r.b = b.side(groups * r.n, r.k);
  require_bytes(c, "c", r.m * groups * r.n, 4);
  require_bytes(bias, "bias", groups * r.n, 4);
  require_bytes(d, "d", r.m * groups * r.n, 4);
  r.c = static_cast<const float*>(read_pointer(c));
  r.bias = static_cast<const float*>(read_pointer(bias));
  r.d = static_cast<float*>(d.mutable_data());
  if (counts) {  // int64 [4], or [4] of each d
    r.counts_each = counts->ndim() > 1;
    const std::int64_t items = r.counts_each ? r.m * groups * r.n : 1;
    static_assert(sizeof(reference::DotCounts) == 32);
    require_bytes(counts, "counts", items, 32);
    r.counts = static_cast<reference::DotCounts*>(write_pointer(counts));
  }
  r.threads = threads;
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::multiply(r);
  }
  require_ok(error);
}

// A float32 matrix [m, n], or one whose extents of 1 stand for all rows or columns.
ops::Strided strided(const py::array& array, const char* name, std::int64_t m, std::int64_t n) {
  const bool fits = array.ndim() == 2 && array.itemsize() == 4 && (array.shape(0) == m || array.shape(0) == 1) &&
                    (array.shape(1) == n || array.shape(1) == 1) && (array.flags() & py::array::c_style) != 0;
  if (!fits) throw py::value_error(std::string(name) + ": needed contiguous float32 [m or 1, n or 1]");
  return {static_cast<const float*>(array.data()), array.shape(0) == 1 ? 0 : array.shape(1),
          array.shape(1) == 1 ? 0 : 1};
}

void fused_multiply_add(const py::array& x, const py::array& y, const py::array& z, py::array d, std::uint32_t nan_bits,
                        int threads) {
  if (d.ndim() != 2) throw py::value_error("d: needed [m, n]");
  ops::FusedRequest r;
  r.m = d.shape(0);
  r.n = d.shape(1);
  require_bytes(d, "d", r.m * r.n, 4);
  r.x = strided(x, "x", r.m, r.n);
  r.y = strided(y, "y", r.m, r.n);
  r.z = strided(z, "z", r.m, r.n);
  r.d = static_cast<float*>(d.mutable_data());
  r.nan_bits = nan_bits;
  r.threads = threads;
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::fused_multiply_add(r);
  }
  require_ok(error);
}

std::string active_isa() {
  std::string error;
  const KernelTable* table = active_table(error);
  require_ok(error);
  return table->name;
}

void check_spec(const BlockFormat& format, const Conversion& conversion, const std::optional<Sparsity>& sparsity) {
  require_ok(ops::check_format(format));
  require_ok(ops::check_conversion(format, conversion));
  require_ok(ops::check_sparsity(sparsity.value_or(Sparsity{})));
}

void check_operands(const Datapath& path, const ElementFormat& a, const ElementFormat& b, bool block_scales) {
  require_ok(ops::check_datapath(path));
  require_ok(ops::check_operands(path, a, b, block_scales));
}

}  // namespace
}  // namespace sparq::bindings

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  using namespace sparq::bindings;
  m.doc() = "The C++ core of sparq_sim. Private: use the names of sparq_sim.";
  bind_records(m);
  bind_catalog(m);
  bind_storage(m);
  py::class_<SideArrays>(m, "Side").def(
      py::init([](py::array codes, const sparq::ElementFormat& element, std::optional<sparq::ElementFormat> scale,
                  Array block_scales, std::vector<std::int64_t> segment_end, Array float_scales,
                  std::optional<double> tensor_scale) {
        return SideArrays{std::move(codes),        element,     scale, std::move(block_scales), std::move(segment_end),
                          std::move(float_scales), tensor_scale};
      }),
      py::arg("codes"), py::arg("element"), py::kw_only(), py::arg("scale") = py::none(),
      py::arg("block_scales") = py::none(), py::arg("segment_end") = std::vector<std::int64_t>{},
      py::arg("float_scales") = py::none(), py::arg("tensor_scale") = py::none());
  m.def("available_isas", &sparq::available_isas);
  m.def("active_isa", &active_isa);
  m.def("check_spec", &check_spec);
  m.def("check_datapath", [](const sparq::Datapath& path) { require_ok(sparq::ops::check_datapath(path)); });
  m.def("check_operands", &check_operands);
  m.def("encode", &encode, py::kw_only(), py::arg("x"), py::arg("x_type"), py::arg("shape"), py::arg("rows"),
        py::arg("format"), py::arg("conversion"), py::arg("sparsity"), py::arg("order"), py::arg("values"),
        py::arg("values_type"), py::arg("codes"), py::arg("scales"), py::arg("scales_given"), py::arg("mask_in"),
        py::arg("mask_out"), py::arg("count"), py::arg("random"), py::arg("philox"), py::arg("threads"));
  m.def("philox", [](std::uint64_t seed, std::uint64_t stream, std::uint64_t offset, std::int64_t count) {
    py::array_t<std::uint32_t> words(count);
    const sparq::Philox generator{seed, stream, offset};
    std::uint32_t* to = words.mutable_data();
    for (std::int64_t i = 0; i < count; ++i) to[i] = sparq::philox_word(generator, static_cast<std::uint64_t>(i));
    return words;
  });
  m.def("shift_register", [](std::uint32_t state, std::int64_t count) {
    py::array_t<std::uint32_t> words(count);
    std::uint32_t* to = words.mutable_data();
    for (std::int64_t i = 0; i < count; ++i) to[i] = state = sparq::shift_register_step(state);
    return words;
  });
  m.def("decode", &decode, py::kw_only(), py::arg("codes"), py::arg("scales"), py::arg("shape"), py::arg("rows"),
        py::arg("format"), py::arg("values"), py::arg("values_type"), py::arg("threads"));
  m.def("sparsify", &sparsify, py::kw_only(), py::arg("x"), py::arg("x_type"), py::arg("shape"), py::arg("sparsity"),
        py::arg("by_score"), py::arg("mask_out"), py::arg("count"), py::arg("threads"));
  m.def("multiply", &multiply, py::kw_only(), py::arg("path"), py::arg("a"), py::arg("b"), py::arg("groups"),
        py::arg("mnk"), py::arg("c"), py::arg("bias"), py::arg("d"), py::arg("counts"), py::arg("threads"));
  m.def("fused_multiply_add", &fused_multiply_add, py::kw_only(), py::arg("x"), py::arg("y"), py::arg("z"),
        py::arg("d"), py::arg("nan_bits"), py::arg("threads"));
}
