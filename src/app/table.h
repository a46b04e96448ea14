#pragma once
/// Columns of text on standard output.

#include <string>
#include <vector>

namespace aq::app {

/// Rows of cells, columns padded; the first column to the left, the others to the right.
std::string table_text(const std::vector<std::vector<std::string>>& rows);

}  // namespace aq::app
