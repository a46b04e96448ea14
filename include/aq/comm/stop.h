#pragma once
/// An orderly stop of all ranks.

#include <string_view>

#include "aq/comm/communicator.h"

namespace aq {

/// Throws Error{stopped, operation} on every rank when any rank was asked to stop
/// (aq/core/stop.h). Collective.
void stop_if_asked(std::string_view operation, Communicator& comm);

}  // namespace aq
