#include "aq/allocate/known_losses.h"

#include <gtest/gtest.h>

#include "aq/io/file.h"
#include "support/expect_error.h"
#include "support/temporary_directory.h"

namespace aq {
namespace {

TEST(KnownLosses, AreReadAgain) {
  const test::TemporaryDirectory directory;
  const auto file = directory.path() / "losses.json";
  KnownLosses first(file, "one", "");
  EXPECT_EQ(first.find("layer 0 attention"), nullptr);
  first.add("layer 0 attention", {0.1234567890123456789, 1e-17});
  first.add("head", {2, std::nullopt});
  first.write();
  const KnownLosses again(file, "one", read_text_file(file));
  ASSERT_NE(again.find("layer 0 attention"), nullptr);
  EXPECT_EQ(again.find("layer 0 attention")->mean, 0.1234567890123456789);
  EXPECT_EQ(again.find("layer 0 attention")->standard_error, 1e-17);
  EXPECT_EQ(again.find("head")->standard_error, std::nullopt);
  EXPECT_EQ(again.find("layer 1 attention"), nullptr);
}

TEST(KnownLosses, OfSomethingElseAreForgotten) {
  const test::TemporaryDirectory directory;
  const auto file = directory.path() / "losses.json";
  KnownLosses first(file, "one", "");
  first.add("head", {2, std::nullopt});
  first.write();
  EXPECT_EQ(KnownLosses(file, "two", read_text_file(file)).find("head"), nullptr);
}

TEST(KnownLosses, DamagedFilesAreNamed) {
  const test::TemporaryDirectory directory;
  const auto file = directory.path() / "losses.json";
  for (const char* text : {"{", R"({"identity": "one"})", R"({"identity": 1, "kl": {}})",
                           R"({"identity": "one", "kl": {"head": {"mean": "x"}}})",
                           R"({"identity": "one", "kl": {"head": 3}})"}) {
    test::expect_input_error([&] { KnownLosses(file, "one", text); },
                             {"losses.json", "remove the file"});
  }
}

}  // namespace
}  // namespace aq
