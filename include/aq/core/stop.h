#pragma once
/// Orderly stop on SIGUSR1 and SIGTERM.

namespace aq {

/// From now on SIGUSR1 and SIGTERM set a flag. A signal at least `same_request_seconds` after the
/// first ends the process at once; sooner ones are the same request, which launcher and batch
/// system may both pass on. Call it before MPI starts.
void install_stop_handlers(int same_request_seconds = 5);
bool stop_requested();

}  // namespace aq
