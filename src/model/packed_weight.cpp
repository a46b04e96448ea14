#include "aq/model/packed_weight.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <set>

#include "aq/core/text.h"
#include "model/describe.h"

namespace aq {
namespace {

constexpr Index kWord = 32;
constexpr std::array<std::string_view, 11> kSuffixes{"weight_packed",
                                                     "qweight",
                                                     "weight",
                                                     "weight_scale",
                                                     "weight_zero_point",
                                                     "weight_g_idx",
                                                     "weight_global_scale",
                                                     "weight_shape",
                                                     "scales",
                                                     "qzeros",
                                                     "g_idx"};

/// Words of `count` codes.
Index dense_words(Index bits, Index count) {
  return ceil_div(bits * count, kWord);
}
Index words_of_whole_codes(Index bits, Index count) {
  return ceil_div(count, kWord / bits);
}

/// Those that the files hold of a linear.
std::vector<PackedTensor> tensors_of(const LinearSpec& linear, const TensorShapes& shapes) {
  std::vector<PackedTensor> found;
  for (const std::string_view suffix : kSuffixes)
    if (const auto tensor = shapes.find(str(linear.name, ".", suffix)); tensor != shapes.end())
      found.push_back({std::string(suffix), tensor->second});
  return found;
}

[[noreturn]] void fail(const ConfigReader& config, const LinearSpec& linear,
                       const std::string& reason) {
  config.fail("quantization_config",
              str("does not go with the tensors of ", linear.name, ": ", reason),
              "such a matrix cannot be read; use the original checkpoint");
}

/// Whether codes were packed into whole words: up to version 0.17 of the library.
bool has_whole_codes(const ConfigReader& quantization) {
  const std::string version = quantization.text_or("version", "");
  int major = 0, minor = 0;
  return std::sscanf(version.c_str(), "%d.%d", &major, &minor) == 2 && major == 0 && minor < 18;
}

/// Widths of the integers that the configuration has.
std::set<int> widths_of(const ConfigReader& quantization) {
  std::set<int> widths;
  if (!quantization.has("config_groups")) return widths;
  for (const Json& group : quantization.json().at("config_groups")) {
    const Json weights = group.is_object() ? group.value("weights", Json()) : Json();
    const Json bits = weights.is_object() ? weights.value("num_bits", Json()) : Json();
    if (bits.is_number_integer() && bits >= 2 && bits <= 8) widths.insert(bits.get<int>());
  }
  return widths;
}

/// The width whose packed row has so many words.
void find_width(const ConfigReader& config, const LinearSpec& linear, const std::set<int>& widths,
                PackedWeight& packed) {
  const Index words = packed.tensors.front().shape.at(1);
  for (const int bits : widths) {
    if (words != (packed.whole_codes ? words_of_whole_codes(bits, linear.columns)
                                     : dense_words(bits, linear.columns)))
      continue;
    if (packed.bits > 0)
      fail(config, linear,
           str("its rows of ", words, " words may have ", packed.bits, " or ", bits,
               " bits a code"));
    packed.bits = bits;
  }
  if (packed.bits == 0)
    fail(
        config, linear,
        str("rows of ", words, " words hold ", linear.columns, " codes of no width that it names"));
}

bool is_matrix(const PackedTensor& tensor, Index rows, Index columns) {
  return tensor.shape == std::vector<Index>{rows, columns};
}

PackedWeight compressed(const ConfigReader& config, const LinearSpec& linear,
                        const std::set<int>& widths, bool whole_codes,
                        std::vector<PackedTensor> tensors) {
  PackedWeight packed{.whole_codes = whole_codes, .tensors = std::move(tensors)};
  const PackedTensor& codes = packed.tensors.front();
  if (codes.suffix == "weight") {
    packed.form = PackedForm::scaled;
    if (!is_matrix(codes, linear.rows, linear.columns))
      fail(config, linear, "its weight has another shape");
  } else {
    if (codes.shape.size() != 2 || codes.shape[0] != linear.rows)
      fail(config, linear, "weight_packed has another number of rows");
    packed.form = PackedForm::nibbles;
    if (linear.columns % 2 != 0 || !is_matrix(codes, linear.rows, linear.columns / 2)) {
      packed.form = PackedForm::words;
      find_width(config, linear, widths, packed);
    }
  }
  if (packed.find("weight_scale") == nullptr) fail(config, linear, "there is no weight_scale");
  return packed;
}

PackedWeight gptq(const ConfigReader& config, const ConfigReader& quantization,
                  const LinearSpec& linear, int zero_offset, std::vector<PackedTensor> tensors) {
  PackedWeight packed{
      .form = PackedForm::gptq, .zero_offset = zero_offset, .tensors = std::move(tensors)};
  const std::vector<Index>& shape = packed.tensors.front().shape;
  for (const int bits : {2, 3, 4, 8})
    if (shape == std::vector<Index>{dense_words(bits, linear.columns), linear.rows})
      packed.bits = bits;
  if (packed.bits == 0) fail(config, linear, "qweight has another shape");
  for (const char* suffix : {"scales", "qzeros"})
    if (packed.find(suffix) == nullptr) fail(config, linear, str("there is no ", suffix));
  const Json size = quantization.json().value("group_size", Json());
  if (packed.find("g_idx") == nullptr && size.is_number_integer() && size > 0 &&
      linear.columns % size.get<Index>() != 0)
    fail(config, linear,
         str("groups of ", size.dump(), " do not divide its ", linear.columns,
             " columns, and there is no g_idx"));
  return packed;
}

/// Keys whose meaning the tensors show, or that do not change what is computed.
constexpr std::array<std::string_view, 6> kShown{
    "format", "config_groups", "ignore", "version", "global_compression_ratio", "kv_cache_scheme"};

/// Rotations and sparsity would change what the tensors mean.
void check_compressed_keys(const ConfigReader& config, const ConfigReader& quantization) {
  quantization.disregard({kShown.begin(), kShown.end()});
  if (const std::string status = quantization.text_or("quantization_status", "compressed");
      status != "compressed")
    config.fail("quantization_config", str("has quantization_status '", status, "'"),
                "weights are read that are stored 'compressed'");
  for (const char* key : {"sparsity_config", "transform_config"}) {
    if (!quantization.has(key)) continue;
    const Json& value = quantization.json().at(key);
    const bool dense = value.is_object() && value.value("format", Json("")) == "dense";
    if (!value.empty() && !dense)
      config.fail("quantization_config", str("has a ", key, ", ", shown(value)),
                  "checkpoints that are sparse or rotated cannot be read");
  }
}

/// The same of GPTQ. Others may change what is computed ("rotation", "adapter").
constexpr std::array<std::string_view, 19> kShownByGptq{"bits",
                                                        "group_size",
                                                        "desc_act",
                                                        "sym",
                                                        "lm_head",
                                                        "dynamic",
                                                        "meta",
                                                        "pack_dtype",
                                                        "static_groups",
                                                        "true_sequential",
                                                        "damp_percent",
                                                        "damp_auto_increment",
                                                        "block_name_to_quantize",
                                                        "modules_in_block_to_quantize",
                                                        "dataset",
                                                        "tokenizer",
                                                        "model_seqlen",
                                                        "model_name_or_path",
                                                        "model_file_base_name"};

/// 1 where stored zeros are one less.
int zero_offset_of(const ConfigReader& config, const ConfigReader& quantization) {
  quantization.disregard({kShownByGptq.begin(), kShownByGptq.end()});
  quantization.disregard({"format", "method"});
  for (const auto& [key, value] : quantization.json().items())
    if (value.is_null()) quantization.disregard({key});
  const std::string format =
      quantization.text_or("checkpoint_format", quantization.text_or("format", "gptq"));
  if (format != "gptq" && format != "gptq_v2")
    config.fail("quantization_config", str("has checkpoint_format '", format, "'"),
                "gptq and gptq_v2 can be read");
  return format == "gptq" ? 1 : 0;
}

}  // namespace

const PackedTensor* PackedWeight::find(std::string_view suffix) const {
  const auto found = std::ranges::find(tensors, suffix, &PackedTensor::suffix);
  return found == tensors.end() ? nullptr : &*found;
}

bool reads_packed(std::string_view method) {
  return method == "compressed-tensors" || method == "gptq";
}

void read_packed(const ConfigReader& config, const ConfigReader& quantization,
                 const TensorShapes& shapes, Model& model) {
  const bool is_gptq = quantization.text_or("quant_method", "") == "gptq";
  int zero_offset = 0;
  std::set<int> widths;
  bool whole_codes = false;
  if (is_gptq) {
    zero_offset = zero_offset_of(config, quantization);
  } else {
    check_compressed_keys(config, quantization);
    widths = widths_of(quantization);
    whole_codes = has_whole_codes(quantization);
  }
  for (const LinearSpec* linear : all_linears(model)) {
    std::vector<PackedTensor> tensors = tensors_of(*linear, shapes);
    if (tensors.empty() || (tensors.size() == 1 && tensors.front().suffix == "weight")) continue;
    model.packed.emplace(
        linear->name, is_gptq
                          ? gptq(config, quantization, *linear, zero_offset, std::move(tensors))
                          : compressed(config, *linear, widths, whole_codes, std::move(tensors)));
  }
}

}  // namespace aq
