#include "app/print_model.h"

#include <algorithm>
#include <iostream>

#include "aq/core/text.h"

namespace aq::app {
namespace {

using Json = nlohmann::ordered_json;

std::string attention_text(const LayerSpec& layer) {
  const AttentionSpec& attention = layer.attention;
  std::string text;
  if (layer.latent)
    text = str(attention.heads, " heads of ", attention.head_dim, ", values of ",
               attention.value_dim, ", latent of ", layer.latent->rank());
  else
    text = str(attention.heads, " heads, ", attention.kv_heads, " key-value heads of ",
               attention.head_dim);
  if (attention.qk_norm != QkNorm::none) text += ", q and k normalised";
  if (!layer.sinks.empty()) text += ", sinks";
  return text;
}

std::string rope_text(const RopeSpec& rope) {
  std::string text = str("theta ", rope.theta, ", ", rope.dims, " dimensions");
  const std::string factor = str(" by ", rope.factor);
  switch (rope.scaling) {
    case RopeScaling::none:
      return text;
    case RopeScaling::linear:
      return text + ", linear" + factor;
    case RopeScaling::llama3:
      return text + ", llama3" + factor;
    case RopeScaling::yarn:
      return text + ", YaRN" + factor;
  }
  return text;
}

std::string router_text(const MoeSpec& moe) {
  const RouterSpec& routing = moe.routing;
  std::string text = routing.score == RouterScore::sigmoid   ? "sigmoid"
                     : routing.score == RouterScore::softmax ? "softmax"
                                                             : "softmax of the chosen";
  if (!moe.correction_bias.empty()) text += ", correction bias";
  if (routing.groups > 1) text += str(", ", routing.kept_groups, " of ", routing.groups, " groups");
  if (routing.renormalize) text += ", renormalised";
  if (routing.scale != 1) text += str(", times ", routing.scale);
  return text;
}

void print_line(std::string_view name, const std::string& value) {
  std::cout << "  " << name << std::string(14 - name.size(), ' ') << value << "\n";
}

void print_mlps(const Model& model) {
  const std::vector<const LayerSpec*> moe_layers = model.moe_layers();
  const std::size_t dense = model.layers.size() - moe_layers.size();
  for (const LayerSpec& layer : model.layers)
    if (const MlpSpec* mlp = first_mlp(layer, MlpKind::dense)) {
      print_line("dense MLP",
                 str("width ", mlp->gate.rows, " in ", dense, dense == 1 ? " layer" : " layers"));
      break;
    }
  if (moe_layers.empty()) return;
  const LayerSpec& first = *moe_layers.front();
  const MoeSpec& moe = *first.moe;
  print_line("experts", str(moe.routing.experts, ", top-", moe.routing.top_k, ", width ",
                            first.mlp(0).gate.rows, " in ", moe_layers.size(), " layers"));
  print_line("router", router_text(moe));
  if (const MlpSpec* shared = first_mlp(first, MlpKind::shared))
    print_line("shared expert", str("width ", shared->gate.rows,
                                    shared->output_gate ? ", times the sigmoid of its gate" : ""));
}

std::string encoding_name(const Model& model) {
  switch (model.encoding) {
    case SourceEncoding::plain:
      return "plain";
    case SourceEncoding::fp8_blocks:
      return str("FP8 with a scale for each ", model.block_rows, " x ", model.block_columns);
    case SourceEncoding::mxfp4:
      return "experts in MXFP4";
    case SourceEncoding::packed:
      return str(model.packed.size(), " linears quantized by another program");
  }
  return "?";
}

}  // namespace

std::string counts_text(const std::map<std::string, Index>& counts) {
  std::string text;
  for (const auto& [name, count] : counts) text += str(text.empty() ? "" : ", ", count, " ", name);
  return text;
}

void print_model(const ModelFiles& files, Json& json) {
  const Model& model = files.model;
  std::map<std::string, Index> dtypes;
  Index bytes = 0;
  for (const auto& [name, tensor] : files.checkpoint.tensors()) {
    ++dtypes[std::string(dtype_name(tensor.dtype))];
    bytes += tensor.bytes;
  }
  const LayerSpec& first = model.layers.front();
  std::cout << "checkpoint " << files.checkpoint.directory().string() << "\n";
  print_line("architecture", str(model.architecture, ", class ", model.family));
  for (const std::string& assumption : files.assumptions) print_line("assumed", assumption);
  for (const std::string& assumption : assumption_texts(files.assumed_unused))
    print_line("assumed", assumption);
  const std::vector<std::string> remarks = model_remarks(files);
  for (const std::string& remark : remarks) print_line("found", remark);
  print_line("layers", str(model.layers.size(), ", hidden ", model.hidden, ", vocabulary ",
                           model.vocabulary, model.tied_head ? ", tied head" : ""));
  print_line("attention", attention_text(first));
  print_line("rotary", rope_text(first.attention.rope));
  print_mlps(model);
  print_line("parameters", str(fixed(static_cast<double>(parameter_count(model)) / 1e6, 3), " M"));
  print_line("weights", str(encoding_name(model), model.fused ? ", experts in 3-D tensors" : ""));
  print_line("tensors", str(files.checkpoint.tensors().size(), " (", counts_text(dtypes), ") in ",
                            files.checkpoint.files().size(), " files, ", bytes_text(bytes)));
  for (const std::string& text : unused_tensor_texts(files)) print_line("not used", text);
  const auto moe_layers = model.moe_layers();
  const MoeSpec none;
  const MoeSpec& moe = moe_layers.empty() ? none : *moe_layers.front()->moe;
  const MlpSpec* shared =
      moe_layers.empty() ? nullptr : first_mlp(*moe_layers.front(), MlpKind::shared);
  json = {{"architecture", model.architecture},
          {"class", model.family},
          {"assumptions", files.assumptions},
          {"assumed_unused", files.assumed_unused},
          {"remarks", remarks},
          {"layers", model.layers.size()},
          {"moe_layers", moe_layers.size()},
          {"hidden", model.hidden},
          {"vocabulary", model.vocabulary},
          {"experts", moe.routing.experts},
          {"top_k", moe.routing.top_k},
          {"shared_width", shared != nullptr ? shared->gate.rows : 0},
          {"parameters", parameter_count(model)},
          {"bytes", bytes},
          {"encoding", encoding_name(model)},
          {"extra_tensors", files.extra_tensors}};
}

}  // namespace aq::app
