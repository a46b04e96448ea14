#include "aq/core/hash.h"

#include <xxhash.h>

#include <array>
#include <cstdio>

namespace aq {

std::uint64_t xxh64(std::span<const std::byte> bytes, std::uint64_t seed) {
  return XXH64(bytes.data(), bytes.size(), seed);
}

std::string hash_text(std::uint64_t hash) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(hash));
  return text.data();
}

std::uint64_t fnv1a(std::string_view bytes, std::uint64_t seed) {
  constexpr std::uint64_t kPrime = 0x100000001b3ULL;
  for (const char c : bytes) seed = (seed ^ static_cast<unsigned char>(c)) * kPrime;
  return seed;
}

}  // namespace aq
