#pragma once
/// The text model's part of the configuration of a multimodal checkpoint.

#include <string>
#include <string_view>
#include <vector>

namespace aq {

/// The text model's config.json, as it would stand alone.
struct TextConfig {
  std::string json;
  std::string file;  ///< for messages; names the key too where the text model has one of its own
  std::string key;   ///< "text_config", "thinker_config.text_config"; empty: the file itself
  std::vector<std::string> beside;  ///< keys that belong to the rest of the checkpoint: not read
};

/// Where the text model's keys stand in an object of their own (text_config, llm_config,
/// language_config, also inside thinker_config), that object, with tie_word_embeddings and
/// quantization_config from around it. Else the whole file less the objects of other towers
/// (vision_config, ...). Text that is no JSON object is handed back as it is.
TextConfig text_config(std::string_view config_json, std::string_view file);

}  // namespace aq
