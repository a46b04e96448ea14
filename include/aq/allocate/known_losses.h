#pragma once
/// Losses of units in one format that were measured, kept in a file.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace aq {

/// What a model loses when one unit is stored in one format.
struct UnitLoss {
  double mean = 0;
  std::optional<double> standard_error = std::nullopt;
};

/// By the names of the units.
class KnownLosses {
 public:
  /// @param identity  a text for all that decides what is measured: what the file holds of another
  ///   one is forgotten
  /// @param text  of the file, as one rank has read it for all; empty: there is none. Throws
  ///   Error{input} where it cannot be understood.
  KnownLosses(std::filesystem::path file, std::string identity, std::string_view text);

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
