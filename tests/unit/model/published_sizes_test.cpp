// The tensors and sizes of published models. tests/golden/configs has the config.json of each as
// NAME.json, and NAME.tensors, which tools/make_published_sizes.py makes without this program:
// "parameters N", then "NAME EXTENTS..." a line, {a..b} in it for every number from a to b.

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <unordered_set>

#include "aq/model/architecture.h"
#include "aq/model/storage.h"
#include "test_paths.h"

namespace aq {
namespace {

namespace fs = std::filesystem;

fs::path config_path(const std::string& file) {
  return fs::path(AQ_TEST_DATA) / "configs" / file;
}

/// The names of the files with this extension, without it.
std::vector<std::string> names_of(const std::string& extension) {
  std::vector<std::string> names;
  std::error_code missing;  // leaves an empty list, which a test refuses
  for (const fs::directory_entry& entry : fs::directory_iterator(config_path(""), missing))
    if (entry.path().extension() == extension) names.push_back(entry.path().stem().string());
  std::ranges::sort(names);
  return names;
}

std::string read_text(const fs::path& path) {
  std::ifstream stream(path);
  std::ostringstream text;
  text << stream.rdbuf();
  EXPECT_TRUE(stream) << path;
  return text.str();
}

using Lines = std::unordered_set<std::string>;

int number(std::string_view digits) {
  int value = -1;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

/// Adds every line that `rest` stands for behind `start`.
void expand(std::string start, std::string_view rest, Lines& lines) {
  const std::size_t open = rest.find('{');
  start += rest.substr(0, open);
  if (open == std::string_view::npos) {
    EXPECT_TRUE(lines.insert(start).second) << "twice in the list: " << start;
    return;
  }
  const std::size_t dots = rest.find("..", open), close = rest.find('}', open);
  ASSERT_TRUE(dots < close && close != std::string_view::npos) << rest;
  const int first = number(rest.substr(open + 1, dots - open - 1));
  const int last = number(rest.substr(dots + 2, close - dots - 2));
  ASSERT_TRUE(0 <= first && first < last) << rest;
  for (int i = first; i <= last; ++i)
    expand(start + std::to_string(i), rest.substr(close + 1), lines);
}

struct Published {
  Index parameters = 0;
  Lines tensors;  ///< "NAME EXTENTS..."
};

Published read_list(const fs::path& path) {
  Published list;
  std::istringstream stream(read_text(path));
  std::string line;
  EXPECT_TRUE(stream >> line >> list.parameters && line == "parameters") << path;
  std::getline(stream, line);
  while (std::getline(stream, line)) expand("", line, list.tensors);
  return list;
}

std::string line_of(const ExpectedTensor& tensor) {
  std::string line = tensor.name;
  for (const Index extent : tensor.shape) (line += ' ') += std::to_string(extent);
  return line;
}

/// The first few in alphabetical order, with their number.
std::string summary(std::vector<std::string> lines) {
  constexpr std::size_t kShown = 8;
  const std::size_t shown = std::min(kShown, lines.size());
  std::ranges::partial_sort(lines, lines.begin() + static_cast<std::ptrdiff_t>(shown));
  std::string text = std::to_string(lines.size());
  for (std::size_t i = 0; i < shown; ++i) (text += "\n  ") += lines[i];
  return text;
}

class PublishedSizes : public testing::TestWithParam<std::string> {};

TEST_P(PublishedSizes, TensorsAndParameters) {
  const fs::path path = config_path(GetParam() + ".json");
  const Model model = describe_model(read_text(path), path.string());
  Published list = read_list(config_path(GetParam() + ".tensors"));
  Lines& missing = list.tensors;  // what is left of the list when the model's tensors are taken out
  std::vector<std::string> unexpected;
  Index parameters = 0;
  for (const ExpectedTensor& tensor : expected_tensors(model)) {
    parameters += tensor.parameters;
    std::string line = line_of(tensor);
    if (missing.erase(line) == 0) unexpected.push_back(std::move(line));
  }
  EXPECT_TRUE(missing.empty()) << "missing: " << summary({missing.begin(), missing.end()});
  EXPECT_TRUE(unexpected.empty()) << "unexpected or twice: " << summary(unexpected);
  EXPECT_EQ(parameters, list.parameters);
  EXPECT_EQ(parameter_count(model), list.parameters);
}

std::string test_name(const testing::TestParamInfo<std::string>& parameter) {
  std::string name = parameter.param;
  std::ranges::replace_if(
      name, [](unsigned char c) { return !std::isalnum(c); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Configs, PublishedSizes, testing::ValuesIn(names_of(".json")), test_name);

TEST(PublishedConfigs, ThereIsOneOfEveryArchitecture) {
  std::set<std::string> seen;
  for (const std::string& name : names_of(".json"))
    if (const Architecture* row = named_architecture(read_text(config_path(name + ".json")), name))
      seen.insert(row->name);
  for (const Architecture& row : architectures()) EXPECT_TRUE(seen.contains(row.name)) << row.name;
}

TEST(PublishedConfigs, EachHasAList) {
  EXPECT_FALSE(names_of(".json").empty());
  EXPECT_EQ(names_of(".json"), names_of(".tensors"));
}

}  // namespace
}  // namespace aq
