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
  EXPECT_THAT(message("[]"), AllOf(HasSubstr("m.json"), HasSubstr("no JSON object")));
  EXPECT_THAT(message(R"({"core": 2})"), AllOf(HasSubstr("'core'"), HasSubstr("did you mean")));
  EXPECT_THAT(message(R"({"cores": 0})"), HasSubstr("cores must be a whole number of at least 1"));
  EXPECT_THAT(message(R"({"cores": 1.5})"), HasSubstr("cores must be a whole number"));
  EXPECT_THAT(message(R"({"solve_flops": 0})"), HasSubstr("solve_flops must be a number above 0"));
  EXPECT_THAT(message(R"({"solve_flops": "fast"})"), HasSubstr("solve_flops"));
  EXPECT_THAT(message(R"({"name": 3})"), HasSubstr("name must be a text"));
}

}  // namespace
}  // namespace aq
