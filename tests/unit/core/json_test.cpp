/// What the strict parser refuses beyond what recipes, checkpoints and architectures try.
#include "aq/core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace aq {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string refused(const std::string& text, JsonDialect dialect = JsonDialect::standard) {
  try {
    parse_json(text, {ErrorKind::policy, "read the test", "t.json", "remedy"}, dialect);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::policy);
    EXPECT_THAT(error.what(), HasSubstr("(remedy)"));
    return error.what();
  }
  return "accepted";
}

TEST(Json, WhatPythonWritesIsAText) {
  const auto python = [](std::string_view text) {
    return parse_json(text, {}, JsonDialect::python);
  };
  const std::string plain = R"({"a": [1, -2.5e3, "NaN, \"Infinity\" \\"], "NaN": null})";
  EXPECT_EQ(python(plain), Json::parse(plain));
  EXPECT_EQ(python(R"({"a": [NaN,Infinity , -Infinity]})"),
            Json::parse(R"({"a": ["NaN","Infinity" , "-Infinity"]})"));
  EXPECT_THAT(refused(R"({"a": NaN})"), HasSubstr("invalid literal"));
  for (const std::string broken :
       {"\"", "\"\\", "1NaN", "NaNNaN", "-NaN", "--Infinity", "[Nan]", ""})
    EXPECT_THAT(refused("{\"a\":" + broken + "}", JsonDialect::python),
                HasSubstr("not valid JSON"));
}

TEST(Json, KeysThatAppearTwiceAreNamedByTheirPath) {
  EXPECT_THAT(refused(R"({"a": [1, [{"b": 1}, {"b": {"c.d": 1, "c.d": 2}}]]})"),
              StartsWith("read the test: t.json: 'a[1][1].b.c.d' appears twice"));
  EXPECT_THAT(refused(R"({"": 1, "": 2})"), HasSubstr("'\"\"' appears twice"));
  EXPECT_EQ(refused(R"({"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]})"), "accepted");
}

TEST(Json, LevelsAndKindsOfTheWhole) {
  const auto levels = [](std::size_t count) {
    return "{\"a\":" + std::string(count - 1, '[') + std::string(count - 1, ']') + "}";
  };
  EXPECT_EQ(refused(levels(64)), "accepted");
  EXPECT_THAT(refused(levels(65)), HasSubstr("more than 64 levels of brackets"));
  for (const char* text : {"[]", "1", "null", "\"a\""})
    EXPECT_THAT(refused(text), HasSubstr("t.json: it is not a JSON object"));
}

TEST(Json, MembersKeepTheOrderOfTheText) {
  EXPECT_EQ(parse_json<OrderedJson>(R"({"b": 1, "a": 2})", {}).dump(), R"({"b":1,"a":2})");
}

}  // namespace
}  // namespace aq
