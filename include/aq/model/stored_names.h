#pragma once
/// Names as a checkpoint holds them: what other programs put before, or leave out of, the names
/// that an architecture's row knows.

#include <string>
#include <string_view>

#include "aq/model/architecture.h"
#include "aq/model/model.h"

namespace aq {

/// `wanted` with embedding, final norm, head and layers as `stored` has them. A prefix may be any
/// sequence of the names of wrappers and containers ("module.", "_orig_mod.", "model.",
/// "language_model.", "thinker.", ..., or nothing); wrappers may stand behind the layer's number as
/// well. Names that are stored as wanted stay; those that are found nowhere follow the layers'.
/// Throws Error{input} naming `file` when two prefixes are possible.
TensorNames stored_names(const TensorNames& wanted, const TensorShapes& stored,
                         std::string_view file);

/// The tensors under the names of a plain checkpoint ("model.layers.0. ...").
TensorShapes plain_shapes(const TensorNames& names, const TensorShapes& stored);

/// The name that the module has without wrappers and containers: "model.layers.0. ..." for
/// "model.language_model.layers.0. ...", "lm_head" for "language_model.lm_head". Others stay.
std::string plain_name(std::string_view name);

/// The name of a linear with * for the numbers of its layer and expert, -1 where it has none: what
/// linears that differ in nothing else have in common.
std::string module_pattern(std::string name, Index layer, Index expert);
std::string module_pattern(const LinearSpec& linear);

}  // namespace aq
