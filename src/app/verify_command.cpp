#include <CLI/CLI.hpp>
#include <iostream>

#include "app/commands.h"
#include "app/pipeline_library.h"
#include "app/quantize_options.h"
#include "aq/core/json.h"
#include "aq/core/text.h"
#include "aq/verify/verify.h"

namespace aq::app {
namespace {

constexpr int kExitFindings = 1;

struct Arguments {
  VerifyOptions options;
  bool json = false;
};

std::string report_json(const VerifyOptions& options, const VerifyReport& report) {
  OrderedJson json{{"directory", options.directory.string()},
                   {"what", report.what},
                   {"findings", OrderedJson::array()},
                   {"matrices", report.matrices},
                   {"unlogged", report.unlogged},
                   {"tensors", report.tensors},
                   {"bytes", report.bytes},
                   {"seconds", report.seconds}};
  for (const Finding& finding : report.findings)
    json["findings"].push_back({{"kind", finding.kind},
                                {"file", finding.file},
                                {"object", finding.object},
                                {"text", finding.text}});
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

void print(const VerifyOptions& options, const VerifyReport& report) {
  for (const Finding& finding : report.findings)
    std::cout << to_string(finding) << " [" << finding.kind << "]\n";
  if (report.unlogged > 0)
    std::cout << "note: " << report.unlogged
              << " matrices have no logged distance from their weights (an older build): they were "
                 "only looked at for likeness\n";
  const std::size_t count = report.findings.size();
  std::cout << options.directory.string() << ": " << report.what << ", " << report.matrices
            << " matrices, " << report.tensors << " tensors, " << bytes_text(report.bytes)
            << " read, " << (count == 0 ? "no" : str(count))
            << (count == 1 ? " finding, " : " findings, ") << duration_text(report.seconds) << "\n";
}

}  // namespace

void add_verify(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("verify",
                                         "checks a run or an export against its checkpoint; exit 0 "
                                         "clean, 1 findings; mpirun -n R for R "
                                         "ranks");
  const auto common = std::make_shared<CommonOptions>();
  const auto arguments = std::make_shared<Arguments>();
  VerifyOptions& options = arguments->options;
  add_common_options(*command, common, false);
  command->add_option("directory", options.directory, "of a run, or what export wrote")->required();
  command->add_option("--model", options.source.model, "the checkpoint, where it was moved");
  command->add_flag("--json", arguments->json, "print one JSON document instead of lines");
  add_model_options(*command, options.source.architecture, options.source.assume_unused);
  command->callback([=, &action] {
    action = [=] {
      apply(*common);
      const auto body = [&](Communicator& comm) {
        const VerifyReport report = verify(arguments->options, comm);
        if (comm.is_first() && arguments->json)
          std::cout << report_json(arguments->options, report) << std::flush;
        else if (comm.is_first())
          print(arguments->options, report);
        return report.findings.empty() ? 0 : kExitFindings;
      };
      if (started_by_launcher()) return run_on_ranks(body);
      return body(*make_self_communicator());
    };
  });
}

}  // namespace aq::app
