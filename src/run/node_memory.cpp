#include "aq/run/node_memory.h"

#include <algorithm>
#include <array>
#include <string>

#include "aq/core/host.h"
#include "aq/core/log.h"
#include "aq/core/memory.h"
#include "aq/core/text.h"

namespace aq {
namespace {

constexpr Index kHeadroomPercent = 80;  // of what the machine has free

/// The least value of any rank. Collective.
Index least_of(Index value, Communicator& comm) {
  std::array<std::int64_t, 1> negative{-value};
  comm.all_reduce_max(negative);
  return -negative[0];
}

}  // namespace

int ranks_of_node(Communicator& comm) {
  const std::string name = host_name();
  const auto neighbours = std::ranges::count(all_gather_values(comm, name), name);
  std::array<std::int64_t, 1> most{neighbours};
  comm.all_reduce_max(most);
  return static_cast<int>(most[0]);
}

Index default_memory(Communicator& comm, int node_ranks) {
  return least_of(available_bytes() / 100 * kHeadroomPercent / node_ranks, comm);
}

void warn_of_too_much_memory(Index limit, Communicator& comm, int node_ranks) {
  const Index share = least_of(available_bytes() / node_ranks, comm);  // 0: not known
  if (comm.is_first() && share > 0 && limit > share)
    log_warning(str("--memory ", bytes_text(limit), " a rank is more than the ", bytes_text(share),
                    " that the machine, or the limit of its control group, leaves for each: a rank "
                    "that takes it will be killed"));
}

}  // namespace aq
