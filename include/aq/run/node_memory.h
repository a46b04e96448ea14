#pragma once
/// How much of its machine's memory a rank may take.

#include "aq/comm/communicator.h"
#include "aq/core/index.h"

namespace aq {

/// Ranks on the machine that has most of them. Collective.
int ranks_of_node(Communicator& comm);
/// Bytes that a rank may take where nobody says how many: the least that any rank's share of its
/// machine's free memory allows, with some left; 0 where unknown. Collective.
Index default_memory(Communicator& comm, int node_ranks);
/// Warns when `limit`, which the user has set, is more than there is. Collective.
void warn_of_too_much_memory(Index limit, Communicator& comm, int node_ranks);

}  // namespace aq
