/// What is said of a checkpoint beyond the model that was read from it.

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>

#include "aq/core/text.h"
#include "aq/io/model_files.h"

namespace aq {
namespace {

constexpr std::size_t kMostNamed = 3;  // of a kind

/// What stands before the layers' numbers: "model.layers.".
std::string layers_prefix(const ModelFiles& files) {
  const std::string& pattern = files.row.tensors.layer;
  return pattern.substr(0, pattern.find("{i}"));
}

bool is_scale(const std::string& name) {
  constexpr std::array<std::string_view, 6> kEndings{"_scale", "_scales",    "_scale_inv",
                                                     ".scale", ".weight_zp", "_zero_point"};
  return std::ranges::any_of(kEndings, [&](std::string_view end) { return name.ends_with(end); });
}

/// Of modules that predict further tokens: layers behind the last one, or named so.
bool is_prediction(const ModelFiles& files, const std::string& name) {
  const std::string prefix = layers_prefix(files);
  if (name.starts_with(prefix))
    return std::atoll(name.c_str() + prefix.size()) >= std::ssize(files.model.layers);
  return name.starts_with("mtp.") || name.find(".mtp.") != std::string::npos ||
         name.find("nextn") != std::string::npos;
}

/// Modules of the name that tell one tower from another: "model.visual", "vision_tower".
std::string tower_of(const std::string& name) {
  std::size_t end = name.find('.');
  for (const std::string_view outer : {"model.", "language_model.", "module.", "thinker."})
    if (name.starts_with(outer)) end = name.find('.', outer.size());
  return name.substr(0, end);
}

std::string kind_of(const ModelFiles& files, const std::string& name) {
  if (is_prediction(files, name)) return "of layers that predict further tokens (MTP)";
  if (name.find("inv_freq") != std::string::npos || name.find("rotary_emb") != std::string::npos)
    return "that hold rotary tables, which are computed anew";
  if (is_scale(name)) return "that hold scales of weights or activations";
  if (name.starts_with(layers_prefix(files))) return "of the model's layers, of unknown meaning";
  return str("of ", tower_of(name));
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kMostNamed); ++i)
    text += str(i == 0 ? "" : ", ", names[i]);
  return text + (names.size() > kMostNamed ? ", ..." : "");
}

}  // namespace

std::vector<std::string> model_remarks(const ModelFiles& files) {
  const Model& model = files.model;
  const std::string head = model.head.weight_name();
  std::vector<std::string> remarks;
  if (!files.text_key.empty())
    remarks.push_back(str("the text model is that of ", files.text_key, " in config.json"));
  if (!files.other_keys.empty())
    remarks.push_back(str(files.other_keys.size(),
                          " keys of config.json are of other parts: ", joined(files.other_keys)));
  if (files.tied_by_config && model.embedding == head)
    remarks.push_back(str(head,
                          " serves as the embedding too: tie_word_embeddings is set, and no "
                          "embedding is stored"));
  else if (files.tied_by_config && !model.tied_head &&
           !files.checkpoint.same(head, model.embedding))
    remarks.push_back(str("config.json sets tie_word_embeddings, but ", head,
                          " is stored and is "
                          "not the embedding: it is the head"));
  return remarks;
}

std::vector<std::string> unused_tensor_texts(const ModelFiles& files) {
  std::map<std::string, std::vector<std::string>> kinds;
  for (const std::string& name : files.extra_tensors) kinds[kind_of(files, name)].push_back(name);
  std::vector<std::string> texts;
  for (const auto& [kind, names] : kinds)
    texts.push_back(
        str(names.size(), names.size() == 1 ? " tensor " : " tensors ", kind, ": ", joined(names)));
  return texts;
}

}  // namespace aq
