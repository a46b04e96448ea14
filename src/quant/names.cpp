#include "aq/quant/solver.h"

namespace aq {

std::string_view method_name(Method method) {
  switch (method) {
    case Method::gptq:
      return "gptq";
    case Method::rtn:
      return "rtn";
    case Method::copy:
      return "copy";
  }
  return "?";
}

std::string_view rtn_reason_text(RtnReason reason) {
  switch (reason) {
    case RtnReason::none:
      return "";
    case RtnReason::no_tokens:
      return "no token reached it";
    case RtnReason::not_finite:
      return "its Hessian is not finite";
    case RtnReason::lack_not_finite:
      return "the sum of what its tokens lack is not finite";
    case RtnReason::no_input:
      return "its inputs are zero";
    case RtnReason::not_definite:
      return "its Hessian is not positive definite with any damping";
    case RtnReason::overflow:
      return "the errors of some rows are not finite";
  }
  return "?";
}

std::string_view fallback_name(Fallback fallback) {
  switch (fallback) {
    case Fallback::none:
      return "none";
    case Fallback::more_damping:
      return "more_damping";
    case Fallback::float64:
      return "float64";
    case Fallback::rtn:
      return "rtn";
  }
  return "?";
}

}  // namespace aq
