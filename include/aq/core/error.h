#pragma once
/// Errors of the user or the machine (aq::Error) and of the program itself (AQ_CHECK).

#include <exception>
#include <sstream>
#include <string>
#include <string_view>

namespace aq {

/// What went wrong decides the exit code of the program.
enum class ErrorKind {
  usage = 2,      ///< command line or recipe
  input = 3,      ///< checkpoint, tokens, run directory: data that cannot be used
  policy = 4,     ///< a limit that the user set is not met
  internal = 70,  ///< a bug, or a machine that fails
  stopped = 75,   ///< stopped by a signal; start again to resume
};

/// One clear error: text is "operation: object: reason (hint)".
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string_view operation, std::string_view object,
        std::string_view reason, std::string_view hint = {});

  ErrorKind kind() const noexcept { return kind_; }
  int exit_code() const noexcept { return static_cast<int>(kind_); }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  ErrorKind kind_;
  std::string text_;
};

/// Joins its arguments as `operator<<` prints them.
template <class... Values>
std::string str(const Values&... values) {
  std::ostringstream out;
  static_cast<void>((out << ... << values));
  return out.str();
}

namespace detail {
[[noreturn]] void check_failed(const char* expression, const char* file, int line,
                               const std::string& values);
}

}  // namespace aq

/// Checks an invariant of this program. The further arguments are printed when it does not hold.
#define AQ_CHECK(condition, ...)                                                          \
  do {                                                                                    \
    if (!(condition)) [[unlikely]]                                                        \
      ::aq::detail::check_failed(#condition, __FILE__, __LINE__, ::aq::str(__VA_ARGS__)); \
  } while (false)
