#include "aq/io/model_files.h"

#include <set>

#include "aq/core/text.h"
#include "aq/io/file.h"
#include "aq/model/architecture_json.h"
#include "aq/model/stored_names.h"
#include "aq/model/text_config.h"
#include "io/shape_text.h"

namespace aq {
namespace {

constexpr std::string_view kDoNotFit = "config.json and weights do not belong together";

TensorShapes shapes_of(const Checkpoint& checkpoint) {
  TensorShapes shapes;
  for (const auto& [name, tensor] : checkpoint.tensors()) shapes[name] = tensor.shape;
  for (const auto& [name, tensor] : checkpoint.other_tensors()) shapes[name] = tensor.shape;
  return shapes;
}

InferredArchitecture find_row(const Checkpoint& checkpoint, const TensorShapes& shapes,
                              const std::filesystem::path& file) {
  const std::string config = checkpoint.config_path().string();
  InferredArchitecture found;
  if (!file.empty())
    found.row = architecture_from_json(read_text_file(file, Index{1} << 20), file.string());
  else if (const Architecture* row = named_architecture(checkpoint.config_json(), config))
    found.row = *row;
  else
    return infer_architecture(checkpoint.config_json(), config, shapes);
  found.row.tensors = stored_names(found.row.tensors, shapes, config);
  return found;
}

/// Which tensors are the embedding and the head. A head of its own counts: config.json may be wrong
/// (transformers reads it too), and a copy of the embedding gives the same numbers.
void settle_head(const Checkpoint& checkpoint, Model& model) {
  const std::string head = model.head.weight_name();
  const bool has_head = checkpoint.has(head) || model.packed.contains(model.head.name);
  const bool has_embedding = checkpoint.has(model.embedding);
  if (has_head && has_embedding) {
    model.tied_head = false;
  } else if (has_head && model.tied_head) {
    model.embedding = head;
  } else if (has_head != has_embedding && !model.tied_head) {
    throw Error(ErrorKind::input, "open the model", checkpoint.config_path().string(),
                str("does not set tie_word_embeddings, but of ", model.embedding, " and ", head,
                    " the files of ", checkpoint.directory().string(), " hold only ",
                    has_head ? head : model.embedding),
                "the download is incomplete, or tie_word_embeddings must be true");
  }
}

/// Checks the model's tensors against those of the files.
class TensorCheck {
 public:
  TensorCheck(const Checkpoint& checkpoint, const Model& model)
      : checkpoint_(checkpoint), model_(model) {}

  void check_all() {
    for (const ExpectedTensor& tensor : expected_tensors(model_)) {
      if (!is_superfluous_scale(tensor)) check(tensor);
      needed.insert(tensor.name);
    }
  }

  std::set<std::string> needed;

 private:
  [[noreturn]] void fail(const std::string& reason, std::string_view hint) const {
    throw Error(ErrorKind::input, "open the model", checkpoint_.config_path().string(), reason,
                hint);
  }

  /// The stored name that may have been meant: one that the model has no use for, where one is
  /// near.
  std::string nearest(const std::string& name) const {
    std::set<std::string_view> used;
    const std::vector<ExpectedTensor> expected = expected_tensors(model_);
    for (const ExpectedTensor& tensor : expected) used.insert(tensor.name);
    std::vector<std::string_view> all, unused;
    const auto add = [&](std::string_view stored) {
      all.push_back(stored);
      if (!used.contains(stored)) unused.push_back(stored);
    };
    for (const auto& [stored, info] : checkpoint_.tensors()) add(stored);
    for (const auto& [stored, info] : checkpoint_.other_tensors()) add(stored);
    std::string near = nearest_word(name, unused);
    if (near.empty()) near = nearest_word(name, all);
    return near.empty() ? "" : "; the nearest that they hold is " + near;
  }

  /// Scales of a weight that is stored plainly after all (they come right behind it).
  bool is_superfluous_scale(const ExpectedTensor& tensor) {
    const bool scale = tensor.parameters == 0 && model_.encoding == SourceEncoding::fp8_blocks;
    return scale && checkpoint_.info(last_).dtype != DType::f8_e4m3;
  }

  void check(const ExpectedTensor& tensor) {
    if (!checkpoint_.has(tensor.name))
      fail(str("describes tensor ", tensor.name, " ", shape_text(tensor.shape),
               ", which no file of ", checkpoint_.directory().string(), " holds",
               nearest(tensor.name)),
           str(kDoNotFit, ", or the download is incomplete"));
    if (tensor.packed) return;  // its shape is what the files say
    const TensorInfo& info = checkpoint_.info(tensor.name);
    if (info.shape != tensor.shape)
      fail(str("describes tensor ", tensor.name, " as ", shape_text(tensor.shape),
               ", but the file holds ", shape_text(info.shape)),
           kDoNotFit);
    const bool decoded = info.dtype == DType::f8_e4m3 || info.dtype == DType::u8;
    const SourceEncoding needs =
        info.dtype == DType::u8 ? SourceEncoding::mxfp4 : SourceEncoding::fp8_blocks;
    if (decoded && model_.encoding != needs)
      fail(str("describes no encoding for tensor ", tensor.name, ", which the file holds as ",
               dtype_name(info.dtype)),
           "its quantization_config is missing or is another one");
    last_ = tensor.name;
  }

  const Checkpoint& checkpoint_;
  const Model& model_;
  std::string last_;
};

/// Tensors of the model's layers that the forward pass does not read.
std::vector<std::string> unexplained_tensors(const ModelFiles& files) {
  const std::string& pattern = files.row.tensors.layer;
  const std::string prefix = pattern.substr(0, pattern.find("{i}"));
  std::vector<std::string> names;
  for (const std::string& name : files.extra_tensors) {
    const bool in_layer = name.starts_with(prefix) && name.find("inv_freq") == std::string::npos;
    if (in_layer && std::atoll(name.c_str() + prefix.size()) < std::ssize(files.model.layers))
      names.push_back(name);
  }
  return names;
}

/// A bias that the model does not know would be left out silently, and of an architecture that is
/// not known nothing in a layer may be left out.
void refuse_unexplained(const ModelFiles& files) {
  const std::string config = files.checkpoint.config_path().string();
  std::set<std::string> biases;
  for (const LinearSpec* linear : all_linears(files.model))
    if (!linear->bias) biases.insert(linear->bias_name());
  for (const std::string& name : files.unexplained_tensors) {
    if (biases.contains(name))
      throw Error(ErrorKind::input, "open the model", config,
                  str("describes a ", files.model.architecture, " without tensor ", name,
                      ", which the files hold"),
                  kDoNotFit);
    if (!files.assumptions.empty())
      throw Error(ErrorKind::input, "open the model", config,
                  str("names an architecture that is not known, and what its tensor ", name,
                      " is for cannot be assumed"),
                  "describe it with --architecture FILE");
  }
}

}  // namespace

double stored_weight_bytes(const ModelFiles& files, const LinearSpec& linear) {
  constexpr double kMxfp4Bytes = 0.5 + 1.0 / static_cast<double>(kMxfp4Group);
  if (const auto packed = files.model.packed.find(linear.name);
      packed != files.model.packed.end()) {
    Index bytes = 0;
    for (const PackedTensor& tensor : packed->second.tensors)
      bytes += files.checkpoint.raw(str(linear.name, ".", tensor.suffix)).bytes;
    return static_cast<double>(bytes) / static_cast<double>(linear.rows * linear.columns);
  }
  const StoredPart part = stored_weight(files.model, linear);
  if (files.model.encoding == SourceEncoding::mxfp4 && part.fused()) return kMxfp4Bytes;
  return static_cast<double>(dtype_size(files.checkpoint.info(part.tensor).dtype));
}

std::vector<std::string> assumption_texts(const Keys& assumed_unused) {
  std::vector<std::string> texts;
  for (const std::string& key : assumed_unused)
    texts.push_back(str("key '", key, "' of config.json without meaning (--assume-unused)"));
  return texts;
}

ModelFiles open_model(const std::filesystem::path& directory,
                      const std::filesystem::path& architecture, const Keys& assume_unused) {
  Checkpoint checkpoint = Checkpoint::open(directory);
  const TensorShapes shapes = shapes_of(checkpoint);
  InferredArchitecture found = find_row(checkpoint, shapes, architecture);
  Model model = describe_model(found.row, checkpoint.config_json(),
                               checkpoint.config_path().string(), shapes, assume_unused);
  ModelFiles files{std::move(checkpoint),
                   std::move(found.row),
                   std::move(model),
                   std::move(found.assumptions),
                   assume_unused,
                   {},
                   {}};
  const TextConfig text =
      text_config(files.checkpoint.config_json(), files.checkpoint.config_path().string());
  files.text_key = text.key;
  files.other_keys = text.beside;
  files.tied_by_config = files.model.tied_head;
  settle_head(files.checkpoint, files.model);
  TensorCheck check(files.checkpoint, files.model);
  check.check_all();
  for (const auto& [name, shape] : shapes)
    if (!check.needed.contains(name)) files.extra_tensors.push_back(name);
  files.unexplained_tensors = unexplained_tensors(files);
  refuse_unexplained(files);
  return files;
}

}  // namespace aq
