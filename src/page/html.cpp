#include "page/html.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "aq/core/error.h"
#include "aq/core/json.h"
#include "aq/core/text.h"

namespace aq {
namespace {

/// Names come from files and need not be valid UTF-8.
std::string as_utf8(std::string_view text) {
  const std::string quoted =
      Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
  return Json::parse(quoted).get<std::string>();
}

std::string class_of(bool number, bool begins_run, std::string_view mark = {}, bool bar = false) {
  std::string names;
  const auto add = [&](bool wanted, std::string_view name) {
    if (wanted && !name.empty()) names += str(names.empty() ? "" : " ", name);
  };
  add(number, "n");
  add(begins_run, "run");
  add(true, mark);
  add(bar, "bar");
  return names.empty() ? "" : str(" class=\"", names, "\"");
}

std::string cell_html(const Cell& cell, bool number, bool begins_run) {
  std::string html = str("<td", class_of(number, begins_run, cell.mark, cell.share.has_value()));
  if (cell.value) html += str(" data-v=\"", shortest(*cell.value), "\"");
  if (cell.share) html += str(" style=\"--s:", fixed(*cell.share * 100, 1), "%\"");
  return html + str(">", cell.html, "</td>");
}

std::string header_html(const Column& column, bool begins_run) {
  const std::string hint =
      column.hint.empty() ? "" : str(" title=\"", escape_html(column.hint), "\"");
  return str("<th scope=\"col\"", class_of(column.number, begins_run), hint, ">",
             escape_html(column.title), "</th>");
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string html;
  for (const char c : as_utf8(text)) switch (c) {
      case '&':
        html += "&amp;";
        break;
      case '<':
        html += "&lt;";
        break;
      case '>':
        html += "&gt;";
        break;
      case '"':
        html += "&quot;";
        break;
      case '\'':
        html += "&#39;";
        break;
      case '\0':
        html += "\xef\xbf\xbd";
        break;
      default:
        html += c;
    }
  return html;
}

std::string escape_script(std::string json) {
  return replace_all(std::move(json), "<", "\\u003c");
}

std::string significant(double value) {
  if (value == 0) return "0";
  std::array<char, 32> digits{};
  std::snprintf(digits.data(), digits.size(), "%#.3g", value);
  std::string text = digits.data();
  if (text.ends_with('.')) text.pop_back();
  return replace_all(replace_all(std::move(text), "e-0", "e-"), "e+0", "e+");
}

std::string grouped(Index value) {
  std::string text = str(value);
  for (Index at = std::ssize(text) - 3; at > (value < 0 ? 1 : 0); at -= 3)
    text.insert(static_cast<std::size_t>(at), 1, ',');
  return text;
}

std::string counted(Index count, std::string_view one, std::string_view many) {
  return str(grouped(count), " ", count == 1 ? one : many);
}

Cell text_cell(std::string_view text, std::string_view mark) {
  return {.html = escape_html(text), .mark = mark};
}

Cell code_cell(std::string_view text) {
  return {.html = str("<code>", escape_html(text), "</code>")};
}

Cell number_cell(double value, std::string_view shown, std::string_view mark) {
  if (!std::isfinite(value)) return missing_cell();
  return {.html = escape_html(shown), .value = value, .mark = mark};
}

Cell count_cell(Index value, std::string_view mark) {
  return number_cell(static_cast<double>(value), grouped(value), mark);
}

Cell error_cell(double value) {
  return number_cell(value, significant(value));
}

Cell bytes_cell(double value) {
  return value < 0 || !std::isfinite(value)
             ? missing_cell()
             : number_cell(value, bytes_text(static_cast<Index>(value)));
}

Cell seconds_cell(double value) {
  return value < 0 ? missing_cell() : number_cell(value, duration_text(value));
}

Cell missing_cell() {
  return {.html = "–", .mark = "missing"};
}

HtmlTable::HtmlTable(std::vector<Column> keys, std::vector<Column> figures,
                     const std::vector<std::string>& runs)
    : keys_(std::move(keys)), figures_(std::move(figures)), runs_(runs) {}

void HtmlTable::add(std::vector<Cell> row) {
  rows_.push_back(std::move(row));
}

void HtmlTable::add_total(std::vector<Cell> row) {
  totals_.push_back(std::move(row));
}

std::vector<HtmlTable::Placed> HtmlTable::columns() const {
  std::vector<Placed> columns;
  const bool several = runs_.size() > 1;
  for (const Column& column : keys_) columns.push_back({column, false});
  for (const std::string& run : runs_)
    for (std::size_t i = 0; i < figures_.size(); ++i) {
      columns.push_back({figures_[i], several && i == 0});
      // One figure a run needs no second line of headings: it is known by the run's label.
      if (several && figures_.size() == 1) columns.back().column.title = run;
    }
  return columns;
}

std::string HtmlTable::head(const std::vector<Placed>& columns) const {
  if (std::ranges::all_of(columns, [](const Placed& one) { return one.column.title.empty(); }))
    return "";
  std::string html = "<thead>";
  if (runs_.size() > 1 && figures_.size() > 1) {
    html += str("<tr class=\"runs\"><td colspan=\"", keys_.size(), "\"></td>");
    for (const std::string& run : runs_)
      html += str("<th scope=\"colgroup\" class=\"run\" colspan=\"", figures_.size(), "\">",
                  escape_html(run), "</th>");
    html += "</tr>";
  }
  html += "<tr>";
  for (const Placed& one : columns) html += header_html(one.column, one.begins_run);
  return html + "</tr></thead>";
}

std::string HtmlTable::html() const {
  const std::vector<Placed> all = columns();
  std::string html = str("<div class=\"wide\"><table>", head(all));
  const auto add_rows = [&](const char* tag, const std::vector<std::vector<Cell>>& rows) {
    if (rows.empty()) return;
    html += str("<", tag, ">");
    for (const std::vector<Cell>& row : rows) {
      AQ_CHECK(row.size() == all.size(), row.size(), " cells in ", all.size(), " columns");
      html += "<tr>";
      for (std::size_t i = 0; i < row.size(); ++i)
        html += cell_html(row[i], all[i].column.number, all[i].begins_run);
      html += "</tr>\n";
    }
    html += str("</", tag, ">");
  };
  add_rows("tbody", rows_);
  add_rows("tfoot", totals_);
  return html + "</table></div>\n";
}

std::string details(std::string_view summary, const std::string& content, bool prints) {
  return str("<details", prints ? " class=\"prints\"" : "", "><summary>", escape_html(summary),
             "</summary>\n", content, "</details>\n");
}

std::string section(std::string_view id, std::string_view title, std::string_view intro,
                    const std::string& content) {
  return str("<section id=\"", id, "\"><h2>", escape_html(title), "</h2>\n",
             intro.empty() ? "" : paragraph(intro), content, "</section>\n");
}

std::string paragraph(std::string_view text, std::string_view mark) {
  return str("<p", mark.empty() ? "" : str(" class=\"", mark, "\""), ">", escape_html(text),
             "</p>\n");
}

}  // namespace aq
