/// Every code of every format in every form that stores it is what dequantize says.

#include "verify/form.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "export/served_format.h"

namespace aq {
namespace {

constexpr Index kRows = 32;

/// Every code in every row, not the same one first; scales of both signs where the scheme has them;
/// every zero.
QuantizedMatrix every_code(const Scheme& scheme) {
  const int codes = 1 << scheme.bits;
  const Index columns = round_up(std::max(codes, 64), 64);
  QuantizedMatrix matrix = make_quantized(scheme, kRows, columns);
  const Index words = words_per_row(scheme.bits, columns);
  std::vector<std::uint8_t> row(columns);
  for (Index r = 0; r < kRows; ++r) {
    for (Index c = 0; c < columns; ++c) {
      row[c] = static_cast<std::uint8_t>((c + 7 * r) % codes);
      if (scheme.is_float() && !std::isfinite(element_value(scheme.element, row[c]))) row[c] = 0;
    }
    pack_row(scheme.bits, row, std::span(matrix.codes).subspan(r * words, words));
  }
  if (scheme.is_nvfp4()) matrix.global_scale = 64;
  const bool both_signs = scheme.symmetric && !scheme.is_float();
  for (std::size_t i = 0; i < matrix.scales.size(); ++i) {
    const float scale = 0.001F * static_cast<float>(i % 97 + 1) * matrix.global_scale;
    matrix.scales[i] = round_scale(scheme.scale_type, scale) / matrix.global_scale;
    if (both_signs && i % 2 == 1) matrix.scales[i] = -matrix.scales[i];
  }
  for (std::size_t i = 0; i < matrix.zeros.size(); ++i)
    matrix.zeros[i] = static_cast<std::uint8_t>(i % codes);
  return matrix;
}

std::vector<Scheme> every_scheme() {
  std::vector<Scheme> schemes;
  for (const std::string_view name : format_names()) {
    const Scheme scheme = *scheme_from_format(name);
    if (scheme.is_mx() || scheme.is_nvfp4()) {
      schemes.push_back(scheme);
      continue;
    }
    for (const Index group : {kPerTensor, kPerChannel, Index{32}, Index{64}})
      for (const ScaleType type : {ScaleType::f32, ScaleType::f16, ScaleType::bf16})
        for (const bool symmetric : {true, false}) {
          Scheme other = scheme;
          other.group_size = group;
          other.scale_type = type;
          other.symmetric = symmetric;
          if (scheme_problem(other).empty()) schemes.push_back(other);
        }
  }
  return schemes;
}

Matrix dequantized(const QuantizedMatrix& matrix) {
  Matrix values(matrix.rows, matrix.columns);
  dequantize(matrix, values.view());
  return values;
}

void expect_values(const MatrixForm& form, const Matrix& values, const std::string& what) {
  ASSERT_EQ(form.rows, values.rows) << what;
  ASSERT_EQ(form.columns, values.columns) << what;
  for (Index r = 0; r < values.rows; ++r)
    for (Index c = 0; c < values.columns; ++c)
      ASSERT_EQ(form.value(r, c), values(r, c)) << what << " [" << r << ", " << c << "]";
}

/// As a file holds it: scales in the unit of the global scale.
QuantizedMatrix stored(QuantizedMatrix matrix) {
  for (float& scale : matrix.scales) scale *= matrix.global_scale;
  return matrix;
}

TEST(Form, OwnFiles) {
  for (const Scheme& scheme : every_scheme()) {
    const QuantizedMatrix matrix = every_code(scheme);
    const QuantizedMatrix file = stored(matrix);
    expect_values(form_of(file), dequantized(matrix), to_string(scheme));
    EXPECT_FALSE(problem_of(file)) << to_string(scheme) << problem_of(file).text;
  }
}

Parts parts_from(const ServedFormat& format, const StoredMatrix& description,
                 const QuantizedMatrix& matrix) {
  Parts parts;
  const std::vector<TensorEntry> entries = format.entries(description);
  const auto bytes = format.pack(matrix, description.activation);
  for (std::size_t i = 0; i < entries.size(); ++i) parts[entries[i].name.substr(2)] = bytes[i];
  return parts;
}

ServedForm served(const ServedFormat& format, const StoredMatrix& m) {
  std::string layout(format.name);
  if (layout == "compressed-tensors") layout = layout_name(m.scheme, m.activation);
  if (layout == "gptq" && !m.scheme.symmetric) layout = "gptq_v2";
  return {layout, m.scheme, m.rows, m.columns};
}

TEST(Form, Exports) {
  std::map<std::string, int> seen;
  std::vector<std::pair<Scheme, std::optional<Scheme>>> schemes;
  for (const Scheme& scheme : every_scheme()) schemes.push_back({scheme, std::nullopt});
  Scheme inputs = *scheme_from_format("int8");
  inputs.group_size = kPerChannel;
  schemes.push_back({inputs, inputs});
  for (const auto& [scheme, activation] : schemes)
    for (const ServedFormat& format : served_formats()) {
      const QuantizedMatrix matrix = every_code(scheme);
      const StoredMatrix description{"m", kRows, matrix.columns, scheme, activation, true};
      if (!format.problem(description).empty()) continue;
      const ServedForm form = served(format, description);
      const std::string what = str(form.layout, " ", to_string(scheme));
      ++seen[form.layout];
      std::vector<TensorEntry> expected = parts_of(form);
      for (TensorEntry& entry : expected) entry.name = (format.fused ? "m_" : "m.") + entry.name;
      EXPECT_EQ(expected, format.entries(description)) << what;
      const Parts parts = parts_from(format, description, matrix);
      Matrix values = dequantized(matrix);
      if (form.layout == "bf16")
        for (float& value : values.values) value = bf16_to_float(float_to_bf16(value));
      expect_values(form_of(form, parts), values, what);
      EXPECT_FALSE(problem_of(form, parts)) << what << problem_of(form, parts).text;
    }
  EXPECT_EQ(seen.size(), 10U);  // six of compressed-tensors, two of gptq, gpt-oss, bf16
}

std::string kind(const QuantizedMatrix& file) {
  return problem_of(file).kind;
}

TEST(Form, ProblemsOfOwnFiles) {
  const auto with = [](std::string_view format, const auto& change) {
    Scheme scheme = *scheme_from_format(format);
    if (scheme.group_size > 32) scheme.group_size = 32;
    QuantizedMatrix file = stored(every_code(scheme));
    change(file);
    return kind(file);
  };
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(with("int4", [](auto&) {}), "");
  EXPECT_EQ(with("int4", [](auto& m) { m.scales[5] = kInfinity; }), "scale");
  EXPECT_EQ(with("int4", [](auto& m) { m.scales[5] = 0; }), "scale");
  EXPECT_EQ(with("int4", [](auto& m) { m.scales[5] = std::nanf(""); }), "scale");
  EXPECT_EQ(with("fp8", [](auto& m) { m.scales[5] = -1; }), "scale");
  EXPECT_EQ(with("nvfp4", [](auto& m) { m.global_scale = 0; }), "scale");
  EXPECT_EQ(with("fp8", [](auto& m) { m.codes[3] |= 0x7F; }), "code");  // NaN
  EXPECT_EQ(with("mxfp8_e5m2", [](auto& m) { m.codes[3] |= 0x7C; }), "code");
  EXPECT_EQ(with("int4",
                 [](auto& m) {
                   m.scheme.symmetric = false;
                   m.zeros.assign(m.scales.size(), 3);
                   for (float& scale : m.scales) scale = std::abs(scale);
                   m.zeros[7] = 16;
                 }),
            "code");
  QuantizedMatrix narrow = make_quantized({.bits = 3, .group_size = kPerChannel}, 4, 9);
  std::ranges::fill(narrow.scales, 1.0F);
  EXPECT_EQ(kind(narrow), "");
  narrow.codes[2] |= 1U << 27;  // nine codes of three bits end there
  EXPECT_EQ(kind(narrow), "padding");
}

/// Changes one tensor of an exported matrix in groups of 32.
std::string exported_kind(std::string_view name, Scheme scheme, const std::string& part,
                          const std::function<void(std::vector<std::byte>&)>& change) {
  if (scheme.group_size > 32) scheme.group_size = 32;
  const ServedFormat& format = served_format(name);
  const QuantizedMatrix matrix = every_code(scheme);
  const StoredMatrix description{"m", kRows, matrix.columns, scheme, std::nullopt};
  Parts parts = parts_from(format, description, matrix);
  change(parts.at(part));
  return problem_of(served(format, description), parts).kind;
}

TEST(Form, ProblemsOfExports) {
  const auto set = [](std::size_t at, int value) {
    return [=](std::vector<std::byte>& bytes) { bytes.at(at) = static_cast<std::byte>(value); };
  };
  const Scheme int4 = *scheme_from_format("int4"), fp8 = *scheme_from_format("fp8");
  Scheme zeros = int4;
  zeros.symmetric = false;
  const auto nan = [](std::vector<std::byte>& bytes) {
    bytes[3] = std::byte{0xFF}, bytes[2] = std::byte{0xFF};
  };
  EXPECT_EQ(exported_kind("compressed-tensors", int4, "weight_scale", nan), "scale");
  EXPECT_EQ(exported_kind("compressed-tensors", int4, "weight_shape", set(0, 1)), "shape");
  EXPECT_EQ(exported_kind("compressed-tensors", fp8, "weight", set(9, 0x7F)), "code");
  EXPECT_EQ(
      exported_kind("compressed-tensors", *scheme_from_format("nvfp4"), "weight_global_scale", nan),
      "scale");
  EXPECT_EQ(exported_kind("compressed-tensors", *scheme_from_format("mxfp4"), "weight_scale",
                          set(0, 255)),
            "scale");
  EXPECT_EQ(exported_kind("gpt-oss", *scheme_from_format("mxfp4"), "scales", set(0, 255)), "scale");
  EXPECT_EQ(exported_kind("gptq", int4, "scales", nan), "scale");
  EXPECT_EQ(exported_kind("gptq", int4, "g_idx", set(4, 9)), "code");
  EXPECT_EQ(exported_kind("gptq", int4, "qzeros", set(4, 9)), "code");
  EXPECT_EQ(exported_kind("gptq", zeros, "qzeros", set(4, 9)), "");
  EXPECT_EQ(exported_kind("bf16", int4, "weight", nan), "code");
}

TEST(Form, PaddingOfExportedWords) {
  // Eleven rows of nine codes of three bits: zero points are packed along the rows.
  const Scheme scheme{.bits = 3, .symmetric = false, .group_size = kPerChannel};
  QuantizedMatrix matrix = make_quantized(scheme, 11, 9);
  std::ranges::fill(matrix.scales, 1.0F);
  const ServedFormat& format = served_format("compressed-tensors");
  const StoredMatrix description{"m", 11, 9, scheme, std::nullopt};
  for (const auto& [part, word] :
       {std::pair("weight_packed", 10), std::pair("weight_zero_point", 1)}) {
    Parts parts = parts_from(format, description, matrix);
    EXPECT_FALSE(problem_of(served(format, description), parts));
    parts.at(part).at(word * 4 + 3) = std::byte{0x80};
    EXPECT_EQ(problem_of(served(format, description), parts).kind, "padding") << part;
  }
}

}  // namespace
}  // namespace aq
