#pragma once

// The parse functions of the families, gathered by registry.cpp.

#include <boost/json/object.hpp>
#include <string>

#include "model/family.h"

namespace moesaic::model {

Family mixtral_family();
Family qwen2_moe_family();
Family qwen3_moe_family();
Family olmoe_family();
Family mistral_family();
Family llama_family();
Family qwen2_family();
Family qwen3_family();
Family deepseek_family();
Family deepseek_v2_family();
Family deepseek_v3_family();
Family kimi_k2_family();
Family dbrx_family();
Family gpt_oss_family();
Family phimoe_family();
Family glm4_moe_family();
Family granitemoe_family();

}  // namespace moesaic::model
