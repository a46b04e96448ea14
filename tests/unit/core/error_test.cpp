#include "aq/core/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace aq {
namespace {

using testing::HasSubstr;

TEST(Error, TextIsOperationObjectReasonHint) {
  const Error full(ErrorKind::input, "read the tensor", "a.safetensors", "it ends early",
                   "copy it");
  EXPECT_STREQ(full.what(), "read the tensor: a.safetensors: it ends early (copy it)");
  const Error without_hint(ErrorKind::input, "read", "a", "no");
  EXPECT_STREQ(without_hint.what(), "read: a: no");
  const Error without_object(ErrorKind::stopped, "stop", "", "asked to", "start again");
  EXPECT_STREQ(without_object.what(), "stop: asked to (start again)");
}

TEST(Error, KindIsTheExitCodeOfTheDocumentation) {
  const auto code = [](ErrorKind kind) { return Error(kind, "", "", "").exit_code(); };
  EXPECT_EQ(code(ErrorKind::usage), 2);
  EXPECT_EQ(code(ErrorKind::input), 3);
  EXPECT_EQ(code(ErrorKind::policy), 4);
  EXPECT_EQ(code(ErrorKind::internal), 70);
  EXPECT_EQ(code(ErrorKind::stopped), 75);
}

TEST(Error, IsCaughtAsAStandardException) {
  try {
    throw Error(ErrorKind::policy, "a", "b", "c");
  } catch (const std::exception& error) {
    EXPECT_STREQ(error.what(), "a: b: c");
  }
}

TEST(Str, JoinsItsArguments) {
  EXPECT_EQ(str("rank ", 3, " of ", std::int64_t{5}, ", ", 0.5), "rank 3 of 5, 0.5");
}

TEST(Check, NamesExpressionFileAndValues) {
  const int rows = 3, columns = 4;
  EXPECT_NO_THROW(AQ_CHECK(rows < columns, rows));
  try {
    AQ_CHECK(rows == columns, "rows ", rows, ", columns ", columns);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::internal);
    EXPECT_THAT(error.what(), HasSubstr("rows == columns"));
    EXPECT_THAT(error.what(), HasSubstr("rows 3, columns 4"));
    EXPECT_THAT(error.what(), HasSubstr("error_test.cpp:"));
  }
}

TEST(Check, EvaluatesItsValuesOnlyWhenItFails) {
  int evaluated = 0;
  AQ_CHECK(true, ++evaluated);
  EXPECT_EQ(evaluated, 0);
  EXPECT_THROW(AQ_CHECK(false, ++evaluated), Error);
  EXPECT_EQ(evaluated, 1);
}

}  // namespace
}  // namespace aq
