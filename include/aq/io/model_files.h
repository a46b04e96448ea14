#pragma once
/// A checkpoint together with what its configuration says it is.

#include "aq/io/checkpoint.h"
#include "aq/model/architecture.h"
#include "aq/model/storage.h"

namespace aq {

struct ModelFiles {
  Checkpoint checkpoint;
  Architecture row;  ///< by which the configuration was read
  Model model;
  std::vector<std::string> assumptions;    ///< of an inferred row
  Keys assumed_unused;                     ///< keys of config.json that the user says mean nothing
  std::vector<std::string> extra_tensors;  ///< in the files, but not needed by the forward pass
  std::vector<std::string> unexplained_tensors;  ///< those of them that lie in the model's layers
};

/// Opens the directory and checks that every tensor the model needs is there in its shape:
/// Error{input} names config.json and the tensor; so does a bias that the model does not know.
/// Weights are not read. The architecture is that of
/// `architecture` (a JSON file, architecture_json.h) where one is given, else the one that
/// config.json names, else one inferred from the tensors. `assume_unused` as in describe_model.
ModelFiles open_model(const std::filesystem::path& directory,
                      const std::filesystem::path& architecture = {},
                      const Keys& assume_unused = {});
/// What the model is read as on no better ground than `assume_unused`; one sentence each.
std::vector<std::string> assumption_texts(const Keys& assumed_unused);

/// Bytes that the checkpoint takes for one weight of the linear, scales of groups included.
double stored_weight_bytes(const ModelFiles& files, const LinearSpec& linear);

}  // namespace aq
