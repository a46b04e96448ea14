#include "verify/form.h"

#include <cmath>
#include <cstring>

#include "aq/core/dtype.h"

namespace aq {
namespace {

/// Streams of bits in 32-bit words, the least significant bit first: word w of stream s is word
/// s * stream + w * step of the array.
struct BitStreams {
  std::span<const std::byte> bytes;
  Index stream = 0, step = 1;

  std::uint32_t word(Index s, Index w) const {
    std::uint32_t value = 0;
    std::memcpy(&value, bytes.data() + (s * stream + w * step) * 4, 4);
    return value;
  }
  unsigned field(Index s, Index number, int bits) const {
    const Index first = number * bits, w = first / 32, end = first % 32 + bits;
    std::uint64_t pair = word(s, w);
    if (end > 32) pair |= static_cast<std::uint64_t>(word(s, w + 1)) << 32;
    return static_cast<unsigned>(pair >> (first % 32)) & ((1U << bits) - 1);
  }
  /// The first stream whose bits behind `used` ones are not all zero; -1: none.
  Index padded(Index streams, Index used) const {
    if (used % 32 == 0) return -1;
    for (Index s = 0; s < streams; ++s)
      if (word(s, used / 32) >> (used % 32) != 0) return s;
    return -1;
  }
};

Index words_of(int bits, Index count) {
  return ceil_div(count * bits, 32);
}

template <class T>
T at(std::span<const std::byte> bytes, Index i) {
  T value{};
  std::memcpy(&value, bytes.data() + i * static_cast<Index>(sizeof(T)), sizeof(T));
  return value;
}

/// Number i of a tensor of floats.
float number(ScaleType type, std::span<const std::byte> bytes, Index i) {
  switch (type) {
    case ScaleType::f32:
      return at<float>(bytes, i);
    case ScaleType::f16:
      return f16_to_float(at<std::uint16_t>(bytes, i));
    case ScaleType::bf16:
      return bf16_to_float(at<std::uint16_t>(bytes, i));
    case ScaleType::e8m0:
      return e8m0_to_float(at<std::uint8_t>(bytes, i));
    case ScaleType::e4m3:
      return element_value(Element::e4m3, at<std::uint8_t>(bytes, i));
  }
  return 0;
}

std::string scale_dtype(ScaleType type) {
  constexpr std::string_view kNames[] = {"F32", "F16", "BF16", "U8", "F8_E4M3"};
  return std::string(kNames[static_cast<std::size_t>(type)]);
}

std::string place(Index r, Index c) {
  return str("[", r, ", ", c, "]");
}

/// Scales are finite, not 0, and negative only where a format has use for that.
Problem scale_problem(const MatrixForm& form, const Scheme& scheme) {
  const bool may_be_negative = scheme.symmetric && !scheme.is_float();
  const bool one = scheme.group_size == kPerTensor;
  for (Index r = 0; r < (one ? 1 : form.rows); ++r)
    for (Index g = 0; g < form.groups(); ++g)
      if (const float scale = form.scale(r, g);
          !std::isfinite(scale) || scale == 0 || (scale < 0 && !may_be_negative))
        return {"scale", str("its scale at ", place(r, g), " is ", scale)};
  return {};
}

/// Codes of small floats that stand for no number.
Problem code_problem(const MatrixForm& form, const Scheme& scheme) {
  if (scheme.element != Element::e4m3 && scheme.element != Element::e5m2) return {};
  for (Index r = 0; r < form.rows; ++r)
    for (Index c = 0; c < form.columns; ++c)
      if (!std::isfinite(form.element(r, c)))
        return {"code", str("its code at ", place(r, c), " stands for no finite number")};
  return {};
}

Problem padding_problem(const BitStreams& streams, Index count, Index used, std::string_view what) {
  const Index s = streams.padded(count, used);
  if (s < 0) return {};
  return {"padding", str("bits behind the last ", what, " of stream ", s, " are not zero")};
}

/// The middle of symmetric integers; floats have no zero.
float middle(const Scheme& scheme) {
  return scheme.is_float() ? 0.0F : static_cast<float>(1 << (scheme.bits - 1));
}

float code_value(const Scheme& scheme, unsigned code) {
  return scheme.is_float() ? element_value(scheme.element, static_cast<std::uint8_t>(code))
                           : static_cast<float>(code);
}

/// Where the scale of (r, g) stands among those of `[rows, groups]`, or of the whole tensor.
Index scale_place(const MatrixForm& form, const Scheme& scheme, Index r, Index g) {
  return scheme.group_size == kPerTensor ? 0 : r * form.groups() + g;
}

MatrixForm empty_form(const Scheme& scheme, Index rows, Index columns) {
  MatrixForm form{rows, columns, group_width(scheme, columns), {}, {}, {}};
  const float zero = middle(scheme);
  form.zero = [zero](Index, Index) { return zero; };
  return form;
}

BitStreams rows_of(const QuantizedMatrix& stored) {
  return {std::as_bytes(std::span(stored.codes)), words_of(stored.scheme.bits, stored.columns), 1};
}

}  // namespace

MatrixForm form_of(const QuantizedMatrix& stored) {
  const Scheme& scheme = stored.scheme;
  MatrixForm form = empty_form(scheme, stored.rows, stored.columns);
  const BitStreams codes = rows_of(stored);
  form.element = [&scheme, codes](Index r, Index c) {
    return code_value(scheme, codes.field(r, c, scheme.bits));
  };
  const MatrixForm shape = form;
  form.scale = [&stored, &scheme, shape](Index r, Index g) {
    return stored.scales[scale_place(shape, scheme, r, g)] / stored.global_scale;
  };
  if (!scheme.symmetric)
    form.zero = [&stored, &scheme, shape](Index r, Index g) {
      return static_cast<float>(stored.zeros[scale_place(shape, scheme, r, g)]);
    };
  return form;
}

Problem problem_of(const MatrixForm& form, const Scheme& scheme) {
  if (Problem problem = scale_problem(form, scheme)) return problem;
  return code_problem(form, scheme);
}

Problem problem_of(const QuantizedMatrix& stored) {
  const Scheme& scheme = stored.scheme;
  const float global = stored.global_scale;
  if (!std::isfinite(global) || !(global > 0))
    return {"scale", str("its global scale is ", global)};
  const MatrixForm form = form_of(stored);
  if (Problem problem = problem_of(form, scheme)) return problem;
  for (const std::uint8_t zero : stored.zeros)
    if (zero >> scheme.bits != 0)
      return {"code", str("a zero point is ", int{zero}, ", beyond ", scheme.bits, " bits")};
  return padding_problem(rows_of(stored), stored.rows, stored.columns * scheme.bits, "code");
}

std::string layout_name(const Scheme& scheme, const std::optional<Scheme>& activation) {
  if (scheme.is_nvfp4()) return "nvfp4-pack-quantized";
  if (scheme.is_mx()) return scheme.bits == 4 ? "mxfp4-pack-quantized" : "mxfp8-quantized";
  const bool inputs = activation && !activation->is_nvfp4();  // their scale needs calibration
  if (scheme.is_float()) return inputs ? "float-quantized" : "naive-quantized";
  return inputs && !activation->is_float() && scheme.bits == 8 ? "int-quantized" : "pack-quantized";
}

namespace {

bool is_gptq(const ServedForm& served) {
  return served.layout.starts_with("gptq");
}

}  // namespace

std::vector<TensorEntry> parts_of(const ServedForm& served) {
  const Scheme& scheme = served.scheme;
  const Index rows = served.rows, columns = served.columns, groups = group_count(scheme, columns);
  const std::string scale = scale_dtype(scheme.scale_type);
  if (served.layout == "bf16") return {{"weight", "BF16", {rows, columns}}};
  if (served.layout == "gpt-oss")
    return {{"blocks", "U8", {rows, groups, 16}}, {"scales", "U8", {rows, groups}}};
  if (is_gptq(served))
    return {{"qweight", "I32", {words_of(scheme.bits, columns), rows}},
            {"qzeros", "I32", {groups, words_of(scheme.bits, rows)}},
            {"scales", scale, {groups, rows}},
            {"g_idx", "I32", {columns}}};
  std::vector<TensorEntry> parts;
  if (served.layout == "pack-quantized") {
    parts = {{"weight_packed", "I32", {rows, words_of(scheme.bits, columns)}},
             {"weight_shape", "I64", {2}}};
  } else if (served.layout == "int-quantized") {
    parts = {{"weight", "I8", {rows, columns}}};
  } else if (scheme.bits == 4) {
    parts = {{"weight_packed", "U8", {rows, columns / 2}}};
  } else {
    parts = {{"weight", "F8_E4M3", {rows, columns}}};
  }
  const bool one = scheme.group_size == kPerTensor;
  parts.push_back(
      {"weight_scale", scale, one ? std::vector<Index>{1} : std::vector<Index>{rows, groups}});
  if (!scheme.symmetric)
    parts.push_back({"weight_zero_point", "I32", {words_of(scheme.bits, rows), groups}});
  if (scheme.is_nvfp4()) parts.push_back({"weight_global_scale", "F32", {1}});
  return parts;
}

namespace {

MatrixForm gptq_form(const ServedForm& served, const Parts& parts) {
  const Scheme& scheme = served.scheme;
  const Index rows = served.rows;
  MatrixForm form = empty_form(scheme, rows, served.columns);
  const BitStreams codes{parts.at("qweight"), 1, rows};
  form.element = [codes, bits = scheme.bits](Index r, Index c) {
    return static_cast<float>(codes.field(r, c, bits));
  };
  const BitStreams zeros{parts.at("qzeros"), words_of(scheme.bits, rows), 1};
  const unsigned added = served.layout == "gptq" ? 1 : 0;  // version 1 stores one less
  form.zero = [zeros, added, bits = scheme.bits](Index r, Index g) {
    return static_cast<float>(zeros.field(g, r, bits) + added);
  };
  form.scale = [&scales = parts.at("scales"), type = scheme.scale_type, rows](Index r, Index g) {
    return number(type, scales, g * rows + r);
  };
  return form;
}

/// The codes of a layout of compressed-tensors, one value each.
std::function<float(Index, Index)> compressed_elements(const ServedForm& served,
                                                       const Parts& parts) {
  const Scheme scheme = served.scheme;
  const Index columns = served.columns;
  if (served.layout == "pack-quantized") {
    const BitStreams codes{parts.at("weight_packed"), words_of(scheme.bits, columns), 1};
    return [codes, bits = scheme.bits](Index r, Index c) {
      return static_cast<float>(codes.field(r, c, bits));
    };
  }
  if (served.layout == "int-quantized")  // two's complement: the zero is added again
    return [&bytes = parts.at("weight"), columns, zero = middle(scheme)](Index r, Index c) {
      return static_cast<float>(at<std::int8_t>(bytes, r * columns + c)) + zero;
    };
  if (scheme.bits == 4)
    return [&bytes = parts.at("weight_packed"), columns, scheme](Index r, Index c) {
      const unsigned pair = at<std::uint8_t>(bytes, r * (columns / 2) + c / 2);
      return code_value(scheme, c % 2 == 0 ? pair & 15 : pair >> 4);
    };
  return [&bytes = parts.at("weight"), columns, scheme](Index r, Index c) {
    return code_value(scheme, at<std::uint8_t>(bytes, r * columns + c));
  };
}

/// Packed along the rows, a stream a group.
BitStreams compressed_zeros(const ServedForm& served, const Parts& parts) {
  return {parts.at("weight_zero_point"), 1, group_count(served.scheme, served.columns)};
}

MatrixForm compressed_form(const ServedForm& served, const Parts& parts) {
  const Scheme& scheme = served.scheme;
  MatrixForm form = empty_form(scheme, served.rows, served.columns);
  form.element = compressed_elements(served, parts);
  if (!scheme.symmetric)
    form.zero = [zeros = compressed_zeros(served, parts), bits = scheme.bits](Index r, Index g) {
      return static_cast<float>(zeros.field(g, r, bits));
    };
  const float global = scheme.is_nvfp4() ? at<float>(parts.at("weight_global_scale"), 0) : 1.0F;
  const MatrixForm shape = form;
  form.scale = [&scales = parts.at("weight_scale"), scheme, global, shape](Index r, Index g) {
    return number(scheme.scale_type, scales, scale_place(shape, scheme, r, g)) / global;
  };
  return form;
}

/// 16 bytes a group of 32, two codes a byte, the first one low.
MatrixForm gpt_oss_form(const ServedForm& served, const Parts& parts) {
  MatrixForm form = empty_form(served.scheme, served.rows, served.columns);
  const Index groups = form.groups();
  form.element = [&blocks = parts.at("blocks"), scheme = served.scheme, groups](Index r, Index c) {
    const unsigned pair = at<std::uint8_t>(blocks, (r * groups + c / 32) * 16 + c % 32 / 2);
    return code_value(scheme, c % 2 == 0 ? pair & 15 : pair >> 4);
  };
  form.scale = [&scales = parts.at("scales"), groups](Index r, Index g) {
    return number(ScaleType::e8m0, scales, r * groups + g);
  };
  return form;
}

MatrixForm bf16_form(const ServedForm& served, const Parts& parts) {
  MatrixForm form{served.rows, served.columns, served.columns, {}, {}, {}};
  form.element = [&bytes = parts.at("weight"), columns = served.columns](Index r, Index c) {
    return bf16_to_float(at<std::uint16_t>(bytes, r * columns + c));
  };
  form.scale = [](Index, Index) { return 1.0F; };
  form.zero = [](Index, Index) { return 0.0F; };
  return form;
}

Problem gptq_problem(const ServedForm& served, const Parts& parts) {
  const Scheme& scheme = served.scheme;
  const Index groups = group_count(scheme, served.columns), rows = served.rows;
  const Index width = group_width(scheme, served.columns);
  for (Index c = 0; c < served.columns; ++c)
    if (at<std::int32_t>(parts.at("g_idx"), c) != c / width)
      return {"code", str("g_idx puts column ", c, " into group ",
                          at<std::int32_t>(parts.at("g_idx"), c), ", not ", c / width)};
  const MatrixForm form = gptq_form(served, parts);
  for (Index g = 0; scheme.symmetric && g < groups; ++g)
    for (Index r = 0; r < rows; ++r)
      if (form.zero(r, g) != middle(scheme))
        return {"code", str("its zero point at ", place(r, g), " is ", form.zero(r, g),
                            ", not that of symmetric codes")};
  const BitStreams codes{parts.at("qweight"), 1, rows};
  const BitStreams zeros{parts.at("qzeros"), words_of(scheme.bits, rows), 1};
  if (Problem problem = padding_problem(codes, rows, served.columns * scheme.bits, "code"))
    return problem;
  return padding_problem(zeros, groups, rows * scheme.bits, "zero point");
}

Problem compressed_problem(const ServedForm& served, const Parts& parts) {
  const Scheme& scheme = served.scheme;
  if (scheme.is_nvfp4()) {
    const float global = at<float>(parts.at("weight_global_scale"), 0);
    if (!std::isfinite(global) || !(global > 0))
      return {"scale", str("its global scale is ", global)};
  }
  if (served.layout == "pack-quantized") {
    const auto& shape = parts.at("weight_shape");
    const std::int64_t rows = at<std::int64_t>(shape, 0), columns = at<std::int64_t>(shape, 1);
    if (rows != served.rows || columns != served.columns)
      return {"shape", str("weight_shape says [", rows, ", ", columns, "]")};
    const BitStreams codes{parts.at("weight_packed"), words_of(scheme.bits, served.columns), 1};
    if (Problem problem = padding_problem(codes, served.rows, served.columns * scheme.bits, "code"))
      return problem;
  }
  if (!scheme.symmetric)
    if (Problem problem =
            padding_problem(compressed_zeros(served, parts), group_count(scheme, served.columns),
                            served.rows * scheme.bits, "zero point"))
      return problem;
  return code_problem(compressed_form(served, parts), scheme);
}

}  // namespace

MatrixForm form_of(const ServedForm& served, const Parts& parts) {
  if (served.layout == "bf16") return bf16_form(served, parts);
  if (served.layout == "gpt-oss") return gpt_oss_form(served, parts);
  return is_gptq(served) ? gptq_form(served, parts) : compressed_form(served, parts);
}

Problem problem_of(const ServedForm& served, const Parts& parts) {
  const MatrixForm form = form_of(served, parts);
  if (served.layout == "bf16") {
    for (Index r = 0; r < form.rows; ++r)
      for (Index c = 0; c < form.columns; ++c)
        if (!std::isfinite(form.element(r, c)))
          return {"code", str("its value at ", place(r, c), " is no finite number")};
    return {};
  }
  if (served.layout == "gpt-oss") return problem_of(form, served.scheme);
  if (Problem problem = scale_problem(form, served.scheme)) return problem;
  return is_gptq(served) ? gptq_problem(served, parts) : compressed_problem(served, parts);
}

}  // namespace aq
