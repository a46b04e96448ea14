#include "export/module_patterns.h"

#include <algorithm>
#include <set>

#include "aq/core/error.h"
#include "aq/core/index.h"

namespace aq {
namespace {

using Labels = std::map<std::vector<Index>, int>;  // of the modules with these numbers
constexpr std::string_view kEveryNumber = R"(\d+)";

struct SplitName {
  std::string shape;  // with '#' for each component that is a number
  std::vector<Index> numbers;
};

SplitName split(const std::string& name) {
  SplitName result;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    const bool number = !part.empty() && part.size() < 10 &&
                        part.find_first_not_of("0123456789") == std::string::npos;
    if (number) result.numbers.push_back(std::stoll(part));
    result.shape += (begin == 0 ? "" : ".") + (number ? "#" : part);
    begin = end + 1;
  }
  return result;
}

std::string joined(const std::set<Index>& numbers) {
  std::string text;
  for (const Index number : numbers) text += str(text.empty() ? "" : "|", number);
  return numbers.size() == 1 ? text : "(" + text + ")";
}

/// The shape as a regular expression with `numbers` in place of its '#'.
std::string expression(const std::string& shape, const std::vector<std::string>& numbers) {
  std::string text;
  std::size_t next = 0;
  for (const char c : shape) {
    if (c == '#')
      text += numbers[next++];
    else if (std::string_view(".*+?()[]{}|^$\\").find(c) != std::string_view::npos)
      text += std::string("\\") + c;
    else
      text += c;
  }
  return text;
}

/// Expressions for the modules of `label` among those of one shape. The first number is the
/// layer's; what lies in a layer is said for all layers that are alike.
std::vector<std::string> expressions(const std::string& shape, const Labels& labels, int label) {
  std::map<Index, Labels> layers;  // without the first number
  bool uniform = true;
  for (const auto& [numbers, one] : labels) {
    layers[numbers.front()][{numbers.begin() + 1, numbers.end()}] = one;
    uniform = uniform && one == label;
  }
  const std::size_t count = labels.begin()->first.size();
  if (uniform)
    return {expression(shape, std::vector<std::string>(count, std::string(kEveryNumber)))};
  std::map<std::vector<std::string>, std::set<Index>> alike;  // what they hold -> layers
  for (const auto& [layer, inner] : layers) {
    std::set<std::vector<Index>> chosen;
    for (const auto& [numbers, one] : inner)
      if (one == label) chosen.insert(numbers);
    if (chosen.empty()) continue;
    if (chosen.size() == inner.size()) {
      alike[std::vector<std::string>(count - 1, std::string(kEveryNumber))].insert(layer);
    } else if (count == 2) {
      std::set<Index> experts;
      for (const std::vector<Index>& numbers : chosen) experts.insert(numbers.front());
      alike[{joined(experts)}].insert(layer);
    } else {
      for (const std::vector<Index>& numbers : chosen) {
        std::vector<std::string> texts;
        for (const Index number : numbers) texts.push_back(str(number));
        alike[texts].insert(layer);
      }
    }
  }
  std::vector<std::string> result;
  for (const auto& [inner, in_layers] : alike) {
    std::vector<std::string> numbers{joined(in_layers)};
    numbers.insert(numbers.end(), inner.begin(), inner.end());
    result.push_back(expression(shape, numbers));
  }
  return result;
}

/// The shape without what stands before "layers.#": servers call the modules around it otherwise.
std::string inner_shape(const std::string& shape) {
  const std::size_t number = shape.find(".#");
  if (number == std::string::npos) return shape;
  return shape.substr(shape.rfind('.', number - 1) + 1);
}

/// What stands up to and with the last number: "model.layers.#.mlp.experts.#".
std::string stem(const std::string& shape) {
  return shape.substr(0, shape.rfind('#') + 1);
}

}  // namespace

ModulePatterns::ModulePatterns(const std::vector<LabelledModule>& modules) {
  std::map<std::string, Labels> shapes;
  for (const LabelledModule& module : modules) {
    const SplitName name = split(module.name);
    if (name.numbers.empty())
      exact_[module.label].push_back(module.name);
    else
      shapes[name.shape][name.numbers] = module.label;
  }
  // Experts: one expression for all of their linears where these have the same labels.
  std::map<std::string, std::vector<const Labels*>> stems;
  for (const auto& [shape, labels] : shapes) stems[stem(shape)].push_back(&labels);
  std::map<std::string, std::set<std::string>> towers;  // with layers of the same name
  for (const auto& [shape, labels] : shapes) towers[inner_shape(stem(shape))].insert(stem(shape));
  std::set<std::string> described;
  for (const auto& [shape, labels] : shapes) {
    const auto& others = stems[stem(shape)];
    const bool experts = std::ranges::count(shape, '#') >= 2 && shape != stem(shape);
    const Labels& mine = labels;
    const bool alike =
        experts && std::ranges::all_of(others, [&](const Labels* one) { return *one == mine; });
    if (alike && !described.insert(stem(shape)).second) continue;
    const bool is_short = towers[inner_shape(stem(shape))].size() == 1;
    const std::string said = is_short ? inner_shape(shape) : shape;
    std::set<int> present;
    for (const auto& [numbers, label] : labels) present.insert(label);
    for (const int label : present)
      for (const std::string& text : expressions(alike ? stem(said) : said, labels, label))
        regular_[label].push_back((is_short ? R"((.*\.)?)" : "") + text +
                                  (alike ? R"(\..*)" : "$"));
  }
}

std::vector<std::string> ModulePatterns::of(int label, std::string_view mark) const {
  std::vector<std::string> result;
  if (const auto found = exact_.find(label); found != exact_.end()) result = found->second;
  if (const auto found = regular_.find(label); found != regular_.end())
    for (const std::string& text : found->second) result.push_back(str(mark, text));
  return result;
}

}  // namespace aq
