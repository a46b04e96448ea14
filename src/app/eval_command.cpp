#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/commands.h"
#include "app/pipeline_library.h"
#include "app/quantize_options.h"
#include "aq/core/text.h"
#include "aq/io/file.h"

namespace aq::app {
namespace {

std::string result_json(const EvaluateResult& result) {
  nlohmann::ordered_json json{{"mean_nll", result.mean_nll},
                              {"perplexity", result.perplexity},
                              {"predictions", result.predictions},
                              {"windows", result.windows},
                              {"seconds", result.seconds}};
  if (!result.activation_formats.empty()) {
    json["activation_formats"] = result.activation_formats;
    json["activation_mean_nll"] = result.activation_mean_nll;
    json["activation_perplexity"] = result.activation_perplexity;
  }
  return json.dump(1) + "\n";
}

std::string figures(double perplexity, double mean_nll) {
  return str("  perplexity ", fixed(perplexity, 4), "  mean NLL ", fixed(mean_nll, 6), "  ");
}

void print(const EvaluateResult& result, bool quantized) {
  std::cout << (quantized ? "quantized" : "original ")
            << figures(result.perplexity, result.mean_nll) << result.predictions
            << " predictions in " << result.windows << " windows  " << duration_text(result.seconds)
            << "\n";
  if (result.activation_formats.empty()) return;
  std::string formats;
  for (const std::string& format : result.activation_formats)
    formats += (formats.empty() ? "" : ", ") + format;
  std::cout << "quantized" << figures(result.activation_perplexity, result.activation_mean_nll)
            << "with activations in " << formats << "\n";
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("eval", "perplexity of the original or the quantized model");
  const auto common = std::make_shared<CommonOptions>();
  const auto options = std::make_shared<EvaluateOptions>();
  add_common_options(*command, common, true);
  command->add_option("--model", options->model, "checkpoint directory")->required();
  add_model_options(*command, options->architecture, options->assume_unused);
  command->add_option("--quantized", options->quantized, "run directory");
  command->add_option("--tokens", options->tokens, "evaluation tokens (safetensors or HDF5)")
      ->required();
  command->add_option("--window", options->window, "tokens of a window")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--max-windows", options->max_windows, "use only the first windows")
      ->check(CLI::PositiveNumber);
  command->add_option("--trace", options->trace, "write logits and router choices (HDF5)");
  const auto stall_timeout = std::make_shared<double>(kStallTimeout);
  add_stall_timeout(*command, *stall_timeout,
                    "seconds after which a rank that waits for others ends the job (ranks meet "
                    "after every layer); 0: never");
  command->callback([=, &action] {
    action = [=] {
      apply(*common);
      std::optional<StallWatch> watch;  // lives longer than MPI, whose end is watched too
      return run_on_ranks([&](Communicator& comm) {
        // No signs of life: there is no directory that all ranks may write into.
        watch.emplace(*stall_timeout, comm.rank(), comm.size(), *stall_timeout);
        const EvaluateResult result = pipeline().evaluate_model(*options, comm);
        if (!comm.is_first()) return 0;
        print(result, !options->quantized.empty());
        if (!common->json.empty()) write_text_file(common->json, result_json(result));
        return 0;
      });
    };
  });
}

}  // namespace aq::app
