#pragma once
/// What a machine gives to the kernels of this program, measured.

#include <filesystem>

#include "aq/comm/communicator.h"
#include "aq/plan/machine.h"

namespace aq::app {

/// Cores, memory and rates of this machine; files are written to and read from `directory`. The
/// network is measured between the first and the last rank; with one rank (or all on one machine)
/// it is what ranks of one machine give to each other. Collective.
Machine measure_machine(const std::filesystem::path& directory, Communicator& comm);

}  // namespace aq::app
