/// GPTQ checkpoints as GPTQModel reads and writes them (ModelCloud/GPTQModel:
/// nn_modules/qlinear, quantization/config.py).

#include <algorithm>
#include <array>
#include <map>

#include "aq/comm/common_error.h"
#include "aq/core/text.h"
#include "export/bits.h"
#include "export/module_patterns.h"
#include "export/served_format.h"

namespace aq {
namespace {

constexpr std::array<int, 4> kWidths{2, 3, 4, 8};
constexpr std::array<Index, 8> kGroups{kPerChannel, 16, 32, 64, 128, 256, 512, 1024};
constexpr Index kMultiple = 32;  // of rows and columns: words along both hold whole codes

std::string problem(const StoredMatrix& matrix) {
  const Scheme& scheme = matrix.scheme;
  if (scheme.is_float()) return str("it has no ", to_string(scheme));
  if (std::ranges::find(kWidths, scheme.bits) == kWidths.end())
    return str("it has 2, 3, 4 and 8 bits, not ", scheme.bits);
  if (scheme.group_size == kPerTensor) return "it has no scale of a whole tensor";
  if (std::ranges::find(kGroups, scheme.group_size) == kGroups.end())
    return str("it has no groups of ", scheme.group_size);
  if (matrix.activation) return "it has no quantized activations";
  if (matrix.rows % kMultiple != 0 || matrix.columns % kMultiple != 0)
    return str("its sizes must be multiples of ", kMultiple, ", not [", matrix.rows, ", ",
               matrix.columns, "]");
  return {};
}

std::vector<TensorEntry> entries(const StoredMatrix& matrix) {
  const Scheme& scheme = matrix.scheme;
  const Index groups = group_count(scheme, matrix.columns);
  return {
      {matrix.name + ".qweight", "I32", {words_per_row(scheme.bits, matrix.columns), matrix.rows}},
      {matrix.name + ".qzeros", "I32", {groups, words_per_row(scheme.bits, matrix.rows)}},
      {matrix.name + ".scales", scale_dtype(scheme.scale_type), {groups, matrix.rows}},
      {matrix.name + ".g_idx", "I32", {matrix.columns}}};
}

/// `[rows, groups]`: what is stored for the zeros. Version 1 of the format stores one less, which
/// asymmetric matrices, whose zero may be 0, do not survive; theirs is version 2.
std::vector<std::uint8_t> stored_zeros(const QuantizedMatrix& matrix, Index groups) {
  if (matrix.scheme.symmetric)
    return std::vector<std::uint8_t>(
        groups * matrix.rows, static_cast<std::uint8_t>((1 << (matrix.scheme.bits - 1)) - 1));
  return matrix.zeros;
}

std::vector<std::vector<std::byte>> pack(const QuantizedMatrix& matrix,
                                         const std::optional<Scheme>&) {
  const Scheme& scheme = matrix.scheme;
  const Index groups = group_count(scheme, matrix.columns);
  const Index words = words_per_row(scheme.bits, matrix.columns);
  // A row of codes packed along the inputs is a column of qweight.
  const auto qweight = transposed<std::uint32_t>(matrix.codes, matrix.rows, words);
  const auto qzeros = pack_columns(scheme.bits, stored_zeros(matrix, groups), matrix.rows, groups);
  const auto scales = transposed<float>(matrix.scales, matrix.rows, groups);
  const Index width = group_width(scheme, matrix.columns);
  std::vector<std::int32_t> g_idx;
  for (Index c = 0; c < matrix.columns; ++c) g_idx.push_back(static_cast<std::int32_t>(c / width));
  return {bytes_of<std::uint32_t>(qweight), bytes_of<std::uint32_t>(qzeros),
          floats_as(*dtype_from_name(scale_dtype(scheme.scale_type)), scales),
          bytes_of<std::int32_t>(g_idx)};
}

OrderedJson settings(const Scheme& scheme) {
  return {{"bits", scheme.bits},
          {"group_size", scheme.group_size},
          {"desc_act", false},
          {"sym", scheme.symmetric}};
}

/// The modules as vLLM calls them, which fuses those whose parts have one label: it matches rules
/// with these names too.
void add_fused(std::vector<LabelledModule>& modules) {
  static const std::map<std::string_view, std::string> kFused{{"q_proj", "qkv_proj"},
                                                              {"k_proj", "qkv_proj"},
                                                              {"v_proj", "qkv_proj"},
                                                              {"gate_proj", "gate_up_proj"},
                                                              {"up_proj", "gate_up_proj"}};
  std::map<std::string, std::vector<int>> parts;  // labels of what is fused, by its name
  for (const LabelledModule& module : modules) {
    const std::size_t experts = module.name.find(".experts.");
    const std::size_t dot = module.name.rfind('.') + 1;
    if (experts != std::string::npos)
      parts[module.name.substr(0, experts) + ".experts"].push_back(module.label);
    else if (const auto found = kFused.find(std::string_view(module.name).substr(dot));
             found != kFused.end())
      parts[module.name.substr(0, dot) + found->second].push_back(module.label);
  }
  for (const auto& [name, labels] : parts)
    if (std::ranges::adjacent_find(labels, std::not_equal_to{}) == labels.end())
      modules.push_back({name, labels.front()});
}

/// The settings of most experts, else of most matrices, and rules ("dynamic") for all others. A
/// rule's pattern also matches the fused names of vLLM (qkv_proj, gate_up_proj, experts) where its
/// modules are fused.
OrderedJson configuration(const std::vector<StoredMatrix>& matrices,
                          const std::vector<std::string>& left) {
  std::vector<OrderedJson> kinds;
  std::vector<Index> counts;
  std::vector<LabelledModule> modules;
  const bool symmetric = matrices.front().scheme.symmetric;
  for (const std::string& name : left) modules.push_back({name, kLeft});
  for (const StoredMatrix& matrix : matrices) {
    if (matrix.scheme.symmetric != symmetric)
      throw CommonError(ErrorKind::usage, "export", matrix.name,
                        str("a GPTQ checkpoint stores the zeros of all matrices one way, but of ",
                            matrices.front().name, " and this one only one is symmetric"),
                        "export with --format compressed-tensors");
    OrderedJson kind = settings(matrix.scheme);
    const auto found = std::ranges::find(kinds, kind) - kinds.begin();
    if (found == std::ssize(kinds)) {
      kinds.push_back(std::move(kind));
      counts.push_back(0);
    }
    // Servers ask for the experts' settings at the top, whatever the rules say.
    counts[found] += matrix.routed ? std::ssize(matrices) : 1;
    modules.push_back({matrix.name, static_cast<int>(found)});
  }
  const auto usual = std::ranges::max_element(counts) - counts.begin();
  add_fused(modules);
  const ModulePatterns patterns(modules);
  OrderedJson dynamic = OrderedJson::object();
  for (const std::string& pattern : patterns.of(kLeft, ""))
    dynamic["-:" + pattern] = OrderedJson::object();
  for (Index i = 0; i < std::ssize(kinds); ++i)
    if (i != usual)
      for (const std::string& pattern : patterns.of(static_cast<int>(i), ""))
        dynamic["+:" + pattern] = kinds[i];
  OrderedJson json{{"quant_method", "gptq"}};
  json.update(kinds[usual]);
  const std::string_view version = symmetric ? "gptq" : "gptq_v2";
  json["lm_head"] = std::ranges::any_of(
      matrices, [](const StoredMatrix& matrix) { return matrix.name == "lm_head"; });
  json["checkpoint_format"] = version;
  json["format"] = version;
  json["pack_dtype"] = "int32";
  if (!dynamic.empty()) json["dynamic"] = std::move(dynamic);
  json["meta"] = {{"quantizer", {str("aq-dist:", AQ_VERSION)}}};
  return json;
}

}  // namespace

ServedFormat gptq_format() {
  return {.name = "gptq",
          .problem = problem,
          .entries = entries,
          .pack = pack,
          .configuration = configuration,
          .configuration_file = "quantize_config.json"};
}

}  // namespace aq
