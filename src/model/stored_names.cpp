#include "aq/model/stored_names.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "aq/core/error.h"
#include "aq/core/text.h"

namespace aq {
namespace {

constexpr std::string_view kNumber = "{i}";
constexpr std::string_view kModel = "model.";
constexpr std::string_view kLayers = "layers.";

/// Modules of training and compiling programs around the model or one of its layers.
constexpr std::string_view kWrappers[] = {"module.", "_orig_mod.", "_fsdp_wrapped_module.",
                                          "_checkpoint_wrapped_module."};
/// Modules of a larger model that the text model stands in.
constexpr std::string_view kContainers[] = {"model.", "language_model.", "text_model.",
                                            "llm.",   "thinker.",        "base_model.",
                                            "text.",  "language."};

/// Length of the longest run of the words that `text` begins with.
template <class Words>
std::size_t run_of(const Words& words, std::string_view text) {
  const auto word = std::ranges::find_if(words, [&](auto w) { return text.starts_with(w); });
  if (word == std::end(words)) return 0;
  return word->size() + run_of(words, text.substr(word->size()));
}

std::size_t wrapping_length(std::string_view name) {
  std::size_t length = 0;
  for (std::size_t more = 1; more > 0; length += more)
    more =
        std::max(run_of(kWrappers, name.substr(length)), run_of(kContainers, name.substr(length)));
  return length;
}

std::string_view without_model(std::string_view name) {
  return name.starts_with(kModel) ? name.substr(kModel.size()) : name;
}

/// Pattern of the layers' names, "module.model.layers.{i}.", by the name of a tensor of the first
/// layer; empty when it is none of `wanted`, "layers.0.input_layernorm.weight".
std::string layer_pattern(std::string_view name, std::string_view layer, std::string_view tensor) {
  const std::size_t wrapping = wrapping_length(name);
  const std::string first = replace_all(std::string(layer), kNumber, "0");
  const std::string_view rest = name.substr(wrapping);
  if (!rest.starts_with(first)) return {};
  const std::string_view inside = rest.substr(first.size());
  const std::size_t inner = run_of(kWrappers, inside);
  if (inside.substr(inner) != tensor) return {};
  return str(name.substr(0, wrapping), layer, inside.substr(0, inner));
}

std::string find_layers(const TensorNames& wanted, const TensorShapes& stored,
                        std::string_view file) {
  const std::string first = replace_all(wanted.layer, kNumber, "0");
  for (const std::string& module : {wanted.input_norm, wanted.o, wanted.post_attention_norm}) {
    const std::string tensor = module + ".weight";
    if (stored.contains(first + tensor)) return wanted.layer;
    std::string found;
    for (const auto& [name, shape] : stored) {
      const std::string pattern = layer_pattern(name, without_model(wanted.layer), tensor);
      if (pattern.empty() || pattern == found) continue;
      if (!found.empty())
        throw Error(ErrorKind::input, "open the model", file,
                    str("the files hold layers under ", found, " and under ", pattern),
                    "name the ones of the text model with --architecture FILE");
      found = pattern;
    }
    if (!found.empty()) return found;
  }
  return wanted.layer;
}

std::size_t common_prefix(std::string_view a, std::string_view b) {
  return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

/// The stored module `wanted`, under whatever prefix is most like that of the layers; `otherwise`
/// when there is none.
std::string find_module(const std::string& wanted, const TensorShapes& stored,
                        const std::string& layer, const std::string& otherwise) {
  constexpr std::string_view kWeight = ".weight";
  if (stored.contains(wanted + ".weight")) return wanted;
  std::string best;
  for (const auto& [name, shape] : stored) {
    if (name.substr(wrapping_length(name)) != str(without_model(wanted), kWeight)) continue;
    const std::string module = name.substr(0, name.size() - kWeight.size());
    if (best.empty() || common_prefix(module, layer) > common_prefix(best, layer)) best = module;
  }
  return best.empty() ? otherwise : best;
}

/// Where a head would stand beside a model under this prefix: "language_model.lm_head" for
/// "language_model.model.", "lm_head" for "model.language_model.".
std::string head_prefix(std::string prefix) {
  for (const std::string_view inner : {"model.language_model.", "language_model.", "model."}) {
    if (!prefix.ends_with(inner)) continue;
    const std::size_t rest = prefix.size() - inner.size();
    if (rest == 0 || prefix[rest - 1] == '.') return prefix.substr(0, rest);
  }
  return prefix;
}

}  // namespace

TensorNames stored_names(const TensorNames& wanted, const TensorShapes& stored,
                         std::string_view file) {
  TensorNames names = wanted;
  names.layer = find_layers(wanted, stored, file);
  const bool moved = names.layer != wanted.layer;
  const std::string prefix = names.layer.substr(0, wrapping_length(names.layer));
  const auto beside = [&](const std::string& name) {
    return moved ? str(prefix, without_model(name)) : name;
  };
  names.embedding = find_module(wanted.embedding, stored, names.layer, beside(wanted.embedding));
  names.final_norm = find_module(wanted.final_norm, stored, names.layer, beside(wanted.final_norm));
  names.head = find_module(wanted.head, stored, names.layer,
                           moved ? str(head_prefix(prefix), wanted.head) : wanted.head);
  return names;
}

TensorShapes plain_shapes(const TensorNames& names, const TensorShapes& stored) {
  const std::size_t number = names.layer.find(kNumber);
  if (number == std::string::npos) return stored;
  const std::string_view before = std::string_view(names.layer).substr(0, number);
  const std::string_view behind = std::string_view(names.layer).substr(number + kNumber.size());
  TensorShapes plain;
  for (const auto& [name, shape] : stored) {
    std::string_view rest = name;
    std::string_view digits;
    if (rest.starts_with(before)) {
      rest.remove_prefix(before.size());
      digits = rest.substr(0, rest.find_first_not_of("0123456789"));
      rest.remove_prefix(digits.size());
    }
    if (!digits.empty() && rest.starts_with(behind))
      plain[str(kModel, kLayers, digits, ".", rest.substr(behind.size()))] = shape;
    else
      plain.emplace(name, shape);
  }
  return plain;
}

std::string plain_name(std::string_view name) {
  const std::string_view rest = name.substr(wrapping_length(name));
  if (rest == "lm_head") return std::string(rest);
  if (!rest.starts_with(kLayers)) return std::string(name);
  const std::size_t dot = rest.find('.', kLayers.size());
  if (dot == std::string_view::npos) return std::string(name);
  const std::string_view inside = rest.substr(dot + 1);
  return str(kModel, rest.substr(0, dot + 1), inside.substr(run_of(kWrappers, inside)));
}

std::string module_pattern(std::string name, Index layer, Index expert) {
  for (const Index number : {layer, expert})
    if (number >= 0) name = replace_all(name, str(".", number, "."), ".*.");
  return name;
}

std::string module_pattern(const LinearSpec& linear) {
  return module_pattern(linear.name, linear.layer, linear.expert);
}

}  // namespace aq
