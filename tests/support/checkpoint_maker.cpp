#include "support/checkpoint_maker.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "aq/io/file.h"
#include "aq/io/safetensors_writer.h"
#include "io/hdf5.h"

namespace aq::test {
namespace {

using Json = nlohmann::ordered_json;

/// Uniform in [-1, 1): the same on every platform, which std distributions are not.
float uniform(std::mt19937_64& random) {
  return static_cast<float>(static_cast<double>(random() >> 11) * 0x1p-52 - 1.0);
}

/// `offset` + uniform noise of standard deviation `deviation`.
TensorToWrite random_tensor(const std::string& name, const std::vector<Index>& shape, DType dtype,
                            float offset, float deviation, std::mt19937_64& random) {
  TensorToWrite tensor{name, dtype, shape, {}};
  Index elements = 1;
  for (const Index size : shape) elements *= size;
  tensor.bytes.resize(elements * dtype_size(dtype));
  for (Index i = 0; i < elements; ++i) {
    const float value = offset + deviation * std::sqrt(3.0f) * uniform(random);
    std::byte* out = tensor.bytes.data() + i * dtype_size(dtype);
    if (dtype == DType::f32) {
      std::memcpy(out, &value, 4);
    } else {
      const std::uint16_t bits = dtype == DType::f16 ? float_to_f16(value) : float_to_bf16(value);
      std::memcpy(out, &bits, 2);
    }
  }
  return tensor;
}

/// Collects the tensors of a checkpoint.
class Maker {
 public:
  Maker(const std::string& architecture, const TinyModel& model, std::uint64_t seed)
      : architecture_(architecture), model_(model), random_(seed) {}

  std::vector<TensorToWrite> outside() {
    tensors_.clear();
    matrix("model.embed_tokens", model_.vocabulary, model_.hidden, 1.0f);
    norm("model.norm", model_.hidden);
    if (!model_.tied_head) linear("lm_head", model_.vocabulary, model_.hidden);
    return std::move(tensors_);
  }

  std::vector<TensorToWrite> layer(Index index) {
    tensors_.clear();
    const std::string prefix = str("model.layers.", index, ".");
    norm(prefix + "input_layernorm", model_.hidden);
    norm(prefix + "post_attention_layernorm", model_.hidden);
    attention(prefix + "self_attn.");
    if (architecture_ == "llama") mlp(prefix + "mlp.", "gate_proj", "up_proj", "down_proj");
    if (architecture_ == "olmoe") experts(prefix + "mlp.", "gate_proj", "up_proj", "down_proj");
    if (architecture_ == "mixtral") experts(prefix + "block_sparse_moe.", "w1", "w3", "w2");
    return std::move(tensors_);
  }

 private:
  void attention(const std::string& prefix) {
    const Index width = model_.hidden / model_.heads * model_.kv_heads;
    linear(prefix + "q_proj", model_.hidden, model_.hidden);
    linear(prefix + "k_proj", width, model_.hidden);
    linear(prefix + "v_proj", width, model_.hidden);
    linear(prefix + "o_proj", model_.hidden, model_.hidden);
    if (architecture_ != "olmoe") return;
    norm(prefix + "q_norm", model_.hidden);
    norm(prefix + "k_norm", width);
  }
  void mlp(const std::string& prefix, const char* gate, const char* up, const char* down) {
    linear(prefix + gate, model_.width, model_.hidden);
    linear(prefix + up, model_.width, model_.hidden);
    linear(prefix + down, model_.hidden, model_.width);
  }
  void experts(const std::string& prefix, const char* gate, const char* up, const char* down) {
    linear(prefix + "gate", model_.experts, model_.hidden);
    for (Index e = 0; e < model_.experts; ++e) mlp(str(prefix, "experts.", e, "."), gate, up, down);
  }
  void linear(const std::string& name, Index rows, Index columns) {
    matrix(name, rows, columns, 1.0f / std::sqrt(static_cast<float>(columns)));
  }
  void matrix(const std::string& name, Index rows, Index columns, float deviation) {
    tensors_.push_back(
        random_tensor(name + ".weight", {rows, columns}, model_.dtype, 0, deviation, random_));
  }
  void norm(const std::string& name, Index width) {
    tensors_.push_back(random_tensor(name + ".weight", {width}, model_.dtype, 1, 0.1f, random_));
  }

  std::string architecture_;
  TinyModel model_;
  std::mt19937_64 random_;
  std::vector<TensorToWrite> tensors_;
};

Json config(const std::string& architecture, const TinyModel& model) {
  const char* class_name = architecture == "olmoe"     ? "OlmoeForCausalLM"
                           : architecture == "mixtral" ? "MixtralForCausalLM"
                                                       : "LlamaForCausalLM";
  Json json = {{"architectures", {class_name}},
               {"model_type", architecture},
               {"hidden_size", model.hidden},
               {"intermediate_size", model.width},
               {"num_hidden_layers", model.layers},
               {"num_attention_heads", model.heads},
               {"num_key_value_heads", model.kv_heads},
               {"vocab_size", model.vocabulary},
               {"max_position_embeddings", 512},
               {"rms_norm_eps", 1e-5},
               {"rope_theta", 10000.0},
               {"hidden_act", "silu"},
               {"tie_word_embeddings", model.tied_head}};
  if (architecture != "llama") json["num_experts_per_tok"] = model.experts_per_token;
  if (architecture == "olmoe") json["num_experts"] = model.experts;
  if (architecture == "olmoe") json["norm_topk_prob"] = false;
  if (architecture == "mixtral") json["num_local_experts"] = model.experts;
  return json;
}

void write_single(const std::filesystem::path& directory, Maker& maker, Index layers) {
  std::vector<TensorToWrite> tensors = maker.outside();
  for (Index i = 0; i < layers; ++i)
    for (TensorToWrite& tensor : maker.layer(i)) tensors.push_back(std::move(tensor));
  write_safetensors(directory / "model.safetensors", tensors);
}

void write_sharded(const std::filesystem::path& directory, Maker& maker, Index layers) {
  Json map = Json::object();
  for (Index i = -1; i < layers; ++i) {
    const std::string file = str("model-", i + 1, "-of-", layers, ".safetensors");
    const std::vector<TensorToWrite> tensors = i < 0 ? maker.outside() : maker.layer(i);
    for (const TensorToWrite& tensor : tensors) map[tensor.name] = file;
    write_safetensors(directory / file, tensors);
  }
  const Json index = {{"metadata", Json::object()}, {"weight_map", map}};
  write_text_file(directory / "model.safetensors.index.json", index.dump(1));
}

}  // namespace

void make_tiny_checkpoint(const std::filesystem::path& directory, const std::string& architecture,
                          std::uint64_t seed, const TinyModel& wanted) {
  AQ_CHECK(architecture == "olmoe" || architecture == "mixtral" || architecture == "llama",
           architecture);
  TinyModel model = wanted;
  if (architecture == "olmoe") model.kv_heads = model.heads;
  make_directory(directory);
  write_text_file(directory / "config.json", config(architecture, model).dump(1) + "\n");
  Maker maker(architecture, model, seed);
  if (model.sharded)
    write_sharded(directory, maker, model.layers);
  else
    write_single(directory, maker, model.layers);
}

void write_tokens(const std::filesystem::path& path, Index sequences, Index length,
                  Index vocabulary, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int32_t> tokens(sequences * length);
  for (std::int32_t& token : tokens)
    token = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocabulary));
  hdf5::Object file = hdf5::create_file(path);
  hdf5::write_dataset(file, "tokens", hdf5::Type::i32, {sequences, length}, tokens.data());
  file.close();
}

}  // namespace aq::test
