#pragma once
/// The hash of the program.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace aq {

/// XXH64 of `bytes`; the hash of what stands before them may be the seed.
std::uint64_t xxh64(std::span<const std::byte> bytes, std::uint64_t seed = 0);
inline std::uint64_t xxh64(std::string_view text, std::uint64_t seed = 0) {
  return xxh64(std::as_bytes(std::span(text)), seed);
}
std::string hash_text(std::uint64_t hash);  ///< 16 hex digits

/// 64-bit FNV-1a of `bytes`, continued from `seed`: of the fingerprints alone, which model.h5 has
/// as attributes.
std::uint64_t fnv1a(std::string_view bytes, std::uint64_t seed = 0xcbf29ce484222325ULL);

}  // namespace aq
