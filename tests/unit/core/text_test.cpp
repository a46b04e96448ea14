#include "aq/core/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>

namespace aq {
namespace {

using testing::HasSubstr;

TEST(Fixed, HasTheDigitsAskedFor) {
  EXPECT_EQ(fixed(1.25, 1), "1.2");  // a tie goes to even, as printf does
  EXPECT_EQ(fixed(1.35, 1), "1.4");
  EXPECT_EQ(fixed(-0.5, 3), "-0.500");
  EXPECT_EQ(fixed(2, 0), "2");
  EXPECT_EQ(fixed(1e300, 0).size(), 301u);
}

TEST(Shortest, ReadsBackAsTheSameDouble) {
  EXPECT_EQ(shortest(0.1), "0.1");
  EXPECT_EQ(shortest(4), "4");
  EXPECT_EQ(shortest(4.5625), "4.5625");
  for (const double value : {1.0 / 3, 1e-300, 5e-324, 1.7976931348623157e308, -0.0, 123456789.125})
    EXPECT_EQ(std::strtod(shortest(value).c_str(), nullptr), value) << shortest(value);
}

TEST(BytesText, Table) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1), "1 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1024), "1.0 KiB");
  EXPECT_EQ(bytes_text(1536), "1.5 KiB");
  EXPECT_EQ(bytes_text(3565158), "3.4 MiB");
  EXPECT_EQ(bytes_text(Index{40} << 30), "40.0 GiB");
  EXPECT_EQ(bytes_text(Index{3} << 40), "3.0 TiB");
  EXPECT_EQ(bytes_text(Index{2} << 50), "2.0 PiB");
  EXPECT_EQ(bytes_text(Index{4} << 60), "4096.0 PiB");
}

/// What rounds up to the next unit is written in it.
TEST(BytesText, NeverShowsAThousandAndTwentyFourOfAUnit) {
  EXPECT_EQ(bytes_text((Index{1} << 20) - 1), "1.0 MiB");
  EXPECT_EQ(bytes_text((Index{1} << 30) - 1), "1.0 GiB");
  EXPECT_EQ(bytes_text((Index{1} << 20) - (Index{1} << 10)), "1023.0 KiB");
}

TEST(DurationText, Table) {
  EXPECT_EQ(duration_text(0), "0 ms");
  EXPECT_EQ(duration_text(0.85), "850 ms");
  EXPECT_EQ(duration_text(0.9994), "999 ms");
  EXPECT_EQ(duration_text(1), "1.0 s");
  EXPECT_EQ(duration_text(12.34), "12.3 s");
  EXPECT_EQ(duration_text(119.9), "119.9 s");
  EXPECT_EQ(duration_text(120), "2 min 00 s");
  EXPECT_EQ(duration_text(245), "4 min 05 s");
  EXPECT_EQ(duration_text(7199.4), "119 min 59 s");
  EXPECT_EQ(duration_text(7199.6), "2 h 00 min");
  EXPECT_EQ(duration_text(7380), "2 h 03 min");
  EXPECT_EQ(duration_text(360000), "100 h 00 min");
}

TEST(DurationText, RoundsUpIntoTheNextUnit) {
  EXPECT_EQ(duration_text(0.9996), "1.0 s");
  EXPECT_EQ(duration_text(119.96), "2 min 00 s");
}

TEST(ParseBytes, ReadsSizes) {
  const auto bytes = [](std::string_view text) { return parse_bytes(text, "--memory"); };
  EXPECT_EQ(bytes("0"), 0);
  EXPECT_EQ(bytes("100000"), 100000);
  EXPECT_EQ(bytes("100000B"), 100000);
  for (const char* text : {"2K", "2Ki", "2KiB"}) EXPECT_EQ(bytes(text), 2048) << text;
  for (const char* text : {"512M", "512Mi", "512MiB"}) EXPECT_EQ(bytes(text), 536870912) << text;
  for (const char* text : {"40G", "40GiB"}) EXPECT_EQ(bytes(text), 42949672960) << text;
  for (const char* text : {"5GB", "5000MB", "5e6KB"}) EXPECT_EQ(bytes(text), 5000000000) << text;
  EXPECT_EQ(bytes("1.5G"), 1610612736);
  EXPECT_EQ(bytes("0.5KiB"), 512);
  EXPECT_EQ(bytes("1e3"), 1000);
  EXPECT_EQ(bytes("3TiB"), Index{3} << 40);
  EXPECT_EQ(bytes("9007199254740993"), 9007199254740992) << "beyond 2^53: the nearest double";
}

TEST(ParseBytes, RefusesWhatIsNoSize) {
  for (const char* text : {"",     " ",     "G",    "GiB",  "B",        "-1",     "-1G", "-0.5",
                           "+5",   "1 GiB", " 1G",  "1G ",  "1Gb",      "1gib",   "1g",  "1iB",
                           "1KK",  "1KiBs", "1P",   "0x10", "1,5G",     "1.5.2G", "nan", "inf",
                           "infG", "1e400", "1e30", "8e18", "5000000T", "twelve", "1\n"}) {
    try {
      parse_bytes(text, "--memory");
      ADD_FAILURE() << "accepted '" << text << "'";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(error.what(), HasSubstr("--memory"));
      EXPECT_THAT(error.what(), HasSubstr(str("'", text, "'")));
    }
  }
}

TEST(NearestWord, Table) {
  static constexpr std::array<std::string_view, 6> words{"wq",   "group_size", "symmetric",
                                                         "skip", "method",     "scale_dtype"};
  EXPECT_EQ(nearest_word("groupsize", words), "group_size");
  EXPECT_EQ(nearest_word("group-size", words), "group_size");
  EXPECT_EQ(nearest_word("symetric", words), "symmetric");
  EXPECT_EQ(nearest_word("methods", words), "method");
  EXPECT_EQ(nearest_word("Skip", words), "skip");
  EXPECT_EQ(nearest_word("scale_type", words), "scale_dtype");
  EXPECT_EQ(nearest_word("skip", words), "skip");
  EXPECT_EQ(nearest_word("percent_dampening", words), "") << "nothing is near";
  EXPECT_EQ(nearest_word("zzzz", words), "");
  EXPECT_EQ(nearest_word("skip", {}), "");
}

TEST(NearestWord, TheFirstOfEquallyNearOnes) {
  static constexpr std::array<std::string_view, 3> words{"int2", "int3", "int4"};
  EXPECT_EQ(nearest_word("int9", words), "int2");
  EXPECT_EQ(nearest_word("int", words), "int2");
}

/// Words of up to three letters of {a, b}: the distance from its recursive definition.
std::size_t distance(std::string_view a, std::string_view b) {
  if (a.empty()) return b.size();
  if (b.empty()) return a.size();
  const std::size_t same = a.front() == b.front() ? 0 : 1;
  return std::min({distance(a.substr(1), b.substr(1)) + same, distance(a.substr(1), b) + 1,
                   distance(a, b.substr(1)) + 1});
}

TEST(NearestWord, IsTheLeastEditDistance) {
  std::vector<std::string> words{""};
  for (std::size_t i = 0; words[i].size() < 4; ++i)
    for (const char letter : {'a', 'b'}) words.push_back(words[i] + letter);
  for (const std::string& word : words)
    for (const std::string& first : words)
      for (const std::string_view second : {"abba", "bb"}) {
        const std::array<std::string_view, 2> pair{first, second};
        const std::string_view expected =
            distance(word, first) <= distance(word, second) ? pair[0] : pair[1];
        const std::string found = nearest_word(word, pair);
        if (found.empty())
          ASSERT_TRUE(distance(word, expected) > 2 || expected.empty()) << word << " " << expected;
        else
          ASSERT_EQ(found, expected) << word;
      }
}

TEST(DidYouMean, SaysSoOrNothing) {
  static constexpr std::array<std::string_view, 2> words{"gptq", "rtn"};
  EXPECT_THAT(did_you_mean("gtpq", words), HasSubstr("did you mean 'gptq'?"));
  EXPECT_EQ(did_you_mean("something else", words), "");
}

TEST(ReplaceAll, ReplacesEveryOneAndNothingTwice) {
  EXPECT_EQ(replace_all("a.{e}.b.{e}", "{e}", "12"), "a.12.b.12");
  EXPECT_EQ(replace_all("aaa", "a", "aa"), "aaaaaa");
  EXPECT_EQ(replace_all("none", "{e}", "1"), "none");
  EXPECT_EQ(replace_all("", "{e}", "1"), "");
}

}  // namespace
}  // namespace aq
