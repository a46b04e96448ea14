#include "aq/model/text_config.h"

#include <algorithm>
#include <optional>

#include "aq/core/text.h"
#include "model/config_reader.h"

namespace aq {
namespace {

/// Objects that hold, or hold an object that holds, what a text model's config.json holds.
constexpr std::string_view kContainers[] = {
    "text_config",       "llm_config", "language_config", "language_model_config", "thinker_config",
    "text_model_config", "llm",        "language_model"};
constexpr std::string_view kTowers[] = {
    "vision*_config",   "*_vision_config", "visual*_config", "image*_config", "audio*_config",
    "*_audio_config",   "video*_config",   "vae*_config",    "talker_config", "code2wav_config",
    "projector_config", "vit_config",      "speech*_config"};

bool holds_text_model(const Json& object) {
  return object.contains("num_hidden_layers") || object.contains("hidden_size");
}

/// Keys from the outside in; nothing when no object inside describes a text model.
std::optional<std::vector<std::string>> find_inside(const Json& object) {
  for (const std::string_view key : kContainers) {
    const auto found = object.find(key);
    if (found == object.end() || !found->is_object()) continue;
    std::vector<std::string> path{std::string(key)};
    if (const auto deeper = find_inside(*found)) {
      path.insert(path.end(), deeper->begin(), deeper->end());
      return path;
    }
    if (holds_text_model(*found)) return path;
  }
  return std::nullopt;
}

bool is_tower(const std::string& key, const Json& value) {
  return value.is_object() && std::ranges::any_of(kTowers, [&](std::string_view pattern) {
           return matches_pattern(std::string(pattern), key);
         });
}

bool is_true(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found != object.end() && *found == true;
}

/// What the object around says of the text model inside.
void take_from_around(const Json& around, Json& text) {
  constexpr const char* kTied = "tie_word_embeddings";
  constexpr const char* kQuantization = "quantization_config";
  // Only a missing head is ever read from this, so that one of the two places is enough.
  if (is_true(around, kTied) || (around.contains(kTied) && !text.contains(kTied)))
    text[kTied] = around.at(kTied);
  if (around.contains(kQuantization) && !text.contains(kQuantization))
    text[kQuantization] = around.at(kQuantization);
}

}  // namespace

TextConfig text_config(std::string_view config_json, std::string_view file) {
  TextConfig result{std::string(config_json), std::string(file), {}, {}};
  Json whole = parse_config(config_json, file);
  const auto path = find_inside(whole);
  if (!path) {
    for (const auto& [key, value] : whole.items())
      if (is_tower(key, value)) result.beside.push_back(key);
    for (const std::string& key : result.beside) whole.erase(key);
    if (!result.beside.empty()) result.json = whole.dump();
    return result;
  }
  std::vector<const Json*> around{&whole};
  for (const std::string& key : *path) {
    for (const auto& [other, value] : around.back()->items())
      if (other != key)
        result.beside.push_back(result.key + (result.key.empty() ? "" : ".") + other);
    result.key += str(result.key.empty() ? "" : ".", key);
    around.push_back(&around.back()->at(key));
  }
  Json text = *around.back();
  for (auto outer = around.rbegin() + 1; outer != around.rend(); ++outer)
    take_from_around(**outer, text);
  for (const char* taken :
       {"tie_word_embeddings", "quantization_config", "model_type", "architectures"})
    std::erase(result.beside, taken);
  result.json = text.dump();
  result.file += str(" (", result.key, ")");
  return result;
}

}  // namespace aq
