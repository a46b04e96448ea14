#pragma once
/// Errors that all ranks have agreed on.

#include "aq/core/error.h"

namespace aq {

/// Thrown on every rank with the same text: the first one tells it and ends the job.
class CommonError : public Error {
 public:
  using Error::Error;
};

}  // namespace aq
