// Compression and bit packing as functions of the module.
#pragma once

#include <pybind11/pybind11.h>

namespace sparq::bindings {

void bind_storage(pybind11::module_& module);

}  // namespace sparq::bindings
