#include <cmath>

#include "aq/core/text.h"
#include "model/describe.h"

namespace aq {
namespace {

RopeScaling scaling_from_name(const ConfigReader& config, std::string_view key,
                              const std::string& name) {
  if (name == "default") return RopeScaling::none;
  if (name == "linear") return RopeScaling::linear;
  if (name == "llama3") return RopeScaling::llama3;
  if (name == "yarn") return RopeScaling::yarn;
  config.fail(key, str("asks for '", name, "' scaling, which is not supported"),
              "known are default, linear, llama3 and yarn");
}

/// g(s, m) of YaRN's attention temperature (arXiv:2309.00071, section 3.4, as DeepSeek uses it).
double yarn_magnitude(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

void read_yarn(const ConfigReader& scaling, RopeSpec& rope) {
  rope.beta_fast = scaling.number_or("beta_fast", 32);
  rope.beta_slow = scaling.number_or("beta_slow", 1);
  rope.truncate = scaling.flag_or("truncate", true);
  const auto mscale = scaling.optional_number("mscale");
  const auto all_dim = scaling.optional_number("mscale_all_dim");
  if (const auto factor = scaling.optional_number("attention_factor"))
    rope.magnitude = *factor;
  else if (mscale && all_dim)
    rope.magnitude = yarn_magnitude(rope.factor, *mscale) / yarn_magnitude(rope.factor, *all_dim);
  else
    rope.magnitude = yarn_magnitude(rope.factor, 1);
}

}  // namespace

RopeSpec read_rope(const Source& source, Index begin, Index dims, double& softmax_factor) {
  const ConfigReader& config = source.config;
  RopeSpec rope;
  rope.begin = begin;
  rope.dims = dims;
  rope.theta = config.get(source.row.keys.rope_theta);
  rope.interleaved = config.get(source.row.rope_interleaved);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto scaling = config.object(key);
    if (!scaling) continue;
    rope.theta = scaling->number_or("rope_theta", rope.theta);
    rope.scaling = scaling_from_name(
        config, key, scaling->text_or("rope_type", scaling->text_or("type", "default")));
    if (rope.scaling == RopeScaling::none) continue;
    rope.factor = scaling->number_or("factor", 1);
    if (rope.scaling == RopeScaling::linear) continue;
    rope.original_positions =
        static_cast<double>(scaling->positive_or("original_max_position_embeddings", 0));
    if (rope.original_positions == 0)
      rope.original_positions = static_cast<double>(config.get(source.row.keys.max_positions));
    rope.low_frequency_factor = scaling->number_or("low_freq_factor", 1);
    rope.high_frequency_factor = scaling->number_or("high_freq_factor", 4);
    if (rope.scaling == RopeScaling::llama3 &&
        rope.low_frequency_factor >= rope.high_frequency_factor)
      config.fail(key, str("has low_freq_factor ", rope.low_frequency_factor,
                           ", not below high_freq_factor ", rope.high_frequency_factor));
    if (rope.scaling != RopeScaling::yarn) continue;
    read_yarn(*scaling, rope);
    if (const auto all_dim = scaling->optional_number("mscale_all_dim")) {
      const double m = yarn_magnitude(rope.factor, *all_dim);
      softmax_factor = m * m;
    }
  }
  return rope;
}

}  // namespace aq
