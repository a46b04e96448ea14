#pragma once
/// Files that cannot be read at the moment: that says nothing about what they hold.

#include <string_view>

#include "aq/core/error.h"

namespace aq {

/// A system call failed (its errno is in the text), or another process holds the file. It may be
/// whole: who would remove what is damaged must not do so after this error.
class ReadError : public Error {
 public:
  ReadError(std::string_view operation, std::string_view object, std::string_view reason,
            std::string_view hint = {});
};

/// How long a file that cannot be read is waited for.
struct Patience {
  double pause = 0.1;    ///< seconds before the next try; doubles with each
  double longest = 6.4;  ///< the last pause: about 13 s in all
  bool told = false;
};
/// Waits, and tells the first time why; throws `error` when patience is at its end.
void wait_for_next_try(const ReadError& error, Patience& patience);

/// What `read` returns; it is called again while it throws a ReadError and there is patience left.
template <class Read>
auto read_patiently(const Read& read, Patience patience = {}) {
  while (true) {
    try {
      return read();
    } catch (const ReadError& error) {
      wait_for_next_try(error, patience);
    }
  }
}

}  // namespace aq
