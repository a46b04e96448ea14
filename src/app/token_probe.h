#pragma once
/// Tries a token file before MPI starts (io/token_probe.h), once a job.

#include <filesystem>
#include <optional>

#include "aq/comm/communicator.h"
#include "aq/core/error.h"

namespace aq::app {

class TokenProbe {
 public:
  /// Throws what is wrong in a process that is alone. In a job of many ranks the first one tries
  /// the file and keeps the error until MPI runs: a rank that ends before that may leave the others
  /// waiting for it.
  void run(const std::filesystem::path& path, Index rows = 0, Index length = 0);
  /// Throws what the first rank has found. Collective: no other rank goes on before.
  void tell(Communicator& comm) const;

 private:
  std::optional<Error> error_;
};

}  // namespace aq::app
