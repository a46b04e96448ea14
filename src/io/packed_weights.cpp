#include "io/packed_weights.h"

#include <algorithm>

#include "aq/core/finite.h"
#include "aq/core/json.h"
#include "aq/formats/quantized_matrix.h"
#include "aq/model/text_config.h"
#include "io/fp4.h"
#include "io/shape_text.h"

namespace aq {
namespace {

constexpr Index kBlock = 128;  // of scales for blocks of rows and columns

/// The tensors of one linear.
class Tensors {
 public:
  Tensors(const Checkpoint& checkpoint, const LinearSpec& linear, const PackedWeight& packed)
      : checkpoint_(checkpoint), linear_(linear), packed_(packed) {}

  const PackedTensor* find(std::string_view suffix) const { return packed_.find(suffix); }
  std::string name(std::string_view suffix) const { return str(linear_.name, ".", suffix); }
  std::string dtype(std::string_view suffix) const { return checkpoint_.raw(name(suffix)).dtype; }

  [[noreturn]] void fail(std::string_view suffix, const std::string& reason) const {
    throw Error(ErrorKind::input, "read a tensor",
                str(checkpoint_.directory().string(), ": ", name(suffix)), reason);
  }

  /// Whether config.json says `sym` of all codes: no rule of it takes that back.
  bool are_called_symmetric() const {
    const std::string file = checkpoint_.config_path().string();
    const Json config = parse_json(text_config(checkpoint_.config_json(), file).json,
                                   {ErrorKind::input, "read a tensor", file}, JsonDialect::python);
    const Json quantization = config.value("quantization_config", Json::object());
    const auto says = [](const Json& json, bool value) {
      return json.is_object() && json.value("sym", Json()) == Json(value);
    };
    return says(quantization, true) &&
           std::ranges::none_of(quantization.value("dynamic", Json()),
                                [&](const Json& rule) { return says(rule, false); });
  }
  /// Floats have none.
  void refuse_zeros() const {
    if (find("weight_zero_point") != nullptr) fail("weight_zero_point", "floats have no zeros");
  }
  /// The shape of the whole matrix, where it is stored, is that of the linear.
  void check_shape() const {
    if (find("weight_shape") == nullptr) return;
    const auto shape = read_all<std::int64_t>("weight_shape", {"I64"});
    if (shape != std::vector<std::int64_t>{linear_.rows, linear_.columns})
      fail("weight_shape", str("it is not [", linear_.rows, ", ", linear_.columns, "]"));
  }

  /// Elements [first, first + count) as they are stored.
  template <class T>
  std::vector<T> read(std::string_view suffix, Index first, Index count,
                      std::initializer_list<std::string_view> types) const {
    const RawTensor tensor = checkpoint_.raw(name(suffix));
    if (std::ranges::find(types, tensor.dtype) == types.end())
      fail(suffix, str("its dtype is ", tensor.dtype, ", but ", *types.begin(), " is needed"));
    std::vector<T> values(count);
    checkpoint_.read_raw(tensor, first * Index{sizeof(T)},
                         std::as_writable_bytes(std::span(values)));
    return values;
  }
  template <class T>
  std::vector<T> read_all(std::string_view suffix,
                          std::initializer_list<std::string_view> types) const {
    return read<T>(suffix, 0, elements(suffix), types);
  }
  Index elements(std::string_view suffix) const {
    Index count = 1;
    for (const Index extent : find(suffix)->shape) count *= extent;
    return count;
  }

  /// Floats; of U8 and F8_E8M0 powers of two.
  std::vector<float> scales(std::string_view suffix) const {
    if (const std::string type = dtype(suffix); type != "U8" && type != "F8_E8M0")
      return checkpoint_.read(name(suffix), find(suffix)->shape);
    std::vector<float> values;
    for (const std::uint8_t bits : read_all<std::uint8_t>(suffix, {"U8", "F8_E8M0"})) {
      if (bits == 255) fail(suffix, "a scale is NaN (255)");
      values.push_back(e8m0_to_float(bits));
    }
    return values;
  }

 private:
  const Checkpoint& checkpoint_;
  const LinearSpec& linear_;
  const PackedWeight& packed_;
};

/// Which scale goes with a weight.
struct ScaleMap {
  std::vector<float> values;  ///< `[rows, columns]` of this map
  Index rows = 1, columns = 1;
  Index block_rows = 1;         ///< rows of the weight that share one
  std::vector<Index> group_of;  ///< of a column of the weight
  Index at(Index row, Index column) const {
    return std::min(row / block_rows, rows - 1) * columns + group_of[column];
  }
};

/// Groups of a matrix with `groups` scales a row: from the tensor that names them, or in order.
std::vector<Index> groups_of_columns(const Tensors& tensors, const LinearSpec& linear, Index groups,
                                     std::string_view suffix, std::string_view scales) {
  std::vector<Index> group_of(linear.columns);
  std::vector<std::int32_t> named;
  if (const PackedTensor* tensor = tensors.find(suffix); tensor && tensors.elements(suffix) > 0) {
    if (tensor->shape != std::vector<Index>{linear.columns})
      tensors.fail(suffix,
                   str("its shape is ", shape_text(tensor->shape), ", not [", linear.columns, "]"));
    named = tensors.read_all<std::int32_t>(suffix, {"I32"});
  }
  // -1 everywhere: the groups are in order.
  if (std::ranges::any_of(named, [](std::int32_t group) { return group != -1; })) {
    for (Index c = 0; c < linear.columns; ++c) {
      if (named[c] < 0 || named[c] >= groups)
        tensors.fail(suffix, str("column ", c, " is of group ", named[c], " of ", groups));
      group_of[c] = named[c];
    }
    return group_of;
  }
  if (linear.columns % groups != 0)
    tensors.fail(scales, str(groups, " groups do not divide ", linear.columns, " columns"));
  for (Index c = 0; c < linear.columns; ++c) group_of[c] = c / (linear.columns / groups);
  return group_of;
}

ScaleMap scale_map(const Tensors& tensors, const LinearSpec& linear) {
  constexpr std::string_view kScale = "weight_scale";
  std::vector<Index> shape = tensors.find(kScale)->shape;
  if (shape.size() < 2) shape.resize(2, 1);
  if (shape.size() > 2 || shape[0] < 1 || shape[1] < 1)
    tensors.fail(kScale, str("its shape is ", shape_text(shape), ", not [rows, groups]"));
  ScaleMap map{tensors.scales(kScale), shape[0], shape[1], 1, {}};
  const bool by_block = shape[0] != linear.rows && shape != std::vector<Index>{1, 1};
  if (by_block &&
      (shape[0] != ceil_div(linear.rows, kBlock) || shape[1] != ceil_div(linear.columns, kBlock)))
    tensors.fail(kScale, str("its shape ", shape_text(shape), " fits no groups of [", linear.rows,
                             ", ", linear.columns, "], nor blocks of 128 x 128"));
  if (by_block) {
    map.block_rows = kBlock;
    for (Index c = 0; c < linear.columns; ++c) map.group_of.push_back(c / kBlock);
  } else {
    if (shape[0] == 1) map.block_rows = linear.rows;
    map.group_of = groups_of_columns(tensors, linear, shape[1], "weight_g_idx", kScale);
  }
  return map;
}

/// Zeros of GPTQ's version 1 are stored less one. Whole words were subtracted from, so that a zero
/// of 0 borrows from the next; but of three bits each by itself (GPTQModel, utils/model.py).
void add_one_to_words(int bits, std::span<std::uint32_t> words) {
  const std::uint32_t ones = 0xffffffffU / ((1U << bits) - 1);  // 1 in each code
  if (bits != 3)
    for (std::uint32_t& word : words) word += ones;
}

/// Codes of one row.
void unpack(const PackedWeight& packed, std::span<const std::uint32_t> words,
            std::span<std::uint8_t> codes) {
  if (!packed.whole_codes) return unpack_row(packed.bits, words, codes);
  const std::size_t per_word = 32U / static_cast<unsigned>(packed.bits);
  for (std::size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<std::uint8_t>(words[i / per_word] >>
                                         (i % per_word * static_cast<unsigned>(packed.bits))) &
               static_cast<std::uint8_t>((1U << packed.bits) - 1);
}

/// Zeros as the scales are laid out; empty when the codes are symmetric. `[words of the rows,
/// groups]`, packed along the rows, or one I8 each, counted from the middle.
std::vector<std::int32_t> zeros_of(const Tensors& tensors, const LinearSpec& linear,
                                   const PackedWeight& packed, const ScaleMap& scales) {
  constexpr std::string_view kZeros = "weight_zero_point";
  const PackedTensor* stored = tensors.find(kZeros);
  if (stored == nullptr) return {};
  const Index count = std::ssize(scales.values);
  std::vector<std::int32_t> zeros;
  if (tensors.dtype(kZeros) == "I8") {
    if (tensors.elements(kZeros) != count)
      tensors.fail(kZeros, str("its shape is ", shape_text(stored->shape), ", unlike the scales'"));
    const int middle = packed.form == PackedForm::words ? 1 << (packed.bits - 1) : 0;
    for (const std::int8_t zero : tensors.read_all<std::int8_t>(kZeros, {"I8"}))
      zeros.push_back(zero + middle);
    return zeros;
  }
  if (packed.form != PackedForm::words) tensors.fail(kZeros, "it is not I8");
  const Index words = packed.whole_codes ? ceil_div(linear.rows, 32 / packed.bits)
                                         : words_per_row(packed.bits, linear.rows);
  if (stored->shape != std::vector<Index>{words, scales.columns} || scales.rows != linear.rows)
    tensors.fail(kZeros, str("its shape is ", shape_text(stored->shape), ", but ",
                             shape_text({words, scales.columns}), " is needed"));
  const auto bits = tensors.read_all<std::uint32_t>(kZeros, {"I32"});
  zeros.resize(count);
  std::vector<std::uint32_t> column(words);
  std::vector<std::uint8_t> codes(linear.rows);
  for (Index g = 0; g < scales.columns; ++g) {
    for (Index w = 0; w < words; ++w) column[w] = bits[w * scales.columns + g];
    unpack(packed, column, codes);
    for (Index r = 0; r < linear.rows; ++r) zeros[r * scales.columns + g] = codes[r];
  }
  return zeros;
}

Matrix read_words(const Tensors& tensors, const LinearSpec& linear, const PackedWeight& packed,
                  Index begin, Index count) {
  const ScaleMap scales = scale_map(tensors, linear);
  const std::vector<std::int32_t> zeros = zeros_of(tensors, linear, packed, scales);
  const Index words = packed.tensors.front().shape[1];
  const auto bits =
      tensors.read<std::uint32_t>("weight_packed", begin * words, count * words, {"I32"});
  Matrix rows(count, linear.columns);
  std::vector<std::uint8_t> codes(linear.columns);
  for (Index r = 0; r < count; ++r) {
    unpack(packed, std::span(bits).subspan(r * words, words), codes);
    for (Index c = 0; c < linear.columns; ++c) {
      const Index at = scales.at(begin + r, c);
      const int zero = zeros.empty() ? 1 << (packed.bits - 1) : zeros[at];
      rows(r, c) = static_cast<float>(codes[c] - zero) * scales.values[at];
    }
  }
  return rows;
}

Matrix read_scaled(const Tensors& tensors, const LinearSpec& linear, const PackedWeight& packed,
                   Index begin, Index count) {
  const ScaleMap scales = scale_map(tensors, linear);
  const Index first = begin * linear.columns, size = count * linear.columns;
  Matrix rows(count, linear.columns);
  const bool integers = tensors.dtype("weight") == "I8";
  std::vector<std::int32_t> zeros;
  if (integers)
    zeros = zeros_of(tensors, linear, packed, scales);
  else
    tensors.refuse_zeros();
  if (integers) {
    const auto codes = tensors.read<std::int8_t>("weight", first, size, {"I8"});
    std::ranges::copy(codes, rows.values.begin());
  } else {
    const auto codes = tensors.read<std::uint8_t>("weight", first, size, {"F8_E4M3"});
    std::ranges::transform(codes, rows.values.begin(), f8_e4m3_to_float);
  }
  for (Index r = 0; r < count; ++r)
    for (Index c = 0; c < linear.columns; ++c) {
      const Index at = scales.at(begin + r, c);
      if (!zeros.empty()) rows(r, c) -= static_cast<float>(zeros[at]);
      rows(r, c) *= scales.values[at];
    }
  return rows;
}

Matrix read_nibbles(const Tensors& tensors, const LinearSpec& linear, Index begin, Index count) {
  ScaleMap scales = scale_map(tensors, linear);
  tensors.refuse_zeros();
  const bool has_global = tensors.find("weight_global_scale") != nullptr;
  if (has_global != (tensors.dtype("weight_scale") == "F8_E4M3"))
    tensors.fail("weight_scale", str("its dtype is ", tensors.dtype("weight_scale"),
                                     has_global ? ", but there is a weight_global_scale"
                                                : ", but there is no weight_global_scale"));
  if (has_global) {
    const std::vector<float> global = tensors.scales("weight_global_scale");
    if (global.size() != 1 || global.front() == 0)
      tensors.fail("weight_global_scale", "it is not one number other than 0");
    for (float& scale : scales.values) scale /= global.front();
  }
  const Index bytes = linear.columns / 2;
  const auto codes =
      tensors.read<std::uint8_t>("weight_packed", begin * bytes, count * bytes, {"U8"});
  const std::array<float, 16>& fp4 = fp4_values();
  Matrix rows(count, linear.columns);
  for (Index r = 0; r < count; ++r)
    for (Index c = 0; c < linear.columns; ++c) {
      const auto code =
          static_cast<std::uint8_t>(codes[r * bytes + c / 2] >> (c % 2 == 0 ? 0 : 4) & 15);
      rows(r, c) = fp4[code] * scales.values[scales.at(begin + r, c)];
    }
  return rows;
}

Matrix read_gptq(const Tensors& tensors, const LinearSpec& linear, const PackedWeight& packed,
                 Index begin, Index count) {
  const std::vector<Index>& shape = tensors.find("scales")->shape;
  const Index groups = shape.empty() ? 0 : shape.front();
  const Index zero_words = words_per_row(packed.bits, linear.rows);
  if (shape != std::vector<Index>{groups, linear.rows} || groups == 0)
    tensors.fail("scales",
                 str("its shape is ", shape_text(shape), ", not [groups, ", linear.rows, "]"));
  if (tensors.find("qzeros")->shape != std::vector<Index>{groups, zero_words})
    tensors.fail("qzeros", str("its shape is ", shape_text(tensors.find("qzeros")->shape), ", but ",
                               shape_text({groups, zero_words}), " is needed"));
  const std::vector<Index> group_of = groups_of_columns(tensors, linear, groups, "g_idx", "scales");
  const std::vector<float> scales = tensors.scales("scales");
  const auto bits = tensors.read_all<std::uint32_t>("qweight", {"I32"});
  auto zero_bits = tensors.read_all<std::uint32_t>("qzeros", {"I32"});
  if (packed.zero_offset == 1) add_one_to_words(packed.bits, zero_bits);
  std::vector<std::uint8_t> zeros(groups * linear.rows);
  for (Index g = 0; g < groups; ++g)
    unpack(packed, std::span(zero_bits).subspan(g * zero_words, zero_words),
           std::span(zeros).subspan(g * linear.rows, linear.rows));
  if (packed.zero_offset == 1 && packed.bits == 3)
    for (std::uint8_t& zero : zeros) zero = (zero + 1) & 7;
  // GPTQModel's torch, Triton and ExLlama kernels read zeros; Marlin takes the middle with `sym`.
  const int middle = 1 << (packed.bits - 1);
  const bool has_others = std::ranges::any_of(zeros, [&](int zero) { return zero != middle; });
  if (has_others && tensors.are_called_symmetric())
    tensors.fail("qzeros",
                 str("it has zeros other than ", middle,
                     ", but config.json says sym: true; servers differ in what they believe"));
  const Index words = packed.tensors.front().shape[0];
  std::vector<std::uint32_t> row(words);
  std::vector<std::uint8_t> codes(linear.columns);
  Matrix rows(count, linear.columns);
  for (Index r = 0; r < count; ++r) {
    for (Index w = 0; w < words; ++w) row[w] = bits[w * linear.rows + begin + r];
    unpack(packed, row, codes);
    for (Index c = 0; c < linear.columns; ++c) {
      const Index at = group_of[c] * linear.rows + begin + r;
      rows(r, c) = static_cast<float>(codes[c] - zeros[at]) * scales[at];
    }
  }
  return rows;
}

Matrix read_form(const Tensors& tensors, const LinearSpec& linear, const PackedWeight& packed,
                 Index begin, Index count) {
  switch (packed.form) {
    case PackedForm::words:
      return read_words(tensors, linear, packed, begin, count);
    case PackedForm::gptq:
      return read_gptq(tensors, linear, packed, begin, count);
    case PackedForm::scaled:
      return read_scaled(tensors, linear, packed, begin, count);
    case PackedForm::nibbles:
      return read_nibbles(tensors, linear, begin, count);
  }
  return {};
}

}  // namespace

Matrix read_packed_rows(const Checkpoint& checkpoint, const LinearSpec& linear,
                        const PackedWeight& packed, Index begin, Index count) {
  const Tensors tensors(checkpoint, linear, packed);
  tensors.check_shape();
  Matrix rows = read_form(tensors, linear, packed, begin, count);
  if (!all_finite(rows.values))
    tensors.fail(packed.tensors.front().suffix, "a value times its scale is infinite or NaN");
  return rows;
}

}  // namespace aq
