/// Whether matrices can be cut into the parts that ranks of a server hold.

#include "export/served_format.h"
#include "export/serving_rules.h"

namespace aq {
namespace {

using Case = ServingCase;

/// A rank's share of `size`; 0 where it cannot be cut.
Index share(Index size, bool cut, const ServingPlan& plan) {
  if (!cut) return size;
  return size % plan.tensor_parallel == 0 ? size / plan.tensor_parallel : 0;
}

/// o and down are cut along their inputs, the others along their outputs.
bool cuts_inputs(const LinearSpec& linear) {
  return linear.role == Role::o || linear.role == Role::down;
}
bool is_whole(const Case& c, const LinearSpec& linear) {
  return c.plan.expert_parallel && routed(linear);
}
Index columns_of_part(const Case& c, const LinearSpec& linear) {
  return share(linear.columns, cuts_inputs(linear) && !is_whole(c, linear), c.plan);
}
Index rows_of_part(const Case& c, const LinearSpec& linear) {
  const bool replicated = linear.role == Role::q_a || linear.role == Role::kv_a;
  return share(linear.rows, !cuts_inputs(linear) && !replicated && !is_whole(c, linear), c.plan);
}

}  // namespace

Linears cut_groups(const Case& c) {
  const bool whole_groups = served_format(c.format).fused;  // it is cut between groups, unevenly
  return where(c, [&](const LinearSpec& linear, const Scheme& scheme) {
    const Index group = served_scheme(scheme, linear.columns).group_size;
    return group > 0 && !whole_groups && columns_of_part(c, linear) % group != 0;
  });
}

Linears not_cut(const Case& c) {
  Linears all = all_linears(c.model);
  std::erase_if(all, [&](const LinearSpec* linear) {
    const bool whole_heads =
        linear->role != Role::o ||
        c.model.layers[linear->layer].attention.heads % c.plan.tensor_parallel == 0;
    return whole_heads && columns_of_part(c, *linear) > 0;
  });
  return all;
}

Linears cut_zeros(const Case& c) {
  constexpr Index kWord = 32;
  return where(c, [&](const LinearSpec& linear, const Scheme& scheme) {
    const Index rows = rows_of_part(c, linear);
    return !scheme.symmetric && (rows == 0 || rows * scheme.bits % kWord != 0);
  });
}

Linears experts_that_do_not_spread(const Case& c) {
  return where(c, [&](const LinearSpec& linear, const Scheme&) {
    return is_whole(c, linear) &&
           c.model.layers[linear.layer].moe->routing.experts % c.plan.tensor_parallel != 0;
  });
}

}  // namespace aq
