#include "app/plan_text.h"

#include "app/table.h"
#include "aq/core/text.h"

namespace aq::app {
namespace {

using Json = nlohmann::ordered_json;

std::string bytes(double value) {
  return bytes_text(static_cast<Index>(value));
}

/// "12.3 T" of operations.
std::string flops_text(double flops) {
  constexpr std::pair<double, const char*> kUnits[] = {
      {1e18, " EFLOP"}, {1e15, " PFLOP"}, {1e12, " TFLOP"}, {1e9, " GFLOP"}, {0, " MFLOP"}};
  for (const auto& [size, unit] : kUnits)
    if (flops >= size) return fixed(flops / (size > 0 ? size : 1e6), 2) + unit;
  return "0";
}

std::string line(std::string_view name, const std::string& value) {
  return str("  ", name, std::string(14 - name.size(), ' '), value, "\n");
}

struct Figure {
  const char* name;
  double all, most;
};

std::vector<Figure> flops_of(const CostEstimate& cost) {
  const Flops& all = cost.all.flops;
  const Flops& most = cost.most.flops;
  return {{"forward", all.forward, most.forward}, {"attention", all.attention, most.attention},
          {"hessian", all.hessian, most.hessian}, {"factor", all.factor, most.factor},
          {"solve", all.solve, most.solve},       {"refine", all.refine, most.refine}};
}

std::vector<Figure> traffic_of(const CostEstimate& cost) {
  const Traffic& all = cost.all.traffic;
  const Traffic& most = cost.most.traffic;
  return {{"read", all.read, most.read},
          {"reduce sent", all.reduce_sent, most.reduce_sent},
          {"reduce received", all.reduce_received, most.reduce_received},
          {"exchange sent", all.exchange_sent, most.exchange_sent},
          {"exchange received", all.exchange_received, most.exchange_received},
          {"dispatch sent", all.dispatch_sent, most.dispatch_sent},
          {"dispatch received", all.dispatch_received, most.dispatch_received},
          {"written", all.written, most.written}};
}

std::size_t most_waves(const Plan& plan) {
  std::size_t most = 0;
  for (const LayerPlan& layer : plan.layers) most = std::max(most, layer.waves.size());
  return most;
}

std::string head_text(const PlanReport& report) {
  const Model& model = report.model;
  const Plan& plan = report.plan;
  const Machine& machine = report.options.machine;
  std::string text = line(
      "model", str(report.source, " (", model.architecture, ", ", model.layers.size(), " layers, ",
                   fixed(static_cast<double>(parameter_count(model)) / 1e6, 1), " M parameters)"));
  const std::string settings = changed_settings(report.recipe.settings);
  text += line("recipe", report.recipe.file + (settings.empty() ? "" : "; " + settings));
  text += line("matrices",
               str(plan.quantized_count, " to quantize at ", fixed(plan.mean_bits, 3),
                   " bits a weight, ", plan.matrix_count - plan.quantized_count, " untouched"));
  for (const std::string& remark : report.remarks) text += line("remark", remark);
  text += line("calibration",
               str(report.workload.lanes.sequences, " x ", report.workload.sequence_length,
                   " tokens in ", report.workload.lanes.lanes, " lanes"));
  text += line("ranks", str(plan.ranks, " x ", report.options.threads, " threads, ",
                            report.options.ranks_per_node, " a node"));
  text += line("machine", str(machine.name, ": ", machine.cores, " cores, ",
                              bytes_text(machine.memory_bytes), " a node"));
  return text;
}

std::string memory_table(const PlanReport& report) {
  const bool offload = report.limits.offload;
  std::vector<std::vector<std::string>> rows{{"stage", "phase", "total",
                                              offload ? "offloaded" : "activations", "buffers",
                                              "hessians", "weights", "libraries"}};
  for (const MemoryMoment& moment : report.plan.moments) {
    const MemoryEstimate& m = moment.memory;
    rows.push_back({std::string(stage_name(moment.stage)), std::string(phase_name(moment.phase)),
                    bytes_text(m.total()), bytes_text(offload ? m.offloaded : m.activations),
                    bytes_text(m.buffers), bytes_text(m.hessians), bytes_text(m.weights),
                    bytes_text(m.libraries)});
  }
  return str(
      "memory of the fullest rank (page cache apart): ", bytes_text(report.plan.memory.total()),
      " of ", bytes_text(report.limits.memory), ", experts in ", most_waves(report.plan),
      most_waves(report.plan) == 1 ? " wave" : " waves",
      offload ? str("; offloaded: ", bytes_text(report.plan.offloaded_bytes), " a rank in files\n")
              : "\n",
      table_text(rows));
}

std::string work_table(const PlanReport& report) {
  std::vector<std::vector<std::string>> rows{{"work", "all ranks", "busiest rank"}};
  for (const Figure& figure : flops_of(report.cost))
    rows.push_back({figure.name, flops_text(figure.all), flops_text(figure.most)});
  return table_text(rows);
}

std::string traffic_table(const PlanReport& report) {
  std::vector<std::vector<std::string>> rows{{"bytes", "all ranks", "most of a rank"}};
  for (const Figure& figure : traffic_of(report.cost))
    rows.push_back({figure.name, bytes(figure.all), bytes(figure.most)});
  return table_text(rows);
}

std::string files_text(const CostEstimate& cost) {
  std::string text = str("files: ", cost.shard_files, " shards of ", bytes(cost.shard_bytes),
                         " in all, model.h5 of ", bytes(cost.shard_bytes));
  if (cost.hessian_bytes > 0) text += str(", kept Hessians of ", bytes(cost.hessian_bytes));
  return text + "\n";
}

std::string time_table(const CostEstimate& cost) {
  std::vector<std::vector<std::string>> rows{{"phase", "time"}};
  for (const auto& [phase, seconds] : cost.seconds)
    rows.push_back({std::string(phase_name(phase)), duration_text(seconds)});
  std::vector<std::vector<std::string>> stages{{"stage", "time", "balance"}};
  for (const StageCost& stage : cost.stages)
    stages.push_back({std::string(stage_name(stage.stage)), duration_text(stage.total()),
                      stage.most_work > 0 ? fixed(stage.balance(), 2) : ""});
  return str("time: ", duration_text(cost.total_seconds), " estimated\n", table_text(rows),
             table_text(stages));
}

Json json_of(const MemoryEstimate& m) {
  return {{"total", m.total()},      {"activations", m.activations}, {"buffers", m.buffers},
          {"hessians", m.hessians},  {"weights", m.weights},         {"libraries", m.libraries},
          {"offloaded", m.offloaded}};
}

Json json_of(const std::vector<Figure>& figures) {
  Json json = Json::object();
  for (const Figure& figure : figures)
    json[figure.name] = {{"all", figure.all}, {"most", figure.most}};
  return json;
}

}  // namespace

std::string plan_text(const PlanReport& report) {
  std::string text = "aq-dist plan\n" + head_text(report) + memory_table(report) +
                     work_table(report) + traffic_table(report) + files_text(report.cost) +
                     time_table(report.cost);
  for (const std::string& choice : report.choices) text += choice + "\n";
  return text;
}

nlohmann::ordered_json plan_json(const PlanReport& report) {
  const Plan& plan = report.plan;
  const CostEstimate& cost = report.cost;
  Json json{{"model", report.source},
            {"architecture", report.model.architecture},
            {"parameters", parameter_count(report.model)},
            {"matrices", plan.quantized_count},
            {"untouched", plan.matrix_count - plan.quantized_count},
            {"mean_bits", plan.mean_bits},
            {"sequences", report.workload.lanes.sequences},
            {"sequence_length", report.workload.sequence_length},
            {"lanes", report.workload.lanes.lanes},
            {"ranks", plan.ranks},
            {"ranks_per_node", report.options.ranks_per_node},
            {"threads", report.options.threads},
            {"token_ranks", cost.token_ranks},
            {"waves", most_waves(plan)},
            {"machine", Json::parse(machine_to_json(report.options.machine))},
            {"memory_limit", report.limits.memory},
            {"memory", json_of(plan.memory)},
            {"memory_one_wave", plan.one_wave_bytes},
            {"offloaded_bytes", plan.offloaded_bytes}};
  for (const MemoryMoment& moment : plan.moments) {
    Json entry = json_of(moment.memory);
    entry["stage"] = stage_name(moment.stage);
    entry["phase"] = phase_name(moment.phase);
    json["memory_by_phase"].push_back(entry);
  }
  json["flops"] = json_of(flops_of(cost));
  json["bytes"] = json_of(traffic_of(cost));
  json["files"] = {{"shards", cost.shard_files},
                   {"shard_bytes", cost.shard_bytes},
                   {"model_bytes", cost.shard_bytes},
                   {"hessian_bytes", cost.hessian_bytes}};
  json["balance"] = {{"mean", cost.balance}, {"least", cost.least_balance}};
  json["seconds"] = by_name(cost.seconds);
  json["total_seconds"] = cost.total_seconds;
  for (const StageCost& stage : cost.stages) {
    json["stage_seconds"][stage_name(stage.stage)] = by_name(stage.seconds);
    json["stage_balance"][stage_name(stage.stage)] = stage.balance();
  }
  json["remarks"] = report.remarks;
  json["choices"] = report.choices;
  return json;
}

}  // namespace aq::app
