#include "aq/formats/scheme.h"

#include <algorithm>
#include <array>

#include "aq/core/error.h"
#include "aq/formats/grid_math.h"
#include "aq/formats/quantized_matrix.h"

namespace aq {
namespace {

constexpr std::array<std::string_view, 5> kScaleTypeNames = {"fp32", "fp16", "bf16", "e8m0",
                                                             "e4m3"};
constexpr std::array<std::string_view, 3> kScaleRuleNames = {"ocp", "ceil", "best"};
constexpr Index kMxGroup = 32;  // OCP MX 1.0: the block size k of every concrete format
constexpr Index kNvfp4Group = 16;

/// A format: its name and the scheme that it stands for.
struct Format {
  std::string_view name;
  Scheme scheme;
};

constexpr Scheme integer(int bits) {
  return {.bits = bits};
}
constexpr Scheme scaled_float(Element element) {
  return {.element = element, .bits = float_element(element).bits};
}
constexpr Scheme mx(Element element) {
  Scheme scheme = scaled_float(element);
  scheme.group_size = kMxGroup;
  scheme.scale_type = ScaleType::e8m0;
  return scheme;
}
constexpr Scheme nvfp4() {
  Scheme scheme = scaled_float(Element::e2m1);
  scheme.group_size = kNvfp4Group;
  scheme.scale_type = ScaleType::e4m3;
  return scheme;
}

constexpr std::array<Format, 18> kFormats{{{"int2", integer(2)},
                                           {"int3", integer(3)},
                                           {"int4", integer(4)},
                                           {"int5", integer(5)},
                                           {"int6", integer(6)},
                                           {"int7", integer(7)},
                                           {"int8", integer(8)},
                                           {"fp4", scaled_float(Element::e2m1)},
                                           {"fp6", scaled_float(Element::e3m2)},
                                           {"fp6_e2m3", scaled_float(Element::e2m3)},
                                           {"fp8", scaled_float(Element::e4m3)},
                                           {"fp8_e5m2", scaled_float(Element::e5m2)},
                                           {"mxfp4", mx(Element::e2m1)},
                                           {"mxfp6", mx(Element::e3m2)},
                                           {"mxfp6_e2m3", mx(Element::e2m3)},
                                           {"mxfp8", mx(Element::e4m3)},
                                           {"mxfp8_e5m2", mx(Element::e5m2)},
                                           {"nvfp4", nvfp4()}}};

/// Formats of one kind differ in element and width only.
bool same_kind(const Scheme& a, const Scheme& b) {
  return a.is_float() == b.is_float() && a.is_mx() == b.is_mx() && a.is_nvfp4() == b.is_nvfp4();
}

const Format* find_format(const Scheme& like, Element element, int bits) {
  const auto found = std::find_if(kFormats.begin(), kFormats.end(), [&](const Format& format) {
    return format.scheme.element == element && format.scheme.bits == bits &&
           same_kind(format.scheme, like);
  });
  return found == kFormats.end() ? nullptr : &*found;
}

template <std::size_t count>
std::optional<std::size_t> find_name(const std::array<std::string_view, count>& names,
                                     std::string_view name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) return std::nullopt;
  return static_cast<std::size_t>(found - names.begin());
}

}  // namespace

std::string_view scale_type_name(ScaleType type) {
  return kScaleTypeNames[static_cast<std::size_t>(type)];
}

std::optional<ScaleType> scale_type_from_name(std::string_view name) {
  const auto found = find_name(kScaleTypeNames, name);
  return found ? std::optional(static_cast<ScaleType>(*found)) : std::nullopt;
}

int scale_type_bits(ScaleType type) {
  if (type == ScaleType::f32) return 32;
  return type == ScaleType::e8m0 || type == ScaleType::e4m3 ? 8 : 16;
}

std::string_view scale_rule_name(ScaleRule rule) {
  return kScaleRuleNames[static_cast<std::size_t>(rule)];
}

std::optional<ScaleRule> scale_rule_from_name(std::string_view name) {
  const auto found = find_name(kScaleRuleNames, name);
  return found ? std::optional(static_cast<ScaleRule>(*found)) : std::nullopt;
}

float round_scale(ScaleType type, float scale) {
  return round_scale_inline(type, scale);
}

const std::vector<std::string_view>& format_names() {
  static const std::vector<std::string_view> names = [] {
    std::vector<std::string_view> all;
    for (const Format& format : kFormats) all.push_back(format.name);
    return all;
  }();
  return names;
}

std::optional<Scheme> scheme_from_format(std::string_view name) {
  for (const Format& format : kFormats)
    if (format.name == name) return format.scheme;
  return std::nullopt;
}

std::optional<Scheme> with_element(const Scheme& scheme, Element element) {
  if (!scheme.is_float() || find_format(scheme, element, scheme.bits) == nullptr)
    return std::nullopt;
  Scheme other = scheme;
  other.element = element;
  return other;
}

std::string format_name(const Scheme& scheme) {
  const Format* format = find_format(scheme, scheme.element, scheme.bits);
  AQ_CHECK(format != nullptr, element_name(scheme.element), " of ", scheme.bits, " bits with ",
           scale_type_name(scheme.scale_type), " scales");
  return std::string(format->name);
}

std::string to_string(const Scheme& scheme) {
  std::string text = format_name(scheme);
  if (scheme.group_size == kPerChannel) {
    text += " per-channel";
  } else if (scheme.group_size == kPerTensor) {
    text += " per-tensor";
  } else {
    text += str(" g", scheme.group_size);
  }
  if (scheme.is_mx() && scheme.group_size != kMxGroup) text += " (not OCP)";
  return scheme.symmetric ? text : text + " asymmetric";
}

std::string scheme_problem(const Scheme& scheme) {
  const Format* format = find_format(scheme, scheme.element, scheme.bits);
  if (format == nullptr)
    return str(element_name(scheme.element), " of ", scheme.bits, " bits with ",
               scale_type_name(scheme.scale_type), " scales is no format");
  if (scheme.is_float() && !scheme.symmetric)
    return str(format->name, " is symmetric: it has no zeros");
  if (scheme.is_nvfp4() && scheme.group_size != kNvfp4Group)
    return str("groups of nvfp4 have ", kNvfp4Group, " columns");
  if (scheme.is_mx() && (scheme.group_size <= 0 || scheme.group_size % kMxGroup != 0))
    return str("groups of ", format->name, " are multiples of ", kMxGroup, " columns");
  if (scheme.group_size < kPerChannel) return str(scheme.group_size, " is no group size");
  return "";
}

Index group_width(const Scheme& scheme, Index columns) {
  const bool whole_row = scheme.group_size <= 0 || scheme.group_size > columns;
  return whole_row ? columns : scheme.group_size;
}

Index group_count(const Scheme& scheme, Index columns) {
  return columns == 0 ? 0 : ceil_div(columns, group_width(scheme, columns));
}

Index scale_count(const Scheme& scheme, Index rows, Index columns) {
  return scheme.group_size == kPerTensor ? 1 : rows * group_count(scheme, columns);
}

Index stored_bits(const Scheme& scheme, Index rows, Index columns) {
  const Index zero_bits = scheme.symmetric ? 0 : 8;
  return rows * words_per_row(scheme.bits, columns) * 32 +
         scale_count(scheme, rows, columns) * (scale_type_bits(scheme.scale_type) + zero_bits) +
         (scheme.is_nvfp4() ? 32 : 0);
}

}  // namespace aq
