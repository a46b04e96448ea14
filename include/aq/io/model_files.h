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
  std::string text_key = {};                     ///< of config.json; empty: the file itself
  std::vector<std::string> other_keys = {};      ///< of other parts of the checkpoint, not read
  bool tied_by_config = false;                   ///< whatever model.tied_head says
};

/// Opens the directory and checks that every tensor the model needs is there in its shape:
/// Error{input} names config.json and the tensor; so does a bias that the model does not know.
/// Weights are not read. The architecture is that of
/// `architecture` (a JSON file, architecture_json.h) where one is given, else the one that
/// config.json names, else one inferred from the tensors. The text model of a multimodal checkpoint
/// is taken (text_config.h), under whatever prefix its tensors stand (stored_names.h); the model
/// has the names of the files. `assume_unused` as in describe_model.
ModelFiles open_model(const std::filesystem::path& directory,
                      const std::filesystem::path& architecture = {},
                      const Keys& assume_unused = {});
/// What the model is read as on no better ground than `assume_unused`; one sentence each.
std::vector<std::string> assumption_texts(const Keys& assumed_unused);

/// Where the text model was found, and which tensor is its head, a sentence each where config.json
/// alone would not say so. A head that is stored beside the embedding counts even where
/// config.json ties them: the two are read up to their first difference.
std::vector<std::string> model_remarks(const ModelFiles& files);
/// The extra tensors by kind (MTP, rotary buffers, scales, other towers, ...), a line each with the
/// names of the first.
std::vector<std::string> unused_tensor_texts(const ModelFiles& files);

/// Bytes that the checkpoint takes for one weight of the linear, scales of groups included.
double stored_weight_bytes(const ModelFiles& files, const LinearSpec& linear);

}  // namespace aq
