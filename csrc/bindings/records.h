// Records as Python classes, made from the field lists of describe.h.
#pragma once

#include <pybind11/pybind11.h>

namespace sparq::bindings {

void bind_records(pybind11::module_& module);
void bind_catalog(pybind11::module_& module);

}  // namespace sparq::bindings
