#include "storage.h"

#include "../describe.h"
#include "../ops/storage.h"
#include "arrays.h"

namespace sparq::bindings {
namespace {

// A 2-D array of unsigned integers, line by line in memory.
void require_lines(const py::array& array, const char* name, std::int64_t lines, std::int64_t length, int bytes) {
  const bool fits = array.ndim() == 2 && array.shape(0) == lines && array.shape(1) == length &&
                    array.itemsize() == bytes && (array.flags() & py::array::c_style) != 0;
  if (!fits)
    throw py::value_error(std::string(name) + ": needed a contiguous array of " + std::to_string(lines) + " x " +
                          std::to_string(length) + " items of " + std::to_string(bytes) + " bytes");
}

int code_bytes_of(const py::array& array) {
  const auto bytes = static_cast<int>(array.itemsize());
  if (array.ndim() != 2 || (bytes != 1 && bytes != 2 && bytes != 4))
    throw py::value_error("needed lines of items of 1, 2 or 4 bytes");
  return bytes;
}

Fill fill_of(const std::string& word) {
  std::string allowed;
  for (const auto& w : Words<Fill>::list) {
    if (word == w.word) return w.value;
    allowed.append(allowed.empty() ? "" : ", ").append(w.word);
  }
  throw py::value_error("fill='" + word + "': choose one of " + allowed);
}

// The job of what is stored of an N:M tensor of [lines, length], with all but its pointers.
template <class Job>
Job stored_job(const Sparsity& sparsity, const py::array& codes, const py::array& mask, const py::array& stored,
               const py::array& positions) {
  Job job;
  job.sparsity = sparsity;
  job.code_bytes = code_bytes_of(codes);
  job.length = codes.shape(1);
  const std::int64_t lines = codes.shape(0), kept = stored_length(sparsity, job.length);
  require_lines(codes, "codes", lines, job.length, job.code_bytes);
  require_lines(mask, "mask", lines, job.length, 1);
  require_lines(stored, "stored", lines, kept, job.code_bytes);
  require_lines(positions, "positions", lines, kept / sparsity.unit, 1);
  return job;
}

void compress(const Sparsity& sparsity, const std::string& fill, const py::array& codes, const py::array& mask,
              py::array stored, py::array positions, int threads) {
  require_ok(ops::check_fill(sparsity, fill_of(fill)));
  auto job = stored_job<CompressJob>(sparsity, codes, mask, stored, positions);
  job.fill = fill_of(fill);
  job.codes = codes.data();
  job.mask = static_cast<const std::uint8_t*>(mask.data());
  job.stored = stored.mutable_data();
  job.positions = static_cast<std::uint8_t*>(positions.mutable_data());
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::compress(job, codes.shape(0), threads);
  }
  require_ok(error);
}

void expand(const Sparsity& sparsity, bool repeats, const py::array& stored, const py::array& positions,
            py::array codes, py::array mask, int threads) {
  require_ok(ops::check_fill(sparsity, Fill::lowest));
  auto job = stored_job<ExpandJob>(sparsity, codes, mask, stored, positions);
  job.repeats = repeats;
  job.stored = stored.data();
  job.positions = static_cast<const std::uint8_t*>(positions.data());
  job.codes = codes.mutable_data();
  job.mask = static_cast<std::uint8_t*>(mask.mutable_data());
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::expand(job, codes.shape(0), threads);
  }
  require_ok(error);
}

PackJob pack_job(const py::array& items, int item_bits, int container_bits, int shift, bool from_top, std::int64_t run,
                 std::int64_t run_bytes) {
  PackJob job;
  job.item_bytes = code_bytes_of(items);
  job.item_bits = item_bits;
  job.container_bits = container_bits;
  job.shift = shift;
  job.from_top = from_top;
  job.length = items.shape(1);
  job.run = run;
  job.run_bytes = run_bytes;
  require_ok(ops::check_pack(job));
  require_lines(items, "items", items.shape(0), job.length, job.item_bytes);
  return job;
}

void pack(const py::array& items, py::array bytes, int item_bits, int container_bits, int shift, bool from_top,
          std::int64_t run, std::int64_t run_bytes, int threads) {
  PackJob job = pack_job(items, item_bits, container_bits, shift, from_top, run, run_bytes);
  require_lines(bytes, "bytes", items.shape(0), line_bytes(job), 1);
  job.items = const_cast<void*>(items.data());
  job.bytes = static_cast<std::uint8_t*>(bytes.mutable_data());
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::pack(job, items.shape(0), threads);
  }
  require_ok(error);
}

void unpack(const py::array& bytes, py::array items, int item_bits, int container_bits, int shift, bool from_top,
            std::int64_t run, std::int64_t run_bytes, int threads) {
  PackJob job = pack_job(items, item_bits, container_bits, shift, from_top, run, run_bytes);
  require_lines(bytes, "bytes", items.shape(0), line_bytes(job), 1);
  job.items = items.mutable_data();
  job.bytes = const_cast<std::uint8_t*>(static_cast<const std::uint8_t*>(bytes.data()));
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::unpack(job, items.shape(0), threads);
  }
  require_ok(error);
}

// How items are packed, as `pack` has it by keyword: item_bits, container_bits, shift, from_top, run, run_bytes.
using Packing = std::tuple<int, int, int, bool, std::int64_t, std::int64_t>;

PackJob packed_lines(const py::array& bytes, const char* name, const Packing& packing, int item_bytes,
                     std::int64_t lines, std::int64_t length) {
  PackJob job;
  job.item_bytes = item_bytes;
  std::tie(job.item_bits, job.container_bits, job.shift, job.from_top, job.run, job.run_bytes) = packing;
  job.length = length;
  require_ok(ops::check_pack(job));
  require_lines(bytes, name, lines, line_bytes(job), 1);
  job.bytes = const_cast<std::uint8_t*>(static_cast<const std::uint8_t*>(bytes.data()));
  return job;
}

py::dict decode_packed(const py::array& elements, const Packing& element_packing, const Array& positions,
                       const std::optional<Packing>& position_packing, const std::optional<Sparsity>& sparsity,
                       bool repeats, std::vector<Array> scales, const Extents& shape, const BlockFormat& format,
                       py::array values, const std::string& values_type, int threads) {
  ops::DecodePackedRequest r;
  r.values.format = format;
  r.values.shape = shape_of(shape);
  const std::int64_t lines = r.values.shape.outer, length = r.values.shape.length;
  const NamedFloat& to = float_type(values_type);
  require_bytes(values, "values", r.values.shape.size(), to.bytes);
  r.values.scales = scales_of(format, r.values.shape, scales, std::vector<bool>(scales.size(), true));
  r.values.values = values.mutable_data();
  r.values.values_type = to.type;
  r.values.threads = threads;
  std::int64_t stored = length;
  if (sparsity) {
    require_ok(ops::check_fill(*sparsity, Fill::lowest));
    if (!positions || !position_packing) throw py::value_error("positions: needed those of a sparse tensor");
    r.sparsity = *sparsity;
    r.repeats = repeats;
    stored = stored_length(*sparsity, length);
    r.positions = packed_lines(*positions, "positions", *position_packing, 1, lines, stored / sparsity->unit);
  }
  r.elements = packed_lines(elements, "elements", element_packing, code_bytes(format.element), lines, stored);
  Counts counts;
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::decode_packed(r, counts);
  }
  require_ok(error);
  return counts_dict(counts);
}

}  // namespace

void bind_storage(py::module_& m) {
  m.def("check_fill", [](const Sparsity& sparsity, const std::string& fill) {
    require_ok(ops::check_fill(sparsity, fill_of(fill)));
  });
  m.def("compress", &compress, py::kw_only(), py::arg("sparsity"), py::arg("fill"), py::arg("codes"), py::arg("mask"),
        py::arg("stored"), py::arg("positions"), py::arg("threads"));
  m.def("expand", &expand, py::kw_only(), py::arg("sparsity"), py::arg("repeats"), py::arg("stored"),
        py::arg("positions"), py::arg("codes"), py::arg("mask"), py::arg("threads"));
  m.def("pack", &pack, py::kw_only(), py::arg("items"), py::arg("bytes"), py::arg("item_bits"),
        py::arg("container_bits"), py::arg("shift"), py::arg("from_top"), py::arg("run"), py::arg("run_bytes"),
        py::arg("threads"));
  m.def("unpack", &unpack, py::kw_only(), py::arg("bytes"), py::arg("items"), py::arg("item_bits"),
        py::arg("container_bits"), py::arg("shift"), py::arg("from_top"), py::arg("run"), py::arg("run_bytes"),
        py::arg("threads"));
  m.def("decode_packed", &decode_packed, py::kw_only(), py::arg("elements"), py::arg("element_packing"),
        py::arg("positions"), py::arg("position_packing"), py::arg("sparsity"), py::arg("repeats"), py::arg("scales"),
        py::arg("shape"), py::arg("format"), py::arg("values"), py::arg("values_type"), py::arg("threads"));
}

}  // namespace sparq::bindings
