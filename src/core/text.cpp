#include "aq/core/text.h"

#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>

namespace aq {

std::string fixed(double value, int digits) {
  std::array<char, 400> buffer{};
  const int length = std::snprintf(buffer.data(), buffer.size(), "%.*f", digits, value);
  return {buffer.data(), static_cast<std::size_t>(length)};
}

std::string shortest(double value) {
  std::array<char, 64> buffer{};
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return {buffer.data(), end};
}

std::string bytes_text(Index bytes) {
  static constexpr std::array<const char*, 6> units{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  // What one digit after the point would round to 1024.0 belongs to the next unit.
  while (value >= (unit == 0 ? 1024 : 1023.95) && unit + 1 < units.size()) {
    value /= 1024;
    ++unit;
  }
  return str(fixed(value, unit == 0 ? 0 : 1), " ", units[unit]);
}

std::string duration_text(double seconds) {
  const auto two_digits = [](long value) { return str(value < 10 ? "0" : "", value); };
  // Limits at which the digits printed would round to the next unit.
  if (seconds < 0.9995) return str(fixed(seconds * 1000, 0), " ms");
  if (seconds < 119.95) return str(fixed(seconds, 1), " s");
  const long whole = std::lround(seconds);
  if (whole < 7200) return str(whole / 60, " min ", two_digits(whole % 60), " s");
  return str(whole / 3600, " h ", two_digits(whole / 60 % 60), " min");
}

Index parse_bytes(std::string_view text, std::string_view option) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  static constexpr std::array<std::string_view, 5> letters{"", "K", "M", "G", "T"};
  double factor = 1, decimal = 1;
  for (const std::string_view letter : letters) {
    const bool fits = unit == letter ||
                      (!letter.empty() && (unit == str(letter, "iB") || unit == str(letter, "i")));
    if (error == std::errc{} && std::isfinite(value) && value >= 0 &&
        (fits || unit == str(letter, "B")) && value * factor < 0x1p62)
      return static_cast<Index>(value * (fits ? factor : decimal));
    factor *= 1024;
    decimal *= 1000;
  }
  throw Error(ErrorKind::usage, "read the option", option, str("'", text, "' is no size"),
              "write for instance 40GiB or 512MiB");
}

namespace {

Index edit_distance(std::string_view a, std::string_view b) {
  std::vector<Index> previous(b.size() + 1), current(b.size() + 1);
  std::iota(previous.begin(), previous.end(), Index{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    current[0] = static_cast<Index>(i) + 1;
    for (std::size_t j = 0; j < b.size(); ++j)
      current[j + 1] =
          std::min({previous[j] + (a[i] == b[j] ? 0 : 1), previous[j + 1] + 1, current[j] + 1});
    std::swap(previous, current);
  }
  return previous.back();
}

}  // namespace

std::string nearest_word(std::string_view word, std::span<const std::string_view> words) {
  std::string_view best;
  Index best_distance = std::max<Index>(2, static_cast<Index>(word.size()) / 2) + 1;
  for (const std::string_view candidate : words) {
    const Index distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return std::string(best);
}

std::string did_you_mean(std::string_view word, std::span<const std::string_view> words) {
  const std::string near = nearest_word(word, words);
  return near.empty() ? std::string() : str("; did you mean '", near, "'?");
}

bool matches_pattern(const std::string& pattern, const std::string& text) {
  // fnmatch would take a zero byte for the end.
  const auto is_whole = [](const std::string& s) { return s.find('\0') == std::string::npos; };
  return is_whole(pattern) && is_whole(text) &&
         ::fnmatch(pattern.c_str(), text.c_str(), FNM_NOESCAPE) == 0;
}

std::string replace_all(std::string text, std::string_view key, std::string_view value) {
  for (std::size_t at = text.find(key); at != std::string::npos;
       at = text.find(key, at + value.size()))
    text.replace(at, key.size(), value);
  return text;
}

}  // namespace aq
