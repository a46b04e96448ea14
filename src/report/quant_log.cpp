#include <array>
#include <charconv>

#include "aq/core/error.h"
#include "aq/core/text.h"
#include "aq/report/parse.h"

namespace aq {
namespace {

constexpr std::string_view kHeader =
    "name,layer,expert,method,format,symmetric,group_size,scale_dtype,rows,columns,bits,tokens,"
    "weight_sum,damping,error,error_rtn,weight_error,fallback";
constexpr std::string_view kLaterColumn = "weight_error,";  // that first logs did not have
constexpr std::size_t kFields = 18, kLaterField = 16;
constexpr Index kMostLayers = Index{1} << 20;   // layers, or experts of a layer
constexpr Index kMostSide = Index{1} << 31;     // rows or columns
constexpr Index kMostWeights = Index{1} << 56;  // whose bits can be counted

/// A line in its fields. The name comes first and may have commas of its own.
std::array<std::string_view, kFields> fields_of(std::string_view line, bool first_form) {
  std::array<std::string_view, kFields> fields;
  for (std::size_t field = kFields - 1; field > 0; --field) {
    if (first_form && field == kLaterField) continue;
    const std::size_t comma = line.rfind(',');
    if (comma == std::string_view::npos) return {};
    fields[field] = line.substr(comma + 1);
    line = line.substr(0, comma);
  }
  fields[0] = line;
  return fields;
}

/// Clears `good` unless all of the text is one number.
template <class Number>
Number read(std::string_view text, bool& good) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  good = good && error == std::errc() && end == text.data() + text.size();
  return number;
}

std::optional<Method> method_from_name(std::string_view name) {
  for (const Method method : {Method::gptq, Method::rtn})
    if (method_name(method) == name) return method;
  return std::nullopt;
}

std::optional<LogRow> row_of(std::string_view line, bool first_form) {
  const auto fields = fields_of(line, first_form);
  const auto method = method_from_name(fields[3]);
  const auto scheme = scheme_from_format(fields[4]);
  const auto scale_type = scale_type_from_name(fields[7]);
  if (!method || !scheme || !scale_type) return std::nullopt;
  LogRow row{.name = std::string(fields[0]), .scheme = *scheme, .stats = {}};
  bool good = fields[5] == "true" || fields[5] == "false";
  row.scheme.symmetric = fields[5] == "true";
  row.scheme.group_size = read<Index>(fields[6], good);
  row.scheme.scale_type = *scale_type;
  row.rows = read<Index>(fields[8], good);
  row.columns = read<Index>(fields[9], good);
  MatrixStats& stats = row.stats;
  stats.method = *method;
  stats.layer = read<Index>(fields[1], good);
  stats.expert = read<Index>(fields[2], good);
  stats.tokens = read<std::int64_t>(fields[11], good);
  stats.weight_sum = read<double>(fields[12], good);
  stats.damping = read<double>(fields[13], good);
  stats.error = read<double>(fields[14], good);
  stats.error_rtn = read<double>(fields[15], good);
  if (!fields[kLaterField].empty()) stats.weight_error = read<double>(fields[kLaterField], good);
  stats.fallback = fields.back();
  const auto is_within = [](Index value, Index least, Index most) {
    return least <= value && value <= most;
  };
  good = good && is_within(row.rows, 1, kMostSide) && is_within(row.columns, 1, kMostSide) &&
         row.rows * row.columns <= kMostWeights && is_within(stats.layer, -1, kMostLayers - 1) &&
         is_within(stats.expert, -1, kMostLayers - 1) && scheme_problem(row.scheme).empty();
  if (!good) return std::nullopt;
  return row;
}

}  // namespace

std::string quant_log_csv(const std::vector<LogRow>& rows) {
  std::string text = str(kHeader, "\n");
  for (const LogRow& row : rows) {
    const MatrixStats& stats = row.stats;
    const double bits = static_cast<double>(stored_bits(row.scheme, row.rows, row.columns)) /
                        static_cast<double>(row.rows * row.columns);
    text += str(row.name, ",", stats.layer, ",", stats.expert, ",", method_name(stats.method), ",",
                format_name(row.scheme), ",", row.scheme.symmetric ? "true" : "false", ",",
                row.scheme.group_size, ",", scale_type_name(row.scheme.scale_type), ",", row.rows,
                ",", row.columns, ",", shortest(bits), ",", stats.tokens, ",");
    text +=
        str(shortest(stats.weight_sum), ",", shortest(stats.damping), ",", shortest(stats.error),
            ",", shortest(stats.error_rtn), ",",
            stats.weight_error < 0 ? "" : shortest(stats.weight_error), ",", stats.fallback, "\n");
  }
  return text;
}

std::vector<LogRow> parse_quant_log(std::string_view text, const std::string& object) {
  const auto fail = [&](Index line, std::string_view reason) {
    throw Error(ErrorKind::input, "read the log", object, str("line ", line, " ", reason),
                "`aq-dist merge RUN` writes it again");
  };
  const std::string first_header = replace_all(std::string(kHeader), kLaterColumn, "");
  bool first_form = false;
  std::vector<LogRow> rows;
  for (Index line = 1; !text.empty(); ++line) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) fail(line, "is cut off");
    const std::string_view content = text.substr(0, end);
    text.remove_prefix(end + 1);
    if (line == 1) {
      first_form = content == first_header;
      if (content != kHeader && !first_form) fail(line, "is not the header of a log");
      continue;
    }
    std::optional<LogRow> row = row_of(content, first_form);
    if (!row) fail(line, "is no row of a log");
    rows.push_back(std::move(*row));
  }
  return rows;
}

}  // namespace aq
