#pragma once
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "aq/core/error.h"

namespace aq::test {

/// `call` must throw Error{input} whose text holds every one of `parts`.
template <class Call>
void expect_input_error(const Call& call, const std::vector<std::string>& parts) {
  try {
    call();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input) << error.what();
    for (const std::string& part : parts)
      EXPECT_THAT(std::string(error.what()), testing::HasSubstr(part));
    EXPECT_LT(std::string(error.what()).size(), 1000u);
  }
}

}  // namespace aq::test
