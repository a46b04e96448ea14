#pragma once
/// Losses of units in one format that were measured, kept in a file.

#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace aq {

/// What a model loses when one unit is stored in one format.
struct UnitLoss {
  double mean = 0;
  std::optional<double> standard_error = std::nullopt;
};

/// By the names of the units.
class KnownLosses {
 public:
  /// Reads the file where there is one and it is of the same `identity`, a text for all that
  /// decides what is measured. Throws Error{input} for a file that cannot be understood.
  KnownLosses(std::filesystem::path file, std::string identity);

  const UnitLoss* find(const std::string& unit) const;
  void add(const std::string& unit, const UnitLoss& loss) { known_[unit] = loss; }
  /// Whole or not at all.
  void write() const;

 private:
  std::filesystem::path file_;
  std::string identity_;
  std::map<std::string, UnitLoss> known_;
};

}  // namespace aq
