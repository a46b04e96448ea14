#pragma once
/// One declaration a family; its row is in the file of that name.

#include "aq/model/architecture.h"

namespace aq::architecture_rows {

Architecture deepseek();
Architecture deepseek_v2();
Architecture deepseek_v3();
Architecture glm4_moe();
Architecture gpt_oss();
Architecture llama();
Architecture mixtral();
Architecture olmoe();
Architecture qwen2();
Architecture qwen2_moe();
Architecture qwen3();
Architecture qwen3_moe();

}  // namespace aq::architecture_rows
