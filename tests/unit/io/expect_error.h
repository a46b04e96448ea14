#pragma once
#include "aq/io/read_error.h"
#include "support/expect_error.h"

namespace aq::test {

/// As expect_input_error(), and it is known that the content is wrong.
template <class Call>
void expect_damage(const Call& call, const std::vector<std::string>& parts) {
  expect_input_error(
      [&] {
        try {
          call();
        } catch (const ReadError& error) {
          ADD_FAILURE() << "taken for unreadable: " << error.what();
          throw;
        }
      },
      parts);
}

}  // namespace aq::test
