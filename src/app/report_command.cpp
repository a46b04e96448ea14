#include <CLI/CLI.hpp>
#include <iostream>

#include "app/commands.h"
#include "app/quantize_options.h"
#include "aq/core/log.h"
#include "aq/core/text.h"
#include "aq/io/file.h"
#include "aq/page/page.h"

namespace aq::app {
namespace {

struct Arguments {
  std::vector<std::string> runs;
  std::string out;
  SourceChoice source;
};

void write_report(const Arguments& arguments) {
  std::vector<RunReport> runs;
  for (const std::string& directory : arguments.runs) {
    runs.push_back(read_run_report(directory, arguments.source));
    if (!runs.back().source)
      log_warning(
          str(directory, ": servers and bytes before are left out: ", runs.back().no_source));
  }
  label_runs(runs);
  const std::string page = report_page(runs, "aq-dist " AQ_VERSION);
  write_text_file(arguments.out, page);
  std::cout << arguments.out << ": " << runs.size() << (runs.size() == 1 ? " run, " : " runs, ")
            << bytes_text(std::ssize(page)) << "\n";
}

}  // namespace

void add_report(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "report", "one HTML file that shows whether a run can be trusted; several runs side by side");
  const auto common = std::make_shared<CommonOptions>();
  const auto arguments = std::make_shared<Arguments>();
  add_common_options(*command, common, false);
  command->add_option("runs", arguments->runs, "run directories")->required();
  command->add_option("--out", arguments->out, "HTML file to write")->required();
  command->add_option("--model", arguments->source.model,
                      "the checkpoint of the runs, where it was moved");
  add_model_options(*command, arguments->source.architecture, arguments->source.assume_unused);
  command->callback([=, &action] {
    action = [=] {
      apply(*common);
      write_report(*arguments);
      return 0;
    };
  });
}

}  // namespace aq::app
