#pragma once
/// Short regular expressions that tell modules of one kind from all others.

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace aq {

inline constexpr int kLeft = -1;  ///< label of modules that are not quantized

struct LabelledModule {
  std::string name;  ///< "model.layers.3.mlp.experts.17.up_proj"
  int label = kLeft;
};

/// Modules whose names differ in numbers alone are described together, and all linears of a layer's
/// experts together where they are alike, since servers ask for names of their own there
/// (w1, w2 and w3 as gate_proj, down_proj and up_proj), whatever stands before "layers" where that
/// tells nothing apart. A pattern is to be matched from the begin
/// of a name, as Python's re.match does.
class ModulePatterns {
 public:
  explicit ModulePatterns(const std::vector<LabelledModule>& modules);

  /// Patterns that match the modules of that label and no other one, each after `mark`; a name
  /// without a number stands for itself, without the mark.
  std::vector<std::string> of(int label, std::string_view mark) const;

 private:
  std::map<int, std::vector<std::string>> regular_, exact_;
};

}  // namespace aq
