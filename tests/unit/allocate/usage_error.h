#pragma once
#include <gtest/gtest.h>

#include <string>

#include "aq/core/error.h"

namespace aq::test {

/// What `call` throws, which must be Error{usage}.
template <class Call>
std::string usage_error(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

}  // namespace aq::test
