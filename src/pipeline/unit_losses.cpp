#include "pipeline/unit_losses.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "aq/allocate/known_losses.h"
#include "aq/comm/lanes.h"
#include "aq/core/hash.h"
#include "aq/core/log.h"
#include "aq/core/parallel.h"
#include "aq/core/text.h"
#include "aq/eval/variants.h"
#include "aq/forward/weights.h"
#include "aq/io/file.h"
#include "aq/io/quantized_run.h"
#include "aq/io/tokens.h"
#include "aq/quant/alpha_hill.h"
#include "aq/report/matrix_stats.h"

namespace aq {
namespace {

/// The sequences over which KL is measured: the first ones of the calibration.
EvaluateOptions sequences_of(const LossQuestion& question) {
  const QuantizeOptions& quantize = question.options.quantize;
  EvaluateOptions options;
  options.model = quantize.model;
  options.architecture = quantize.architecture;
  options.assume_unused = quantize.assume_unused;
  options.tokens = quantize.calibration;
  options.rows = question.options.kl_samples;
  if (quantize.samples > 0) options.rows = std::min(options.rows, quantize.samples);
  options.window = quantize.sequence_length > 0 ? quantize.sequence_length
                                                : TokenFile::open(quantize.calibration).length;
  options.against = Against::nothing;
  return options;
}

/// Of the sequences over which KL is measured.
std::string identity_of(const EvaluateOptions& sequences) {
  const TokenFile tokens = TokenFile::open(sequences.tokens);
  return str(tokens.fingerprint(std::min(sequences.rows, tokens.sequences),
                                std::min(sequences.window, tokens.length)),
             " ", sequences.rows, " ", sequences.window);
}

/// Of all that decides what is measured of the run: `text`, and what made it.
std::string identity_of(std::string text, const std::filesystem::path& run) {
  const Manifest manifest = read_manifest(RunDirectory{run}).value_or(Manifest{});
  const auto add = [&](const std::vector<std::pair<std::string, std::string>>& fields) {
    for (const auto& [key, value] : fields) text += str("\n", key, "=", value);
  };
  add(manifest.fingerprint);
  for (const CompletePart& part : manifest.complete) add(part.sources);
  return hash_text(xxh64(text));
}

/// The text of a file as the first rank reads it; empty where there is none. Collective.
std::string text_for_all(const std::filesystem::path& file, Communicator& comm) {
  std::string text;
  if (comm.is_first() && file_exists(file)) text = read_text_file(file);
  return all_gather_values(comm, text).front();
}

/// KL that was measured before is taken from a file beside each run, where what is measured is
/// written when a pass ends. Collective.
void set_measured(const LossQuestion& question, std::vector<AllocatedUnit>& units,
                  Communicator& comm) {
  struct Place {
    std::size_t unit, format;
  };
  const EvaluateOptions sequences = sequences_of(question);
  const std::string measured_on = identity_of(sequences);
  std::vector<Place> places;
  std::vector<Variant> variants;
  std::vector<std::filesystem::path> runs;
  std::map<std::size_t, KnownLosses> known;  // by format
  for (std::size_t f = 0; f < question.runs.size(); ++f) {
    const std::filesystem::path& run = question.runs[f];
    if (run.empty()) continue;
    const std::filesystem::path file = run.string() + ".losses.json";
    const KnownLosses& before =
        known.try_emplace(f, file, identity_of(measured_on, run), text_for_all(file, comm))
            .first->second;
    for (std::size_t u = 0; u < units.size(); ++u) {
      if (!units[u].formats[f].served) continue;
      if (const UnitLoss* loss = before.find(unit_key(question.units[u]))) {
        units[u].formats[f].loss = *loss;
        continue;
      }
      Variant& variant = variants.emplace_back(Variant{std::ssize(runs), {}});
      for (const LinearSpec* linear : question.units[u].linears)
        variant.linears.push_back(linear->id);
      places.push_back({u, f});
    }
    runs.push_back(run);
  }
  if (variants.empty()) return;
  if (comm.is_first())
    log_info(str("allocate: KL of ", variants.size(), " times one part in one format"));
  const auto after_pass = [&](const std::map<Index, Estimate>& kl) {
    std::set<std::size_t> changed;
    for (const auto& [variant, estimate] : kl) {
      const auto [unit, format] = places[variant];
      UnitLoss& loss = units[unit].formats[format].loss;
      loss = {estimate.mean, estimate.standard_error};
      known.at(format).add(unit_key(question.units[unit]), loss);
      changed.insert(format);
    }
    if (comm.is_first())
      for (const std::size_t format : changed) known.at(format).write();
  };
  measure_variants(sequences, runs, variants, question.options.quantize.memory, after_pass, comm);
}

/// Of each module of the unit (an expert's gate, o, ...) the mean of the relative errors of its
/// outputs, by tokens; summed over modules.
double output_errors(const MatrixReader& run, const std::string& object,
                     const AllocationUnit& unit) {
  std::map<std::pair<Index, Role>, std::pair<double, double>> modules;  // error, tokens
  for (const LinearSpec* linear : unit.linears) {
    const MatrixStats stats = stats_from_json(run.stats(linear->name), object);
    const double tokens = static_cast<double>(std::max<std::int64_t>(stats.tokens, 1));
    auto& [error, all] = modules[{linear->layer, linear->role}];
    error += tokens * (stats.error > 0 ? stats.error : std::max(stats.weight_error, 0.0));
    all += tokens;
  }
  double sum = 0;
  for (const auto& [module, figures] : modules) sum += figures.first / figures.second;
  return sum;
}

void set_errors(const LossQuestion& question, std::vector<AllocatedUnit>& units) {
  for (std::size_t f = 0; f < question.runs.size(); ++f) {
    if (question.runs[f].empty()) continue;
    const MatrixReader run = open_quantized(question.runs[f], question.files, "allocate");
    for (std::size_t u = 0; u < units.size(); ++u)
      units[u].formats[f].loss.mean =
          output_errors(run, question.runs[f].string(), question.units[u]);
  }
}

/// The mean over the matrices of each unit, which ranks share. Collective.
std::vector<double> alpha_hills(const LossQuestion& question, Communicator& comm) {
  const Weights weights(question.files.checkpoint, question.files.model);
  std::vector<double> means;
  for (const AllocationUnit& unit : question.units) {
    const auto count = std::ssize(unit.linears);
    const Range share{even_share(count, comm.size(), comm.rank())};
    std::vector<double> mine(share.size());
    parallel_for(share.size(), [&](Index i) {
      const LinearSpec& linear = *unit.linears[share.begin + i];
      mine[i] = alpha_hill(weights.original_rows(linear, 0, linear.rows).view());
    });
    double sum = 0;  // in the order of the model, whoever has them
    for (const std::vector<double>& values : all_gather_values(comm, mine))
      for (const double value : values) sum += value;
    means.push_back(sum / static_cast<double>(count));
  }
  return means;
}

/// Weights' share of 4^-bits, the noise of rounding to so many levels, each times its factor.
void set_noise(std::vector<AllocatedUnit>& units, const std::vector<double>& factors) {
  double all = 0;
  for (const AllocatedUnit& unit : units) all += static_cast<double>(unit.weights);
  for (std::size_t u = 0; u < units.size(); ++u)
    for (UnitFigures& figures : units[u].formats) {
      const auto weights = static_cast<double>(units[u].weights);
      figures.loss.mean =
          factors[u] * weights / all * std::pow(4, -static_cast<double>(figures.bits) / weights);
    }
}

}  // namespace

void set_losses(const LossQuestion& question, std::vector<AllocatedUnit>& units,
                Communicator& comm) {
  switch (question.options.sensitivity) {
    case Sensitivity::measured:
      return set_measured(question, units, comm);
    case Sensitivity::error:
      return set_errors(question, units);
    case Sensitivity::alpha_hill:
      return set_noise(units, alpha_hills(question, comm));
    case Sensitivity::uniform:
      return set_noise(units, std::vector<double>(units.size(), 1.0));
  }
}

}  // namespace aq
