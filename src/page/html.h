#pragma once
/// Text and tables as HTML.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aq/core/index.h"

namespace aq {

/// Text for content and quoted attributes, as UTF-8 whatever came in.
std::string escape_html(std::string_view text);
/// JSON for a <script> element: no '<' is left in it.
std::string escape_script(std::string json);

/// Three significant digits: "0.00120", "4.10e-6", "12.3".
std::string significant(double value);
/// "12,345"
std::string grouped(Index value);
/// "1 layer", "2 layers"
std::string counted(Index count, std::string_view one, std::string_view many);

/// A cell of a table.
struct Cell {
  std::string html;                  ///< escaped
  std::optional<double> value = {};  ///< by which a column of numbers is sorted
  std::optional<double> share = {};  ///< of the longest bar, in [0, 1]; drawn behind it
  std::string_view mark = {};        ///< class: "good", "note", "bad", "different"
};

Cell text_cell(std::string_view text, std::string_view mark = {});
Cell code_cell(std::string_view text);
/// A value that is not finite is a missing one.
Cell number_cell(double value, std::string_view shown, std::string_view mark = {});
Cell count_cell(Index value, std::string_view mark = {});
Cell error_cell(double value);
Cell bytes_cell(double value);
Cell seconds_cell(double value);
/// What was not recorded, or does not exist: a dash.
Cell missing_cell();

struct Column {
  std::string title;
  bool number = true;
  std::string hint = {};  ///< what the title means, shown by the pointer
};

/// A table whose last columns belong to runs: those of each run together, under its label.
class HtmlTable {
 public:
  HtmlTable(std::vector<Column> keys, std::vector<Column> figures,
            const std::vector<std::string>& runs);
  /// As many cells as there are columns: keys, then the figures of each run.
  void add(std::vector<Cell> row);
  /// A row that stays at the end, and is not sorted.
  void add_total(std::vector<Cell> row);
  bool empty() const { return rows_.empty() && totals_.empty(); }
  std::string html() const;

 private:
  struct Placed {
    Column column;
    bool begins_run;
  };
  std::vector<Placed> columns() const;
  std::string head(const std::vector<Placed>& columns) const;

  std::vector<Column> keys_, figures_;
  std::vector<std::string> runs_;
  std::vector<std::vector<Cell>> rows_, totals_;
};

/// Hidden until it is opened; `prints`: paper has it in any case.
std::string details(std::string_view summary, const std::string& content, bool prints = true);
std::string section(std::string_view id, std::string_view title, std::string_view intro,
                    const std::string& content);
std::string paragraph(std::string_view text, std::string_view mark = {});

}  // namespace aq
