#include <cmath>

#include "aq/core/text.h"
#include "model/describe.h"

namespace aq {
namespace {

RopeScaling read_scaling(const ConfigReader& section) {
  const std::string key = section.has("rope_type") ? "rope_type" : "type";
  const std::string name = section.text_or(key, "default");
  if (section.text_or("type", name) != name)
    section.fail("type",
                 str("is '", section.text_or("type", ""), "', but 'rope_type' is '", name, "'"));
  if (name == "default") return RopeScaling::none;
  if (name == "linear") return RopeScaling::linear;
  if (name == "llama3") return RopeScaling::llama3;
  if (name == "yarn") return RopeScaling::yarn;
  section.fail(key, str("asks for '", name, "' scaling, which is not supported"),
               "known are default, linear, llama3 and yarn");
}

/// g(s, m) of YaRN's attention temperature (arXiv:2309.00071, section 3.4, as DeepSeek uses it).
double yarn_magnitude(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

/// The context before scaling. transformers lets the key beside the section win.
Index read_original_positions(const Source& source, const ConfigReader& section) {
  constexpr std::string_view kKey = "original_max_position_embeddings";
  const Index inside = section.positive_or(kKey, source.config.get(source.row.keys.max_positions));
  return source.config.positive_or(kKey, inside);
}

void read_llama3(const ConfigReader& section, RopeSpec& rope) {
  rope.low_frequency_factor = section.number_or("low_freq_factor", 1);
  rope.high_frequency_factor = section.number_or("high_freq_factor", 4);
  if (rope.low_frequency_factor >= rope.high_frequency_factor)
    section.fail("low_freq_factor",
                 str("is ", rope.low_frequency_factor, ", not below high_freq_factor ",
                     rope.high_frequency_factor));
}

void read_yarn(const ConfigReader& section, RopeSpec& rope) {
  rope.beta_fast = section.number_or("beta_fast", 32);
  rope.beta_slow = section.number_or("beta_slow", 1);
  rope.truncate = section.flag_or("truncate", true);
  const auto mscale = section.optional_number("mscale");
  const auto all_dim = section.optional_number("mscale_all_dim");
  if (const auto factor = section.optional_number("attention_factor"))
    rope.magnitude = *factor;
  else if (mscale && all_dim)
    rope.magnitude = yarn_magnitude(rope.factor, *mscale) / yarn_magnitude(rope.factor, *all_dim);
  else
    rope.magnitude = yarn_magnitude(rope.factor, 1);
}

}  // namespace

std::optional<ConfigReader> rope_section(const ConfigReader& config) {
  const auto is_there = [&](const char* key) {
    return config.has(key) && config.json().at(key) != Json::object();
  };
  if (!is_there("rope_scaling")) return config.object("rope_parameters");
  if (is_there("rope_parameters") &&
      config.json().at("rope_parameters") != config.json().at("rope_scaling"))
    config.fail("rope_scaling", "says something else than 'rope_parameters'", "keep one of them");
  return config.object("rope_scaling");
}

RopeSpec read_rope(const Source& source, Index begin, Index dims, double& softmax_factor) {
  const ConfigReader& config = source.config;
  RopeSpec rope;
  rope.begin = begin;
  rope.dims = dims;
  rope.theta = config.get(source.row.keys.rope_theta);
  rope.interleaved = config.get(source.row.rope_interleaved);
  config.disregard({"original_max_position_embeddings"});  // read where a scaling needs it
  const auto section = rope_section(config);
  if (!section) return rope;
  rope.theta = section->number_or("rope_theta", rope.theta);
  rope.scaling = read_scaling(*section);
  if (rope.scaling == RopeScaling::none) return rope;
  if (rope.scaling != RopeScaling::linear)
    rope.original_positions = static_cast<double>(read_original_positions(source, *section));
  const auto factor = section->optional_number("factor");
  if (!factor && rope.scaling != RopeScaling::yarn) section->fail("factor", "is missing");
  // A missing factor of YaRN is what max_position_embeddings says.
  rope.factor = factor ? *factor
                       : static_cast<double>(config.get(source.row.keys.max_positions)) /
                             rope.original_positions;
  if (rope.scaling == RopeScaling::llama3) read_llama3(*section, rope);
  if (rope.scaling != RopeScaling::yarn) return rope;
  read_yarn(*section, rope);
  if (const auto all_dim = section->optional_number("mscale_all_dim")) {
    const double m = yarn_magnitude(rope.factor, *all_dim);
    softmax_factor = m * m;
  }
  return rope;
}

}  // namespace aq
