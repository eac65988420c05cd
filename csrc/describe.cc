#include "describe.h"

#include <cstdio>
#include <type_traits>

namespace sparq {
namespace {

std::string text(int value) { return std::to_string(value); }
std::string text(std::uint32_t value) { return std::to_string(value); }
std::string text(float value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(value));
  return digits;
}
std::string text(bool value) { return value ? "True" : "False"; }
std::string text(const ElementFormat& value) { return describe(value); }
template <class Enum>
  requires std::is_enum_v<Enum>
std::string text(Enum value) {
  std::string out("'");
  return out.append(word_of(value)).append("'");
}

template <class Record>
std::string describe_fields(const Record& record) {
  std::string out(Fields<Record>::name);
  out.append("(");
  std::apply(
      [&](const auto&... field) {
        std::size_t left = sizeof...(field);
        (out.append(field.name).append("=").append(text(record.*field.member)).append(--left != 0 ? ", " : ""), ...);
      },
      Fields<Record>::list);
  return out.append(")");
}

}  // namespace

std::string describe(const ElementFormat& record) { return describe_fields(record); }
std::string describe(const ScaleLevel& record) { return describe_fields(record); }
std::string describe(const Conversion& record) { return describe_fields(record); }
std::string describe(const Sparsity& record) { return describe_fields(record); }
std::string describe(const Datapath& record) { return describe_fields(record); }

std::string describe(const BlockFormat& record) {
  std::string out("BlockFormat(element=");
  out.append(describe(record.element)).append(", levels=(");
  for (int i = 0; i < record.level_count; ++i)
    out.append(describe(record.levels[static_cast<std::size_t>(i)])).append(",");
  return out.append("))");
}

}  // namespace sparq
