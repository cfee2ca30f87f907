#pragma once

// From what a person calls a model to its spec: a folder, a config.json, or the Hub name of a model
// whose config facts are shipped.

#include <boost/json/object.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/spec.h"

namespace moesaic::plan {

struct ResolvedModel {
  std::string name;      ///< the shipped model's Hub name, or the path
  std::string asked;     ///< as it was given
  std::string source;    ///< where the facts come from
  std::string relation;  ///< how `asked` was recognised as `name`; empty when it is the same
  std::vector<std::string> recalled;  ///< keys of the facts written from general knowledge
  model::ModelSpec spec;              ///< with what the weights are published in
};

/// Resolves `model`. Throws UsageError (exit 64) that asks for the config.json and names the
/// nearest shipped model when the name is unknown or not safe to guess from; ModelFileError and
/// MissingFileError as load_spec does.
ResolvedModel resolve_model(const std::string& model);

/// The config.json of a published model, a fine-tune or quantised copy included, by its Hub name;
/// none when nothing is shipped for it.
std::optional<boost::json::object> shipped_config(const std::string& name);

/// Hub names of the models whose facts are shipped.
std::vector<std::string> shipped_model_names();

}  // namespace moesaic::plan
