#pragma once
/// One declaration a family; its row is in the file of that name.

#include "aq/model/architecture.h"

namespace aq::architecture_rows {

extern const Architecture llama;
extern const Architecture mixtral;
extern const Architecture olmoe;

}  // namespace aq::architecture_rows
