#include "aq/page/page.h"

#include <utility>

#include "page/files.h"
#include "page/sections.h"

namespace aq {
namespace {

/// The template with every "{{name}}" replaced; what is put in is not looked at again.
std::string filled(std::string_view text,
                   const std::vector<std::pair<std::string_view, std::string>>& values) {
  std::string result;
  while (true) {
    const std::size_t begin = text.find("{{");
    if (begin == std::string_view::npos) return result.append(text);
    const std::size_t end = text.find("}}", begin);
    const std::string_view name = text.substr(begin + 2, end - begin - 2);
    result.append(text.substr(0, begin));
    for (const auto& [key, value] : values)
      if (key == name) result += value;
    text.remove_prefix(end + 2);
  }
}

}  // namespace

std::string report_page(const std::vector<RunReport>& reports, std::string_view program) {
  PageRuns runs;
  for (const RunReport& report : reports) runs.push_back({report, figures_of(report)});
  std::string title, about;
  for (const PageRun& run : runs) title += (title.empty() ? "" : " · ") + run.report.label;
  if (runs.size() == 1) {
    about = " of " + runs.front().report.directory.string();
    if (const std::string model = model_name(runs.front().report); !model.empty()) title = model;
  }
  std::string body;
  for (const auto section :
       {summary_section, experts_section, starved_section, error_section, fallback_section,
        size_section, time_section, recipe_section, servers_section, provenance_section})
    body += section(runs);
  return filled(page_files::kHtml, {{"title", escape_html(title)},
                                    {"about", escape_html(about)},
                                    {"style", std::string(page_files::kStyle)},
                                    {"body", body},
                                    {"program", escape_html(program)},
                                    {"data", escape_script(page_data(runs))},
                                    {"script", std::string(page_files::kScript)}});
}

}  // namespace aq
