#pragma once

// What the planner's tests share.

#include <optional>
#include <string>

#include "plan/plan.h"

namespace moesaic::plan {

inline PlanInputs inputs_for(const std::string& model, const std::string& instance = "") {
  PlanInputs inputs;
  inputs.catalog = load_catalog();
  inputs.model = resolve_model(model);
  if (!instance.empty()) inputs.instances = {instance};
  return inputs;
}

}  // namespace moesaic::plan
