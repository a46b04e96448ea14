#pragma once
/// The two things that can be verified.

#include "verify/collect.h"

namespace aq {

void verify_run(const VerifyOptions& options, Communicator& comm, VerifyReport& report);
void verify_export(const VerifyOptions& options, Communicator& comm, VerifyReport& report);

}  // namespace aq
