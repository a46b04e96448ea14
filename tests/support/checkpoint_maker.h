#pragma once
/// Tiny random checkpoints and token files, made on the fly.

#include <cstdint>
#include <filesystem>
#include <string>

#include "aq/core/dtype.h"

namespace aq::test {

/// Sizes of a tiny checkpoint. Every family uses the fields that it has.
struct TinyModel {
  Index vocabulary = 64;
  Index hidden = 32;
  Index layers = 2;
  Index heads = 4;
  Index kv_heads = 2;  ///< olmoe has as many as heads
  Index experts = 8;
  Index experts_per_token = 2;
  Index width = 48;  ///< of an expert, or of the dense MLP
  DType dtype = DType::bf16;
  bool sharded = false;  ///< one file a layer, with an index
  bool tied_head = false;
};

/// Writes config.json and safetensors with random weights under the published names of
/// `architecture`: "olmoe", "mixtral" or "llama". The same arguments give the same files. The
/// directory is made when it is missing.
void make_tiny_checkpoint(const std::filesystem::path& directory, const std::string& architecture,
                          std::uint64_t seed, const TinyModel& model = {});

/// Writes random tokens: HDF5 dataset `tokens` int32 [sequences, length].
void write_tokens(const std::filesystem::path& path, Index sequences, Index length,
                  Index vocabulary, std::uint64_t seed);

}  // namespace aq::test
