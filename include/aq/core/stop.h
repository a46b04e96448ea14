#pragma once
/// Orderly stop on SIGUSR1 and SIGTERM.

namespace aq {

/// From now on SIGUSR1 and SIGTERM set a flag; a signal more than five seconds
/// later ends the process at once. Call it before MPI starts.
void install_stop_handlers();
bool stop_requested();

}  // namespace aq
