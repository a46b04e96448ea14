#include <algorithm>

#include "aq/core/text.h"
#include "model/describe.h"

namespace aq {
namespace {

/// Layers that config.json names as dense.
bool is_listed_dense(const Source& source, Index layer) {
  const std::string key = source.config.first_of(source.row.keys.dense_layers);
  if (key.empty()) return false;
  const Json& layers = source.config.json().at(key);
  const auto is_layer = [](const Json& value) { return value.is_number_integer(); };
  if (!layers.is_array() || layers.size() > kMostLayers ||
      !std::all_of(layers.begin(), layers.end(), is_layer))
    source.config.fail(key, str("is ", layers.dump(), ", not a list of layers"));
  return std::find(layers.begin(), layers.end(), layer) != layers.end();
}

bool is_moe_layer(const Source& source, Index layer) {
  const ConfigKeys& keys = source.row.keys;
  if (!has_experts(source.row) || is_listed_dense(source, layer)) return false;
  if (layer < source.config.count_or(keys.first_moe_layer.keys, keys.first_moe_layer.otherwise))
    return false;
  return (layer + source.row.moe_offset) % source.config.get(keys.moe_every) == 0;
}

std::string_view score_name(RouterScore score) {
  switch (score) {
    case RouterScore::softmax:
    case RouterScore::softmax_of_chosen:
      return "softmax";
    case RouterScore::sigmoid:
      return "sigmoid";
  }
  return "?";
}

/// Whether experts are chosen without regard to groups. DeepSeek-V2, whose groups are scored by
/// their best expert, has them only where topk_method says so.
bool is_greedy(const Source& source) {
  const bool by_best = source.row.group_score == GroupScore::largest;
  const std::string grouped = by_best ? "group_limited_greedy" : "noaux_tc";
  const std::string method =
      source.config.text_or("topk_method", by_best ? std::string("greedy") : grouped);
  if (method == grouped) return false;
  if (!by_best || method != "greedy")
    source.config.fail("topk_method", str("is '", method, "', but ", source.row.name, " has '",
                                          grouped, "'", by_best ? " or 'greedy'" : ""));
  return true;
}

/// Groups of experts, where the family and config.json have them.
void read_groups(const Source& source, RouterSpec& routing) {
  const ConfigReader& config = source.config;
  const ConfigKeys& keys = source.row.keys;
  routing.group_score = source.row.group_score;
  if (is_greedy(source)) {
    config.disregard(keys.groups.keys);
    config.disregard(keys.kept_groups.keys);
    return;
  }
  routing.groups = config.get(keys.groups);
  routing.kept_groups = config.get(keys.kept_groups);
  if (routing.experts % routing.groups != 0)
    config.fail(
        config.first_of(keys.groups.keys),
        str("is ", routing.groups, ", which does not divide the ", routing.experts, " experts"));
  const Index group = routing.experts / routing.groups;
  if (routing.groups > 1 && routing.group_score == GroupScore::two_largest && group < 2)
    config.fail(config.first_of(keys.groups.keys),
                str("is ", routing.groups, ": groups of one expert have no two best"));
  const Index kept = group * routing.kept_groups;
  if (routing.kept_groups > routing.groups || kept < routing.top_k)
    config.fail(
        config.first_of(keys.kept_groups.keys),
        str("is ", routing.kept_groups, " of ", routing.groups, " groups: too ",
            kept < routing.top_k ? "few" : "many", " for ", routing.top_k, " experts a token"));
}

RouterSpec read_routing(const Source& source) {
  const ConfigReader& config = source.config;
  const ConfigKeys& keys = source.row.keys;
  RouterSpec routing;
  routing.experts = config.get(keys.experts);
  routing.top_k = config.get(keys.experts_per_token);
  if (routing.top_k > routing.experts)
    config.fail(config.first_of(keys.experts_per_token.keys),
                str("is ", routing.top_k, ", more than the ", routing.experts, " experts"));
  if (routing.experts > kMostExperts)
    config.fail(config.first_of(keys.experts.keys),
                str("is ", routing.experts, ", more than ", kMostExperts));
  routing.score = source.row.score;
  const std::string scoring = config.text_or("scoring_func", score_name(routing.score));
  if (scoring != score_name(routing.score))
    config.fail("scoring_func", str("is '", scoring, "', but ", source.row.name, " has '",
                                    score_name(routing.score), "'"));
  routing.renormalize = config.get(source.row.renormalize);
  routing.scale = config.get(keys.router_scale);
  read_groups(source, routing);
  return routing;
}

/// Width of the shared expert; 0: there is none.
Index read_shared_width(const Source& source, Index expert_width) {
  const ConfigKeys& keys = source.row.keys;
  const Index count =
      source.config.count_or(keys.shared_experts.keys, keys.shared_experts.otherwise);
  const std::string width = source.config.first_of(keys.shared_width.keys);
  if (!width.empty()) return source.config.count_or({width}, 0);
  if (keys.shared_width.otherwise > 0) return keys.shared_width.otherwise;
  if (count > kLargestWidth / expert_width)
    source.config.fail(source.config.first_of(keys.shared_experts.keys),
                       str("is ", count, ", too many of width ", expert_width));
  return count * expert_width;
}

/// The router, the routed experts and a shared one.
void read_experts(const Source& source, const LayerNamer& namer, Index hidden, LayerSpec& layer) {
  const ConfigReader& config = source.config;
  const Architecture& row = source.row;
  MoeSpec& moe = layer.moe.emplace();
  moe.routing = read_routing(source);
  moe.router = namer.linear(row.tensors.router, Role::router, moe.routing.experts, hidden,
                            config.get(row.router_bias));
  if (!row.tensors.correction_bias.empty())
    moe.correction_bias = namer.bare(row.tensors.correction_bias);
  const Index width = config.get(row.keys.expert_width);
  const bool bias = config.get(row.expert_bias);
  for (Index expert = 0; expert < moe.routing.experts; ++expert)
    layer.mlps.push_back(namer.expert(expert, width, bias));
  const Index shared_width = read_shared_width(source, width);
  if (shared_width == 0) return;
  layer.mlps.push_back(namer.shared_expert(shared_width));
  if (!row.tensors.shared_router.empty())
    layer.mlps.back().output_gate =
        namer.linear(row.tensors.shared_router, Role::shared_router, 1, hidden);
}

}  // namespace

void read_mlp(const Source& source, const LayerNamer& namer, Index hidden, LayerSpec& layer) {
  const Architecture& row = source.row;
  GatedActivation activation;
  activation.clamped = row.clamped_activation;
  if (activation.clamped) {
    activation.limit = source.config.get(row.keys.swiglu_limit);
    activation.alpha = source.config.get(row.keys.swiglu_alpha);
  }
  if (is_moe_layer(source, layer.index))
    read_experts(source, namer, hidden, layer);
  else
    layer.mlps.push_back(
        namer.dense(source.config.get(row.keys.dense_width), source.config.get(row.mlp_bias)));
  for (MlpSpec& mlp : layer.mlps) mlp.activation = activation;
}

}  // namespace aq
