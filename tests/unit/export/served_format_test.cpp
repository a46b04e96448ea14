/// Exported tensors, decoded by the published formats element by element, are what dequantize says.

#include "export/served_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "aq/core/error.h"
#include "aq/export/export.h"
#include "serving_model.h"

namespace aq {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// Random codes, scales of both signs where the scheme has them, random zeros.
QuantizedMatrix random_matrix(const Scheme& scheme, Index rows, Index columns) {
  std::mt19937 random(5);
  QuantizedMatrix matrix = make_quantized(scheme, rows, columns);
  std::uniform_int_distribution<int> code(0, (1 << scheme.bits) - 1);
  std::vector<std::uint8_t> codes(columns);
  const Index words = words_per_row(scheme.bits, columns);
  for (Index r = 0; r < rows; ++r) {
    for (std::uint8_t& one : codes) {
      do one = static_cast<std::uint8_t>(code(random));
      while (scheme.is_float() && !std::isfinite(element_value(scheme.element, one)));
    }
    pack_row(scheme.bits, codes, std::span(matrix.codes).subspan(r * words, words));
  }
  if (scheme.is_nvfp4()) matrix.global_scale = 64;
  std::uniform_real_distribution<float> scale(0.001F, 0.5F);
  for (float& one : matrix.scales) {
    one = round_scale(scheme.scale_type, scale(random) * matrix.global_scale) / matrix.global_scale;
    if (!scheme.is_float() && scheme.symmetric && code(random) % 2 == 0) one = -one;
  }
  for (std::uint8_t& zero : matrix.zeros) zero = static_cast<std::uint8_t>(code(random));
  return matrix;
}

/// Tensors by the end of their names.
struct Exported {
  std::map<std::string, std::pair<TensorEntry, std::vector<std::byte>>> tensors;

  Exported(const ServedFormat& format, const StoredMatrix& stored, const QuantizedMatrix& matrix) {
    const std::vector<TensorEntry> entries = format.entries(stored);
    const auto bytes = format.pack(matrix, stored.activation);
    EXPECT_EQ(entries.size(), bytes.size());
    for (std::size_t i = 0; i < entries.size(); ++i) {
      EXPECT_EQ(entries[i].bytes(), std::ssize(bytes[i])) << entries[i].name;
      tensors[entries[i].name.substr(stored.name.size() + 1)] = {entries[i], bytes[i]};
    }
  }
  bool has(const std::string& name) const { return tensors.contains(name); }
  template <class T>
  T at(const std::string& name, Index i) const {
    T value{};
    std::memcpy(&value, tensors.at(name).second.data() + i * sizeof(T), sizeof(T));
    return value;
  }
  float number(const std::string& name, Index i) const {
    const std::string& dtype = tensors.at(name).first.dtype;
    if (dtype == "F32") return at<float>(name, i);
    if (dtype == "F16") return f16_to_float(at<std::uint16_t>(name, i));
    if (dtype == "BF16") return bf16_to_float(at<std::uint16_t>(name, i));
    if (dtype == "F8_E4M3") return f8_e4m3_to_float(at<std::uint8_t>(name, i));
    return e8m0_to_float(at<std::uint8_t>(name, i));
  }
  /// Bits [first, first + count) of a little-endian stream in 32-bit words that are `step` apart.
  unsigned bits(const std::string& name, Index base, Index step, Index first, int count) const {
    unsigned value = 0;
    for (int b = 0; b < count; ++b) {
      const Index bit = first + b;
      value |= (at<std::uint32_t>(name, base + bit / 32 * step) >> (bit % 32) & 1U) << b;
    }
    return value;
  }
};

/// compressed-tensors: w = (q - zero) * scale, with q, zero and scale by the layout's own rules.
float decode(const Exported& e, const StoredMatrix& m, Index r, Index c) {
  const Scheme& scheme = m.scheme;
  const Index groups = group_count(scheme, m.columns), g = c / group_width(scheme, m.columns);
  const bool whole = scheme.group_size == kPerTensor;
  float scale = e.number("weight_scale", whole ? 0 : r * groups + g);
  if (e.has("weight_global_scale")) scale /= e.at<float>("weight_global_scale", 0);
  if (!scheme.is_float()) {
    const int middle = 1 << (scheme.bits - 1);
    if (e.has("weight"))  // two's complement
      return static_cast<float>(e.at<std::int8_t>("weight", r * m.columns + c)) * scale;
    const Index words = e.tensors.at("weight_packed").first.shape[1];
    const int q =
        static_cast<int>(e.bits("weight_packed", r * words, 1, c * scheme.bits, scheme.bits));
    const int zero =
        e.has("weight_zero_point")
            ? static_cast<int>(e.bits("weight_zero_point", g, groups, r * scheme.bits, scheme.bits))
            : middle;
    return static_cast<float>(q - zero) * scale;
  }
  if (scheme.bits == 8)
    return f8_e4m3_to_float(e.at<std::uint8_t>("weight", r * m.columns + c)) * scale;
  const auto byte = e.at<std::uint8_t>("weight_packed", r * (m.columns / 2) + c / 2);
  return element_value(Element::e2m1, c % 2 == 0 ? byte & 15 : byte >> 4) * scale;
}

/// GPTQ: w = scale * (q - zero), all transposed; version 1 stores zero - 1.
float decode_gptq(const Exported& e, const StoredMatrix& m, Index r, Index c) {
  const int bits = m.scheme.bits;
  const Index g = e.at<std::int32_t>("g_idx", c);
  const int q = static_cast<int>(e.bits("qweight", r, m.rows, c * bits, bits));
  const Index zero_words = e.tensors.at("qzeros").first.shape[1];
  const int stored = static_cast<int>(e.bits("qzeros", g * zero_words, 1, r * bits, bits));
  const int zero = m.scheme.symmetric ? stored + 1 : stored;
  return static_cast<float>(q - zero) * e.number("scales", g * m.rows + r);
}

/// gpt-oss: 16 bytes for each group of 32 columns, the first of two codes low.
float decode_gpt_oss(const Exported& e, const StoredMatrix& m, Index r, Index c) {
  const Index group = r * (m.columns / 32) + c / 32;
  const auto byte = e.at<std::uint8_t>("blocks", group * 16 + c % 32 / 2);
  return element_value(Element::e2m1, c % 2 == 0 ? byte & 15 : byte >> 4) *
         e.number("scales", group);
}

std::vector<Scheme> every_scheme() {
  std::vector<Scheme> schemes;
  for (const std::string_view name : format_names()) {
    const Scheme scheme = *scheme_from_format(name);
    schemes.push_back(scheme);
    if (scheme.is_mx() || scheme.is_nvfp4()) continue;
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

TEST(ServedFormat, TensorsHoldWhatDequantizeSays) {
  constexpr Index kRows = 32, kColumns = 192;
  std::map<std::string_view, int> held;
  for (const Scheme& scheme : every_scheme())
    for (const ServedFormat& format : served_formats()) {
      const StoredMatrix stored{"m", kRows, kColumns, scheme, std::nullopt, true};
      if (!format.problem(stored).empty()) continue;
      ++held[format.name];
      const QuantizedMatrix matrix = random_matrix(scheme, kRows, kColumns);
      const Exported exported(format, stored, matrix);
      Matrix expected(kRows, kColumns);
      dequantize(matrix, expected.view());
      const std::string what = str(format.name, " ", to_string(scheme));
      for (Index r = 0; r < kRows; ++r)
        for (Index c = 0; c < kColumns; ++c) {
          const float value = expected(r, c);
          if (format.plain)
            ASSERT_EQ(exported.number("weight", r * kColumns + c),
                      bf16_to_float(float_to_bf16(value)))
                << what;
          else if (format.fused)
            ASSERT_EQ(decode_gpt_oss(exported, stored, r, c), value) << r << " " << c;
          else if (format.name == "gptq")
            ASSERT_EQ(decode_gptq(exported, stored, r, c), value) << what << " " << r << " " << c;
          else
            ASSERT_EQ(decode(exported, stored, r, c), value) << what << " " << r << " " << c;
        }
    }
  EXPECT_GE(held["compressed-tensors"], 40);
  EXPECT_GE(held["gptq"], 20);
  EXPECT_EQ(held["gpt-oss"], 1);
  EXPECT_EQ(held["bf16"], std::ssize(every_scheme()));
}

TEST(ServedFormat, IntegerInputsMakeTwosComplement) {
  Scheme activation = *scheme_from_format("int8");
  activation.group_size = kPerChannel;
  Scheme scheme = activation;
  const StoredMatrix stored{"m", 32, 64, scheme, activation};
  const ServedFormat& format = served_format("compressed-tensors");
  ASSERT_EQ(format.problem(stored), "");
  const QuantizedMatrix matrix = random_matrix(scheme, 32, 64);
  const Exported exported(format, stored, matrix);
  Matrix expected(32, 64);
  dequantize(matrix, expected.view());
  for (Index i = 0; i < 32 * 64; ++i)
    ASSERT_EQ(decode(exported, stored, i / 64, i % 64), expected.values[i]);
  const OrderedJson config = format.configuration({stored}, {});
  EXPECT_EQ(config["format"], "int-quantized");
  EXPECT_EQ(config["config_groups"]["group_0"]["input_activations"]["strategy"], "token");
}

TEST(ServedFormat, NamesWhatItCannotHold) {
  const ServedFormat& compressed = served_format("compressed-tensors");
  const ServedFormat& gptq = served_format("gptq");
  const auto with = [](std::string_view format, Index rows, Index columns) {
    return StoredMatrix{"m", rows, columns, *scheme_from_format(format), std::nullopt};
  };
  EXPECT_THAT(compressed.problem(with("fp6", 32, 64)), HasSubstr("it has no fp6"));
  EXPECT_THAT(compressed.problem(with("mxfp6", 32, 64)), HasSubstr("it has no mxfp6"));
  EXPECT_THAT(compressed.problem(with("int4", 32, 200)), HasSubstr("groups of 128"));
  EXPECT_THAT(gptq.problem(with("int5", 32, 64)), HasSubstr("not 5"));
  EXPECT_THAT(gptq.problem(with("mxfp4", 32, 64)), HasSubstr("it has no mxfp4"));
  EXPECT_THAT(gptq.problem(with("int4", 33, 64)), HasSubstr("multiples of 32"));
  const ServedFormat& own = served_format("gpt-oss");
  StoredMatrix expert = with("mxfp4", 32, 64);
  EXPECT_THAT(own.problem(expert), HasSubstr("routed experts alone"));
  expert.routed = true;
  EXPECT_EQ(own.problem(expert), "");
  StoredMatrix wide = expert, inputs = expert, other = expert;
  wide.scheme.group_size = 64;
  EXPECT_THAT(own.problem(wide), HasSubstr("it has no mxfp4 g64"));
  inputs.activation = scheme_from_format("mxfp8");
  EXPECT_THAT(own.problem(inputs), HasSubstr("activations"));
  other.scheme = *scheme_from_format("mxfp8");
  EXPECT_THAT(own.problem(other), HasSubstr("it has no mxfp8"));
  expert.columns = 40;
  EXPECT_THAT(own.problem(expert), HasSubstr("its 40 columns"));
  EXPECT_THROW(served_format("awq"), Error);
}

TEST(ServedFormat, GptqSaysWhatDiffers) {
  const auto stored = [](const std::string& name, std::string_view format) {
    return StoredMatrix{name, 32, 128, *scheme_from_format(format), std::nullopt};
  };
  const OrderedJson config = served_format("gptq").configuration(
      {stored("layers.0.q", "int4"), stored("layers.1.q", "int8"), stored("layers.2.q", "int4")},
      {"lm_head"});
  EXPECT_EQ(config["bits"], 4);
  EXPECT_EQ(config["checkpoint_format"], "gptq");
  EXPECT_EQ(config["dynamic"].size(), 2U);
  EXPECT_TRUE(config["dynamic"].contains("-:lm_head"));
  EXPECT_EQ(config["dynamic"][R"(+:(.*\.)?layers\.1\.q$)"]["bits"], 8);
}

TEST(ServedFormat, GptOssHoldsAllExpertsOrNone) {
  const ServedFormat& format = served_format("gpt-oss");
  Model model = test::gpt_oss_model();
  EXPECT_TRUE(suits(format, model));
  const auto reasons = [&](const std::function<void(const LinearSpec&, Assignment&)>& change) {
    return misfits(format, model, stored_matrices(model, test::gpt_oss_assigned(model, change)));
  };
  EXPECT_THAT(reasons({}), IsEmpty());
  EXPECT_THAT(reasons([](const LinearSpec& l, Assignment& a) {
                if (l.expert == 2 && l.role == Role::up) a = {};
              }),
              ElementsAre(HasSubstr("model.layers.0.mlp.experts.2.up_proj: it is untouched"),
                          HasSubstr("model.layers.1.mlp.experts.2.up_proj: it is untouched")));
  EXPECT_THAT(reasons([](const LinearSpec& l, Assignment& a) {
                if (l.role == Role::v && l.layer == 1) a.method = Method::gptq;
              }),
              ElementsAre(HasSubstr("model.layers.1.self_attn.v_proj: it holds routed experts")));
  model.fused.reset();
  EXPECT_FALSE(suits(format, model)) << "a tensor for each expert";
  EXPECT_FALSE(suits(format, test::served_model())) << "mixtral";
}

TEST(ServedFormat, ReadsTheOptionExport) {
  EXPECT_EQ(parse_export("out").out, "out");
  EXPECT_EQ(parse_export("out").format, "compressed-tensors");
  EXPECT_EQ(parse_export("out:gptq").format, "gptq");
  EXPECT_EQ(parse_export("a:b/out").out, "a:b/out");
  EXPECT_THROW(parse_export("out:awq"), Error);
}

}  // namespace
}  // namespace aq
