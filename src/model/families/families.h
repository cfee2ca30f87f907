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
Family deepseek_v32_family();
Family kimi_k25_family();
Family glm4_moe_lite_family();
Family glm_moe_dsa_family();
Family granitemoehybrid_family();
Family qwen3_next_family();
Family qwen3_5_moe_family();
Family qwen3_vl_moe_family();
Family minimax_m2_family();
Family llama4_family();
Family gemma4_family();
Family ernie4_5_moe_family();
Family hunyuan_v1_moe_family();
Family dots1_family();
Family bailing_moe_family();
Family nemotron_h_family();
Family step3_family();
Family longcat_flash_family();
Family jamba_family();

}  // namespace moesaic::model
