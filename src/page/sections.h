#pragma once
/// The sections of the page, each a function of all runs.

#include <string>
#include <vector>

#include "page/figures.h"
#include "page/html.h"

namespace aq {

struct PageRun {
  const RunReport& report;
  RunFigures figures;
};
using PageRuns = std::vector<PageRun>;

std::vector<std::string> labels(const PageRuns& runs);
/// The name of the checkpoint's directory; empty where it is not known.
std::string model_name(const RunReport& run);
/// "3 of 61 layers"; of a finished run empty.
std::string missing_part(const RunReport& run);

/// The keys of all runs, each once, as they are met first.
template <class Key, class KeysOf>
std::vector<Key> keys_of_all(const PageRuns& runs, const KeysOf& keys_of) {
  std::vector<Key> all;
  for (const PageRun& run : runs)
    for (const Key& key : keys_of(run))
      if (std::ranges::find(all, key) == all.end()) all.push_back(key);
  return all;
}

std::string summary_section(const PageRuns& runs);     // verdict.cpp
std::string experts_section(const PageRuns& runs);     // experts.cpp
std::string starved_section(const PageRuns& runs);     // experts.cpp
std::string error_section(const PageRuns& runs);       // errors.cpp
std::string fallback_section(const PageRuns& runs);    // errors.cpp
std::string size_section(const PageRuns& runs);        // recipe.cpp
std::string recipe_section(const PageRuns& runs);      // recipe.cpp
std::string servers_section(const PageRuns& runs);     // recipe.cpp
std::string provenance_section(const PageRuns& runs);  // recipe.cpp
std::string time_section(const PageRuns& runs);        // times.cpp

/// What the script draws, as JSON.
std::string page_data(const PageRuns& runs);  // data.cpp

}  // namespace aq
