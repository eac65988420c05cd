#include "storage.h"

#include <pybind11/numpy.h>

#include "../describe.h"
#include "../ops/guard.h"
#include "../ops/storage.h"

namespace py = pybind11;

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

void finish(const std::string& error) {
  if (error == ops::out_of_memory) throw std::bad_alloc();
  if (!error.empty()) throw py::value_error(error);
}

Fill fill_of(const std::string& word) {
  std::string allowed;
  for (const auto& w : Words<Fill>::list) {
    if (word == w.word) return w.value;
    allowed.append(allowed.empty() ? "" : ", ").append(w.word);
  }
  throw py::value_error("fill='" + word + "': choose one of " + allowed);
}

void compress(const Sparsity& sparsity, const std::string& fill, const py::array& codes, const py::array& mask,
              py::array stored, py::array positions, int threads) {
  CompressJob job;
  job.sparsity = sparsity;
  job.fill = fill_of(fill);
  finish(ops::check_fill(sparsity, job.fill));
  job.code_bytes = code_bytes_of(codes);
  const std::int64_t lines = codes.shape(0);
  job.length = codes.shape(1);
  const std::int64_t kept = stored_length(sparsity, job.length);
  require_lines(codes, "codes", lines, job.length, job.code_bytes);
  require_lines(mask, "mask", lines, job.length, 1);
  require_lines(stored, "stored", lines, kept, job.code_bytes);
  require_lines(positions, "positions", lines, kept / sparsity.unit, 1);
  job.codes = codes.data();
  job.mask = static_cast<const std::uint8_t*>(mask.data());
  job.stored = stored.mutable_data();
  job.positions = static_cast<std::uint8_t*>(positions.mutable_data());
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::compress(job, lines, threads);
  }
  finish(error);
}

void expand(const Sparsity& sparsity, bool repeats, const py::array& stored, const py::array& positions,
            py::array codes, py::array mask, int threads) {
  ExpandJob job;
  job.sparsity = sparsity;
  job.repeats = repeats;
  finish(ops::check_fill(sparsity, Fill::lowest));
  job.code_bytes = code_bytes_of(codes);
  const std::int64_t lines = codes.shape(0);
  job.length = codes.shape(1);
  const std::int64_t kept = stored_length(sparsity, job.length);
  require_lines(codes, "codes", lines, job.length, job.code_bytes);
  require_lines(mask, "mask", lines, job.length, 1);
  require_lines(stored, "stored", lines, kept, job.code_bytes);
  require_lines(positions, "positions", lines, kept / sparsity.unit, 1);
  job.stored = stored.data();
  job.positions = static_cast<const std::uint8_t*>(positions.data());
  job.codes = codes.mutable_data();
  job.mask = static_cast<std::uint8_t*>(mask.mutable_data());
  std::string error;
  {
    const py::gil_scoped_release release;
    error = ops::expand(job, lines, threads);
  }
  finish(error);
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
  finish(ops::check_pack(job));
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
  finish(error);
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
  finish(error);
}

}  // namespace

void bind_storage(py::module_& m) {
  m.def("check_fill",
        [](const Sparsity& sparsity, const std::string& fill) { finish(ops::check_fill(sparsity, fill_of(fill))); });
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
}

}  // namespace sparq::bindings
