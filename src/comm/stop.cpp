#include "aq/comm/stop.h"

#include <array>

#include "aq/comm/watchdog.h"
#include "aq/core/error.h"
#include "aq/core/stop.h"

namespace aq {

void stop_if_asked(std::string_view operation, Communicator& comm) {
  const WorkLabel label("whether to stop");
  std::array<std::int64_t, 1> asked{stop_requested() ? 1 : 0};
  comm.all_reduce_max(asked);
  if (asked[0] != 0)
    throw Error(ErrorKind::stopped, operation, "", "stopped by a signal",
                "start the same command again to resume");
}

}  // namespace aq
