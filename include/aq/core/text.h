#pragma once
/// Small text helpers: numbers for people, nearest words, patterns.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aq/core/index.h"

namespace aq {

/// `value` with `digits` digits after the point.
std::string fixed(double value, int digits);
/// Shortest text that reads back as the same double.
std::string shortest(double value);
/// "512 B", "3.4 MiB", "40.0 GiB".
std::string bytes_text(Index bytes);
/// "850 ms", "12.3 s", "4 min 05 s", "2 h 03 min".
std::string duration_text(double seconds);
/// Reads "40GiB", "512MiB", "1.5G" (1024^3), "5GB" (1000^3), "100000"; throws Error{usage} naming
/// `option`.
Index parse_bytes(std::string_view text, std::string_view option);

/// The word of `words` with the least edit distance to `word`; empty when none is near.
std::string nearest_word(std::string_view word, std::span<const std::string_view> words);
/// " (did you mean 'x'?)" or empty.
std::string did_you_mean(std::string_view word, std::span<const std::string_view> words);

/// fnmatch(3) on the whole text: `*` (crosses dots), `?`, `[..]`, `[!..]`; a backslash stands for
/// itself. POSIX leaves open what `[^..]` means (glibc: as `[!..]`). The process's locale counts,
/// which is "C" in aq-dist.
bool matches_pattern(const std::string& pattern, const std::string& text);

/// `text` with every "{key}" replaced.
std::string replace_all(std::string text, std::string_view key, std::string_view value);

}  // namespace aq
