#pragma once
/// What a test under aq_add_mpi_test has: all ranks of the job.

#include "aq/comm/communicator.h"

namespace aq::test {

/// Made by main before the first test; every test makes the same collective calls on every rank.
/// A fatal failure or an exception on any rank ends the job, since the other ranks may be waiting.
Communicator& world();

}  // namespace aq::test
