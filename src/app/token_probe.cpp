#include "app/token_probe.h"

#include <cstdlib>
#include <string_view>

#include "aq/io/token_probe.h"

namespace aq::app {
namespace {

/// Before MPI knows. When no launcher tells, every rank is the first one.
bool is_first_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"})
    if (const char* rank = std::getenv(name)) return std::string_view(rank) == "0";
  return true;
}

}  // namespace

void TokenProbe::run(const std::filesystem::path& path, Index rows, Index length) {
  if (path.empty()) return;
  if (!started_by_launcher()) return probe_token_file(path, rows, length);
  if (!is_first_rank()) return;
  try {
    probe_token_file(path, rows, length);
  } catch (const Error& error) {
    error_ = error;
  }
}

void TokenProbe::tell(Communicator& comm) const {
  if (error_) throw *error_;
  comm.barrier();
}

}  // namespace aq::app
