#include <CLI/CLI.hpp>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/commands.h"
#include "app/pipeline_library.h"
#include "app/quantize_options.h"
#include "aq/core/text.h"
#include "aq/io/file.h"

namespace aq::app {
namespace {

using Json = nlohmann::ordered_json;

/// Adds the figures of a score, each under `prefix` and its name.
void add(const Score& score, const std::string& prefix, Json& json) {
  json[prefix + "mean_nll"] = score.mean_nll;
  json[prefix + "perplexity"] = score.perplexity;
  if (!score.comparison) return;
  const auto add_estimate = [&](const std::string& name, const Estimate& estimate) {
    json[prefix + name] = estimate.mean;
    Json& error = json[prefix + name + "_standard_error"];  // null where there is none
    if (estimate.standard_error) error = *estimate.standard_error;
  };
  add_estimate("kl", score.comparison->kl);
  add_estimate("loss", score.comparison->loss);
  add_estimate("same_top1", score.comparison->same_top1);
}

std::string result_json(const EvaluateResult& result) {
  Json json;
  add(result.score, "", json);
  if (result.reference) add(*result.reference, "reference_", json);
  json["predictions"] = result.predictions;
  json["windows"] = result.windows;
  json["seconds"] = result.seconds;
  if (result.with_activations) {
    json["activation_formats"] = result.activation_formats;
    add(*result.with_activations, "activation_", json);
  }
  return json.dump(1) + "\n";
}

std::string figures(const Score& score) {
  return str("  perplexity ", fixed(score.perplexity, 4), "  mean NLL ", fixed(score.mean_nll, 6));
}

/// "0.00123 ± 0.00002".
std::string text_of(const Estimate& estimate, double unit, int digits) {
  std::string mean = fixed(estimate.mean * unit, digits);
  if (!estimate.standard_error) return mean;
  return str(mean, " ± ", fixed(*estimate.standard_error * unit, digits));
}

/// The line that says how far a model is from its reference; nothing without one.
std::string comparison_line(const Score& score) {
  if (!score.comparison) return {};
  const Comparison& comparison = *score.comparison;
  return str("             KL ", text_of(comparison.kl, 1, 6), "  loss ",
             text_of(comparison.loss, 1, 6), "  same top-1 ", text_of(comparison.same_top1, 100, 2),
             " %\n");
}

void print(const EvaluateResult& result, const EvaluateOptions& options) {
  const bool run = !options.quantized.empty();
  const std::string work = str("  ", result.predictions, " predictions in ", result.windows,
                               " windows  ", duration_text(result.seconds));
  std::string text;
  if (result.reference)
    text += str(options.reference.empty() ? "original " : "reference", figures(*result.reference),
                "\n");
  text += str(run ? "quantized" : (result.reference ? "model    " : "original "),
              figures(result.score), work, "\n", comparison_line(result.score));
  if (result.with_activations) {
    std::string formats;
    for (const std::string& format : result.activation_formats)
      formats += (formats.empty() ? "" : ", ") + format;
    text += str("quantized", figures(*result.with_activations), "  with activations in ", formats,
                "\n", comparison_line(*result.with_activations));
  }
  std::cout << text;
}

/// --against: a word or a checkpoint directory.
void choose_reference(const std::string& text, EvaluateOptions& options) {
  static const std::map<std::string, Against> words{
      {"auto", Against::automatic}, {"original", Against::original}, {"none", Against::nothing}};
  const auto word = words.find(text);
  options.against = word != words.end() ? word->second : Against::checkpoint;
  if (options.against == Against::checkpoint) options.reference = text;
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "eval", "perplexity, and the distance of a quantized model from its original");
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
  const auto against = std::make_shared<std::string>("auto");
  command
      ->add_option("--against", *against,
                   "what is scored on the same windows to be compared with, token by token: "
                   "original (with --quantized), none, or a checkpoint directory; auto: original "
                   "where its hidden states are a small part of the free memory")
      ->capture_default_str();
  command->add_option("--trace", options->trace, "write logits and router choices (HDF5)");
  const auto stall_timeout = std::make_shared<double>(kStallTimeout);
  add_stall_timeout(*command, *stall_timeout,
                    "seconds after which a rank that waits for others ends the job (ranks meet "
                    "after every layer); 0: never");
  command->callback([=, &action] {
    action = [=] {
      apply(*common);
      choose_reference(*against, *options);
      std::optional<StallWatch> watch;  // lives longer than MPI, whose end is watched too
      return run_on_ranks([&](Communicator& comm) {
        // No signs of life: there is no directory that all ranks may write into.
        watch.emplace(*stall_timeout, comm.rank(), comm.size(), *stall_timeout);
        const EvaluateResult result = pipeline().evaluate_model(*options, comm);
        if (!comm.is_first()) return 0;
        print(result, *options);
        if (!common->json.empty()) write_text_file(common->json, result_json(result));
        return 0;
      });
    };
  });
}

}  // namespace aq::app
