#pragma once
/// Linears that another program quantized (aq/model/packed_weight.h).

#include "aq/io/checkpoint.h"
#include "aq/model/model.h"

namespace aq {

/// Rows [begin, begin + count): (code - zero) * scale in fp32. Throws Error{input} naming the
/// tensor whose shape, type or content does not go with the others.
Matrix read_packed_rows(const Checkpoint& checkpoint, const LinearSpec& linear,
                        const PackedWeight& packed, Index begin, Index count);

}  // namespace aq
