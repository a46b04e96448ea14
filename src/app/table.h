#pragma once
/// Columns of text on standard output.

#include <string>
#include <vector>

namespace aq::app {

/// Rows of cells, columns padded: numbers to the right, all else and the first column to the left.
std::string table_text(const std::vector<std::vector<std::string>>& rows);

}  // namespace aq::app
