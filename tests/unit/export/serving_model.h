#pragma once
/// A small model whose recipes are judged for servers.

#include <functional>
#include <string>

#include "aq/core/error.h"
#include "aq/model/model.h"
#include "aq/recipe/assignments.h"

namespace aq::test {

inline LinearSpec linear(const std::string& name, Role role, Index rows, Index columns, Index layer,
                         Index expert = -1) {
  LinearSpec spec;
  spec.name = name;
  spec.role = role;
  spec.rows = rows;
  spec.columns = columns;
  spec.layer = layer;
  spec.expert = expert;
  return spec;
}

/// Two layers of four experts of width 128, hidden width 256.
inline Model served_model() {
  Model model;
  model.architecture = "mixtral";
  model.hidden = 256;
  model.head = linear("lm_head", Role::head, 512, 256, -1);
  for (Index i = 0; i < 2; ++i) {
    const std::string at = str("model.layers.", i, ".");
    LayerSpec layer;
    layer.index = i;
    layer.heads = ProjectedHeads{linear(at + "self_attn.q_proj", Role::q, 256, 256, i),
                                 linear(at + "self_attn.k_proj", Role::k, 128, 256, i),
                                 linear(at + "self_attn.v_proj", Role::v, 128, 256, i),
                                 {},
                                 {}};
    layer.attention.heads = 8;
    layer.o = linear(at + "self_attn.o_proj", Role::o, 256, 256, i);
    layer.moe.emplace();
    layer.moe->router = linear(at + "mlp.gate", Role::router, 4, 256, i);
    for (Index e = 0; e < 4; ++e) {
      const std::string expert = str(at, "mlp.experts.", e, ".");
      MlpSpec mlp;
      mlp.kind = MlpKind::routed;
      mlp.gate = linear(expert + "gate_proj", Role::gate, 128, 256, i, e);
      mlp.up = linear(expert + "up_proj", Role::up, 128, 256, i, e);
      mlp.down = linear(expert + "down_proj", Role::down, 256, 128, i, e);
      layer.mlps.push_back(std::move(mlp));
    }
    model.layers.push_back(std::move(layer));
  }
  number_linears(model);
  return model;
}

/// Every linear of the layers but routers in `format`, then what `change` makes of each.
inline Assignments assigned(
    const Model& model, std::string_view format,
    const std::function<void(const LinearSpec&, Assignment&)>& change = {}) {
  Assignments assignments;
  for (const LinearSpec* one : all_linears(model)) {
    Assignment assignment;
    if (one->role != Role::router && one->role != Role::head) {
      assignment.method = Method::gptq;
      assignment.scheme = *scheme_from_format(format);
    }
    if (change) change(*one, assignment);
    assignments.linears.push_back(assignment);
  }
  return assignments;
}

/// The same layers as gpt-oss has them.
inline Model gpt_oss_model() {
  Model model = served_model();
  model.architecture = "gpt_oss";
  model.fused.emplace();
  return model;
}

/// Routed experts in mxfp4, then what `change` makes of each linear.
inline Assignments gpt_oss_assigned(
    const Model& model, const std::function<void(const LinearSpec&, Assignment&)>& change = {}) {
  return assigned(model, "mxfp4", [&](const LinearSpec& linear, Assignment& assignment) {
    if (linear.expert < 0) assignment.method = Method::copy;
    if (change) change(linear, assignment);
  });
}

}  // namespace aq::test
