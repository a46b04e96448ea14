#pragma once
/// Ranks that wait for each other for too long: what they wait for is told, then the job ends.

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace aq {

/// Where the run is, e.g. "layer 3/16: experts 0..15"; for the message of a rank that waits in
/// vain.
void set_work_place(std::string place);

/// What messages are about until the object goes, e.g. "rows of all matrices". A transfer keeps the
/// label under which it was started. For the thread that communicates.
class WorkLabel {
 public:
  explicit WorkLabel(std::string label);
  ~WorkLabel();
  WorkLabel(const WorkLabel&) = delete;
  WorkLabel& operator=(const WorkLabel&) = delete;

 private:
  std::shared_ptr<const std::string> before_;
};

/// Ends the job (exit code 70) when this rank has waited for `timeout` seconds in one message or
/// collective call and either
/// - another rank gives no sign of life: it was killed, is stopped, or its host is gone; or
/// - every rank waits: the network between them is broken, or the program has a deadlock.
/// A rank that computes for long is never a reason, whatever the others wait.
/// Signs of life are files of 512 bytes, one a rank, rewritten by a thread of the rank; they do not
/// pass through MPI. Time is counted while that thread runs: a job that is suspended as a whole
/// does not age.
class StallWatch {
 public:
  /// Starts the thread; nothing when `timeout` is 0. Without signs of life
  /// (see beat_in) only a wait of `alone` seconds, or `timeout`, if that is longer, counts.
  StallWatch(double timeout, int rank, int size, double alone = 300);
  ~StallWatch();
  StallWatch(const StallWatch&) = delete;
  StallWatch& operator=(const StallWatch&) = delete;

  /// Signs of life go into this directory, which all ranks share and which is made when it is not
  /// there. Before this call no rank knows of the others: whether they compute or are gone.
  void beat_in(const std::filesystem::path& directory);

 private:
  class Thread;
  std::unique_ptr<Thread> thread_;
};

}  // namespace aq
