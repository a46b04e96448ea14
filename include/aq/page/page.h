#pragma once
/// The page that people read to decide whether to trust a run.

#include <string>
#include <vector>

#include "aq/page/run_report.h"

namespace aq {

/// One HTML file that needs no other one and no network: tables of all runs, a column (or some)
/// each; the data of its heat maps and charts as JSON; and the script that draws them. `program`:
/// name and version, for the last line.
std::string report_page(const std::vector<RunReport>& reports, std::string_view program);

}  // namespace aq
