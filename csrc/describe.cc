#include "describe.h"

#include <cstdio>
#include <type_traits>

#include "catalog/elements.h"

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
std::string text(const ElementFormat& value) { return constructor_call(value); }
template <class Enum>
  requires std::is_enum_v<Enum>
std::string text(Enum value) {
  std::string out("'");
  return out.append(word_of(value)).append("'");
}

// "name=value" of the fields that `wanted` chooses.
template <class Record, class Wanted>
std::string fields_text(const Record& record, const Wanted& wanted) {
  std::string out;
  std::apply(
      [&](const auto&... field) {
        const auto add = [&](const auto& one) {
          if (!wanted(one)) return;
          out.append(out.empty() ? "" : ", ").append(one.name).append("=").append(text(record.*one.member));
        };
        (add(field), ...);
      },
      Fields<Record>::list);
  return out;
}

template <class Record>
std::string called(const std::string& fields) {
  return std::string(Fields<Record>::name).append("(").append(fields).append(")");
}

template <class Record>
std::string describe_fields(const Record& record) {
  return called<Record>(fields_text(record, [](const auto&) { return true; }));
}

template <class Record>
std::string differing(const Record& record, const Record& other) {
  return fields_text(record, [&](const auto& field) { return !(record.*field.member == other.*field.member); });
}

template <class Record>
std::string brief_fields(const Record& record) {
  return called<Record>(differing(record, Record{}));
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

std::string brief(const ElementFormat& record) {
  for (const catalog::NamedElement& known : catalog::elements)
    if (known.format == record) return std::string(known.name);
  return brief_fields(record);
}
std::string brief(const ScaleLevel& record) { return brief_fields(record); }
std::string brief(const Conversion& record) { return brief_fields(record); }
std::string brief(const Sparsity& record) { return brief_fields(record); }
std::string brief(const Datapath& record) { return brief_fields(record); }

template <>
std::string constructor_call(const ElementFormat& record) {
  return brief_fields(record);
}
template <>
std::string constructor_call(const BlockFormat& record) {
  return describe(record);
}

std::string brief(const BlockFormat& record) {
  std::string out = brief(record.element);
  for (int i = 0; i < record.level_count; ++i)
    out.append(" under ").append(brief(record.levels[static_cast<std::size_t>(i)]));
  return out;
}

std::string difference(const Datapath& record, const Datapath& other) { return differing(record, other); }

}  // namespace sparq
