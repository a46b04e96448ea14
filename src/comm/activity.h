#pragma once
/// What the communicating thread of this process does, as its watchdog sees it.

#include <cstdint>
#include <memory>
#include <string>

namespace aq {

inline constexpr int kAllRanks = -1;

struct Activity {
  bool waiting = false;
  std::int64_t steps = 0;   ///< changes whenever a wait begins or ends
  double waited = 0;        ///< seconds in all waits so far
  std::string operation{};  ///< "receive", "barrier" ...
  int peer = kAllRanks;     ///< the rank waited for
  std::string place{};      ///< set_work_place
  std::string label{};      ///< WorkLabel
  /// "layer 1/4: sums of the Hessians: barrier"; the place alone while nothing is waited for.
  std::string text() const;
};

Activity current_activity();
/// The label in force, for a transfer that is started now and waited for later.
std::shared_ptr<const std::string> current_label();

/// The calling thread waits for `peer` in an operation until the object goes.
class Waiting {
 public:
  explicit Waiting(const char* operation, int peer = kAllRanks);
  Waiting(const char* operation, int peer, std::shared_ptr<const std::string> label);
  ~Waiting();
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
};

/// To be called before end_job when a host may be gone: where mpirun is the parent of this process,
/// a child of this process ends it if it has not ended by itself ten seconds later.
void end_launcher_if_it_hangs();

/// Ends the whole job with this exit code, also when MPI itself no longer answers; any thread.
[[noreturn]] void end_job(int exit_code);

}  // namespace aq
