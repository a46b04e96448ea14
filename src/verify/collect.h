#pragma once
/// Work that is shared out over ranks, and what they find.

#include <functional>

#include "aq/verify/verify.h"

namespace aq {

/// Finding::file of what is found in the checkpoint.
inline constexpr std::string_view kCheckpoint = "checkpoint";

/// Findings in the order of the work, whoever does it.
class Collector {
 public:
  explicit Collector(Communicator& comm) : comm_(comm) {}

  /// A piece of work, done by one of the ranks. What cannot be understood of `file` becomes a
  /// finding; a file that cannot be read now is an error.
  void item(std::string_view file, std::string_view object, const std::function<void()>& work);
  /// Of the item in work.
  void find(std::string_view kind, std::string_view file, std::string_view object,
            std::string_view text);
  /// `logged`: its distance from its source is known.
  void count_matrix(bool logged) {
    ++matrices_;
    unlogged_ += logged ? 0 : 1;
  }
  void count_tensor(Index bytes) {
    ++tensors_;
    bytes_ += bytes;
  }
  void count_bytes(Index bytes) { bytes_ += bytes; }

  /// Puts what all ranks have found and counted into the report. Collective.
  void gather(VerifyReport& report);

 private:
  Communicator& comm_;
  Index items_ = 0;
  std::vector<std::pair<Index, Finding>> found_;  // with the number of the item
  Index matrices_ = 0, unlogged_ = 0, tensors_ = 0, bytes_ = 0;
};

}  // namespace aq
