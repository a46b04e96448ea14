#include "aq/plan/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"

namespace aq {
namespace {

TEST(Machine, TravelsThroughJson) {
  Machine machine;
  machine.name = "node of a test";
  machine.cores = 7;
  machine.gpus = 4;
  machine.solve_flops = 1.5e9;
  machine.network_latency = 3e-6;
  EXPECT_EQ(machine_from_json(machine_to_json(machine), "m.json"), machine);
}

TEST(Machine, WhatIsLeftOutStays) {
  Machine expected;
  expected.name = "m.json";
  expected.cores = 2;
  EXPECT_EQ(machine_from_json(R"({"cores": 2})", "m.json"), expected);
}

TEST(Machine, MistakesNameFileAndField) {
  const auto message = [](const char* text) {
    try {
      machine_from_json(text, "m.json");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      return std::string(error.what());
    }
    return std::string();
  };
  using testing::AllOf;
  using testing::HasSubstr;
  EXPECT_THAT(message("[]"), AllOf(HasSubstr("m.json"), HasSubstr("not a JSON object")));
  EXPECT_THAT(message(R"({"core": 2})"), AllOf(HasSubstr("'core'"), HasSubstr("did you mean")));
  EXPECT_THAT(message(R"({"cores": 0})"), HasSubstr("'cores' is 0, not a whole number in [1, "));
  EXPECT_THAT(message(R"({"cores": 1.5})"), HasSubstr("'cores' is 1.5, not a whole number"));
  EXPECT_THAT(message(R"({"solve_flops": 0})"),
              HasSubstr("'solve_flops' is 0, not a number above zero"));
  EXPECT_THAT(message(R"({"solve_flops": "fast"})"),
              HasSubstr("'solve_flops' is \"fast\", not a number"));
  EXPECT_THAT(message(R"({"cores": 2, "cores": 3})"), HasSubstr("'cores' appears twice"));
  EXPECT_THAT(message(R"({"name": 3})"), HasSubstr("'name' is 3, not a text"));
}

}  // namespace
}  // namespace aq
