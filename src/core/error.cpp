#include "aq/core/error.h"

namespace aq {

Error::Error(ErrorKind kind, std::string_view operation, std::string_view object,
             std::string_view reason, std::string_view hint)
    : kind_(kind) {
  text_ = str(operation, object.empty() ? "" : ": ", object, ": ", reason);
  if (!hint.empty()) text_ += str(" (", hint, ")");
}

namespace detail {

void check_failed(const char* expression, const char* file, int line, const std::string& values) {
  throw Error(ErrorKind::internal, "internal check", str(file, ":", line),
              str("'", expression, "' does not hold", values.empty() ? "" : ": ", values),
              "this is a bug of aq-dist; please report it with the command line");
}

}  // namespace detail
}  // namespace aq
