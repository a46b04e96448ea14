/// compressed-tensors 0.18 (vllm-project/compressed-tensors): names and shapes of
/// compressors/*/base.py, keys of quantization/quant_args.py and quant_scheme.py.

#include <algorithm>

#include "export/bits.h"
#include "export/module_patterns.h"
#include "export/served_format.h"

namespace aq {
namespace {

constexpr Index kMxGroup = 32, kNvfp4Group = 16;

/// Whether the inputs can be rounded on the fly by a server: its global scale of nvfp4 comes from
/// calibration, which a run does not make.
bool rounds_inputs(const std::optional<Scheme>& activation) {
  return activation && !activation->is_nvfp4();
}

/// The library's name of the layout.
std::string layout_of(const Scheme& scheme, const std::optional<Scheme>& activation) {
  if (scheme.is_nvfp4()) return "nvfp4-pack-quantized";
  if (scheme.is_mx()) return scheme.bits == 4 ? "mxfp4-pack-quantized" : "mxfp8-quantized";
  const bool inputs = rounds_inputs(activation);
  if (scheme.is_float()) return inputs ? "float-quantized" : "naive-quantized";
  // Of other widths servers have kernels for packed words alone.
  return inputs && !activation->is_float() && scheme.bits == 8 ? "int-quantized" : "pack-quantized";
}

std::string group_problem(const StoredMatrix& matrix) {
  const Index group = matrix.scheme.group_size;
  if (group > 0 && matrix.columns % group != 0)
    return str("groups of ", group, " do not divide its ", matrix.columns, " columns");
  return {};
}

std::string problem(const StoredMatrix& matrix) {
  const Scheme& scheme = matrix.scheme;
  const std::string name = to_string(scheme);
  if (scheme.is_mx()) {
    const bool known = scheme.element == Element::e2m1 || scheme.element == Element::e4m3;
    if (!known || scheme.group_size != kMxGroup) return str("it has no ", name);
  } else if (scheme.is_nvfp4()) {
    if (scheme.group_size != kNvfp4Group) return str("it has no ", name);
  } else if (scheme.is_float() && scheme.element != Element::e4m3) {
    return str("it has no ", name);
  }
  if (scheme.is_float() && scheme.bits == 4 && matrix.columns % 2 != 0)
    return str("two codes are a byte, but it has ", matrix.columns, " columns");
  if (!scheme.symmetric && scheme.group_size == kPerTensor)
    return "it has no zero point of a whole tensor";
  if (matrix.activation && layout_of(scheme, matrix.activation) == "int-quantized" &&
      !scheme.symmetric)
    return "integer activations need symmetric weights";
  return group_problem(matrix);
}

/// `[out, groups]`, or `[1]` per tensor.
std::vector<Index> scale_shape(const StoredMatrix& matrix) {
  if (matrix.scheme.group_size == kPerTensor) return {1};
  return {matrix.rows, group_count(matrix.scheme, matrix.columns)};
}

std::vector<TensorEntry> entries(const StoredMatrix& matrix) {
  const Scheme& scheme = matrix.scheme;
  const std::string layout = layout_of(scheme, matrix.activation), weight = matrix.name + ".weight";
  const std::vector<Index> shape{matrix.rows, matrix.columns};
  std::vector<TensorEntry> tensors;
  if (layout == "pack-quantized")
    tensors = {{weight + "_packed", "I32", {matrix.rows, words_per_row(scheme.bits, shape[1])}},
               {weight + "_shape", "I64", {2}}};
  else if (layout == "int-quantized")
    tensors = {{weight, "I8", shape}};
  else if (scheme.bits == 4)
    tensors = {{weight + "_packed", "U8", {matrix.rows, matrix.columns / 2}}};
  else
    tensors = {{weight, "F8_E4M3", shape}};
  tensors.push_back({weight + "_scale", scale_dtype(scheme.scale_type), scale_shape(matrix)});
  if (!scheme.symmetric)
    tensors.push_back({weight + "_zero_point",
                       "I32",
                       {words_per_row(scheme.bits, matrix.rows), scale_shape(matrix)[1]}});
  if (scheme.is_nvfp4()) tensors.push_back({weight + "_global_scale", "F32", {1}});
  return tensors;
}

/// Rows of codes without the padding of our words.
std::vector<std::byte> code_bytes(const QuantizedMatrix& matrix) {
  const Index bytes = matrix.columns * matrix.scheme.bits / 8;
  const Index words = words_per_row(matrix.scheme.bits, matrix.columns);
  std::vector<std::byte> result;
  for (Index r = 0; r < matrix.rows; ++r) {
    const auto row = std::as_bytes(std::span(matrix.codes).subspan(r * words, words)).first(bytes);
    result.insert(result.end(), row.begin(), row.end());
  }
  return result;
}

/// Two's complement, a byte each.
std::vector<std::byte> signed_codes(const QuantizedMatrix& matrix) {
  std::vector<std::uint8_t> codes = unpacked_codes(matrix);
  const int middle = 1 << (matrix.scheme.bits - 1);
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(code - middle);
  return bytes_of<std::uint8_t>(codes);
}

std::vector<std::vector<std::byte>> pack(const QuantizedMatrix& matrix,
                                         const std::optional<Scheme>& activation) {
  const Scheme& scheme = matrix.scheme;
  const std::string layout = layout_of(scheme, activation);
  std::vector<std::vector<std::byte>> tensors;
  if (layout == "pack-quantized") {
    const std::array<std::int64_t, 2> shape{matrix.rows, matrix.columns};
    tensors = {bytes_of<std::uint32_t>(matrix.codes), bytes_of<std::int64_t>(shape)};
  } else if (layout == "int-quantized") {
    tensors = {signed_codes(matrix)};
  } else {
    tensors = {code_bytes(matrix)};
  }
  tensors.push_back(scale_bytes(matrix));
  if (!scheme.symmetric) {  // packed along the first dimension
    const Index groups = group_count(scheme, matrix.columns);
    const auto packed = pack_columns(scheme.bits, matrix.zeros, matrix.rows, groups);
    tensors.push_back(bytes_of<std::uint32_t>(
        transposed<std::uint32_t>(packed, groups, words_per_row(scheme.bits, matrix.rows))));
  }
  if (scheme.is_nvfp4()) tensors.push_back(bytes_of(std::span(&matrix.global_scale, 1)));
  return tensors;
}

/// QuantizationArgs. Keys that older versions of the library refuse are left out where they say
/// nothing: scale_dtype and zp_dtype.
OrderedJson arguments(const Scheme& scheme, bool dynamic) {
  OrderedJson json{{"num_bits", scheme.bits},
                   {"type", scheme.is_float() ? "float" : "int"},
                   {"symmetric", scheme.symmetric},
                   {"group_size", nullptr}};
  if (scheme.group_size == kPerTensor)
    json["strategy"] = "tensor";
  else if (scheme.group_size == kPerChannel)
    json["strategy"] = dynamic ? "token" : "channel";
  else
    json["strategy"] = scheme.is_nvfp4() ? "tensor_group" : "group";
  if (scheme.group_size > 0) json["group_size"] = scheme.group_size;
  json["dynamic"] = dynamic;
  json["observer"] = dynamic ? OrderedJson() : OrderedJson("minmax");
  if (scheme.is_nvfp4()) json["scale_dtype"] = "torch.float8_e4m3fn";
  if (scheme.is_mx()) json["scale_dtype"] = "torch.uint8";
  return json;
}

OrderedJson config_group(const StoredMatrix& matrix) {
  OrderedJson group;
  group["weights"] = arguments(matrix.scheme, false);
  group["input_activations"] =
      rounds_inputs(matrix.activation) ? arguments(*matrix.activation, true) : OrderedJson();
  group["output_activations"] = nullptr;
  return group;
}

/// Servers ask for a head by its name alone.
std::vector<std::string> every_linear(const std::vector<StoredMatrix>& matrices) {
  std::vector<std::string> targets{"Linear"};
  for (const StoredMatrix& matrix : matrices)
    if (matrix.name.find(".layers.") == std::string::npos) targets.push_back(matrix.name);
  return targets;
}

OrderedJson configuration(const std::vector<StoredMatrix>& matrices,
                          const std::vector<std::string>& left) {
  std::vector<OrderedJson> groups;
  std::vector<std::string> layouts;  // of each group
  std::vector<LabelledModule> modules;
  for (const std::string& name : left) modules.push_back({name, kLeft});
  // transformers takes the first group that names experts for all of them.
  std::vector<StoredMatrix> ordered = matrices;
  std::stable_partition(ordered.begin(), ordered.end(),
                        [](const StoredMatrix& matrix) { return matrix.routed; });
  for (const StoredMatrix& matrix : ordered) {
    OrderedJson group = config_group(matrix);
    const auto found = std::ranges::find(groups, group);
    modules.push_back({matrix.name, static_cast<int>(found - groups.begin())});
    if (found != groups.end()) continue;
    groups.push_back(std::move(group));
    layouts.push_back(layout_of(matrix.scheme, matrix.activation));
  }
  const bool mixed = std::ranges::adjacent_find(layouts, std::not_equal_to{}) != layouts.end();
  const ModulePatterns patterns(modules);
  OrderedJson config_groups = OrderedJson::object();
  for (std::size_t i = 0; i < groups.size(); ++i) {
    OrderedJson& group = config_groups[str("group_", i)];
    group["targets"] =
        groups.size() == 1 ? every_linear(matrices) : patterns.of(static_cast<int>(i), "re:");
    if (mixed) group["format"] = layouts[i];
    group.update(groups[i]);
  }
  return {{"quant_method", "compressed-tensors"},
          {"format", mixed || layouts.empty() ? "mixed-precision" : layouts.front()},
          {"quantization_status", "compressed"},
          {"config_groups", std::move(config_groups)},
          {"ignore", patterns.of(kLeft, "re:")},
          {"kv_cache_scheme", nullptr},
          {"global_compression_ratio", nullptr},
          {"version", "0.18.0"}};
}

}  // namespace

ServedFormat compressed_tensors_format() {
  return {.name = "compressed-tensors",
          .problem = problem,
          .entries = entries,
          .pack = pack,
          .configuration = configuration};
}

}  // namespace aq
