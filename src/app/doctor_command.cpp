#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/commands.h"
#include "app/measure_machine.h"
#include "app/pipeline_library.h"
#include "app/table.h"
#include "aq/comm/communicator.h"
#include "aq/core/memory.h"
#include "aq/core/parallel.h"
#include "aq/core/text.h"
#include "aq/io/file.h"
#include "aq/io/matrix_file.h"
#include "aq/quant/solver.h"

namespace aq::app {

namespace {

/// What this machine is, without measuring anything; the exit code.
int print_doctor(const CommonOptions& common) {
  const BlasInfo blas = blas_info();
  const std::vector<std::vector<std::string>> rows{
      {"aq-dist", AQ_VERSION},
      {"cores", str(std::thread::hardware_concurrency(), ", ", thread_count(),
                    " threads used by a rank here")},
      {"memory", bytes_text(available_bytes()) + " free"},
      {"BLAS", blas.library},
      {"BLAS kernel", blas.kernel},
      {"row kernel", blas.row_kernel},
      {"MPI", mpi_library()},
      {"launcher", started_by_launcher() ? "started as a rank" : "none: one rank"},
      {"HDF5", hdf5_version()},
      {"GPU", gpu_text()}};
  std::string text;
  nlohmann::ordered_json json;
  for (const auto& row : rows) {
    text += str("  ", row[0], std::string(14 - row[0].size(), ' '), row[1], "\n");
    json[row[0]] = row[1];
  }
  std::cout << text;
  if (blas.warning.empty())
    std::cout << "  the BLAS kernel fits this CPU\n";
  else
    std::cout << "warning: " << blas.warning << "\n";
  json["warning"] = blas.warning;
  if (!common.json.empty()) write_text_file(common.json, json.dump(1) + "\n");
  return 0;
}

/// Where to measure files: beside the description, or here when that goes to a device or a pipe.
std::filesystem::path directory_of(const std::filesystem::path& file) {
  if (std::filesystem::exists(file) && !std::filesystem::is_regular_file(file))
    return std::filesystem::current_path();
  return std::filesystem::weakly_canonical(std::filesystem::absolute(file)).parent_path();
}

/// A description of this machine for `plan --machine`.
int write_machine(const std::filesystem::path& file) {
  return run_on_ranks([&](Communicator& comm) {
    const Machine machine = measure_machine(directory_of(file), comm);
    if (!comm.is_first()) return 0;
    const std::string text = machine_to_json(machine);
    write_text_file(file, text);
    std::cout << text;
    return 0;
  });
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("doctor", "what this machine gives to the program");
  const auto common = std::make_shared<CommonOptions>();
  const auto measured = std::make_shared<std::string>();
  add_common_options(*command, common, true);
  command->add_option("--measure", *measured,
                      "measure this machine and describe it in this file for `plan --machine`; as "
                      "ranks on two machines their network too");
  command->callback([=, &action] {
    action = [=] {
      apply(*common);
      return measured->empty() ? print_doctor(*common) : write_machine(*measured);
    };
  });
}

}  // namespace aq::app
