#include "aq/io/read_error.h"

#include <chrono>
#include <thread>

#include "aq/core/log.h"

namespace aq {

ReadError::ReadError(std::string_view operation, std::string_view object, std::string_view reason,
                     std::string_view hint)
    : Error(ErrorKind::input, operation, object, reason,
            hint.empty() ? "it cannot be read now; what it holds may be whole" : hint) {}

void wait_for_next_try(const ReadError& error, Patience& patience) {
  if (patience.pause > patience.longest) throw error;
  if (!patience.told) log_warning(str(error.what(), "; it is tried again"));
  patience.told = true;
  std::this_thread::sleep_for(std::chrono::duration<double>(patience.pause));
  patience.pause *= 2;
}

}  // namespace aq
