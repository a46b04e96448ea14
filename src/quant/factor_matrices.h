#pragma once
/// The matrices that the factors of every solver carry in the memory of the CPU: `lack` and
/// `output_factor`.

#include "aq/core/buffer.h"
#include "aq/quant/solver.h"

namespace aq {

/// Makes them of the sums of a task whose factor is made.
void take_matrices(FactorTask& task);

/// How they travel, see Solver::header_of: behind the arrays of the solver's own.
void put_sizes(const Factor& factor, FactorHeader& header);
void make_matrices(const FactorHeader& header, Factor& factor);
void append_matrices(Factor& factor, std::vector<Buffer>& arrays);

}  // namespace aq
