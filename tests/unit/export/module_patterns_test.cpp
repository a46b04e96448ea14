#include "export/module_patterns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <regex.h>

#include <functional>
#include <stdexcept>

#include "aq/core/error.h"
#include "aq/core/index.h"
#include "aq/core/text.h"

namespace aq {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// As Python's re.match does, for patterns with the mark; else equality. POSIX has no \d.
bool matches(const std::string& pattern, const std::string& name) {
  if (!pattern.starts_with("re:")) return pattern == name;
  regex_t expression;
  const std::string text = "^" + replace_all(pattern.substr(3), "\\d", "[0-9]");
  if (regcomp(&expression, text.c_str(), REG_EXTENDED | REG_NOSUB) != 0)
    throw std::invalid_argument(pattern);
  const bool found = regexec(&expression, name.c_str(), 0, nullptr, 0) == 0;
  regfree(&expression);
  return found;
}

constexpr Index kLayers = 12, kExperts = 11;  // numbers of one and of two digits

std::vector<LabelledModule> modules_of(
    const std::function<int(Index layer, Index expert, std::string_view role)>& label) {
  std::vector<LabelledModule> modules{{"lm_head", kLeft}};
  for (Index layer = 0; layer < kLayers; ++layer) {
    const auto add = [&](const std::string& module, Index expert) {
      const std::string role = module.substr(module.rfind('.') + 1);
      modules.push_back({str("model.layers.", layer, ".", module), label(layer, expert, role)});
    };
    for (const char* role : {"q_proj", "k_proj", "v_proj", "o_proj"})
      add(str("self_attn.", role), -1);
    add("mlp.gate", -1);
    for (const char* role : {"gate_proj", "up_proj", "down_proj"}) {
      add(str("mlp.shared_experts.", role), -1);
      for (Index expert = 0; expert < kExperts; ++expert)
        add(str("mlp.experts.", expert, ".", role), expert);
    }
  }
  return modules;
}

/// Each module is matched by a pattern of its label and by none of another one.
void expect_exact(const std::vector<LabelledModule>& modules, const std::string& what) {
  const ModulePatterns patterns(modules);
  for (const int label : {kLeft, 0, 1, 2})
    for (const std::string& pattern : patterns.of(label, "re:"))
      for (const LabelledModule& module : modules)
        EXPECT_TRUE(module.label == label || !matches(pattern, module.name))
            << what << ": " << pattern << " matches " << module.name;
  for (const LabelledModule& module : modules) {
    const auto own = patterns.of(module.label, "re:");
    EXPECT_TRUE(std::ranges::any_of(
        own, [&](const std::string& pattern) { return matches(pattern, module.name); }))
        << what << ": " << module.name;
  }
}

TEST(ModulePatterns, TellModulesApart) {
  const auto router = [](std::string_view role) { return role == "gate"; };
  expect_exact(modules_of([&](Index, Index, auto role) { return router(role) ? kLeft : 0; }),
               "all alike");
  expect_exact(modules_of([&](Index layer, Index, auto) { return layer % 3 == 0 ? 1 : 0; }),
               "by layer");
  expect_exact(modules_of([&](Index, Index expert, auto) { return expert < 0 ? kLeft : 0; }),
               "experts alone");
  expect_exact(modules_of([&](Index layer, Index expert, auto) {
                 return expert < 0 ? kLeft : static_cast<int>((expert + layer / 4) % 3);
               }),
               "by expert");
  expect_exact(modules_of([&](Index layer, Index expert, auto role) {
                 return role == "down_proj" && expert >= 0 ? static_cast<int>(layer % 2) : 2;
               }),
               "by role");
  expect_exact(modules_of([&](Index layer, Index expert, auto role) {
                 return static_cast<int>((layer * 7 + expert * 5 + std::ssize(role)) % 4) - 1;
               }),
               "no order at all");
}

TEST(ModulePatterns, AreShort) {
  const auto modules = modules_of([](Index layer, Index expert, auto) {
    return expert < 0 ? kLeft : layer < 3 ? 1 : 0;
  });
  const ModulePatterns patterns(modules);
  EXPECT_THAT(patterns.of(1, "re:"),
              ElementsAre(R"(re:(.*\.)?layers\.(0|1|2)\.mlp\.experts\.\d+\..*)"));
  EXPECT_EQ(patterns.of(0, "re:").size(), 1U);
  EXPECT_EQ(patterns.of(kLeft, "re:").size(), 9U) << "lm_head, four of attention, router, shared";
  EXPECT_THAT(patterns.of(2, "re:"), IsEmpty());
}

TEST(ModulePatterns, OtherTowersAreToldApart) {
  auto modules = modules_of([](Index, Index, auto) { return 0; });
  for (Index layer = 0; layer < kLayers; ++layer) {
    modules.push_back({str("vision.layers.", layer, ".self_attn.q_proj"), kLeft});
    modules.push_back({str("mtp.layers.", layer, ".mlp.experts.0.up_proj"), kLeft});
  }
  expect_exact(modules, "three towers");
}

TEST(ModulePatterns, OtherCharactersStandForThemselves) {
  expect_exact({{"a+b.0.x(y)", 0}, {"aab.0.xy", 1}, {"a+b.1.x(y)", 2}, {"a+b.99999999999.x", 1}},
               "special characters");
}

}  // namespace
}  // namespace aq
