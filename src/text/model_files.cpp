#include "text/model_files.h"

#include "base/model_file.h"
#include "text/rust_error.h"

namespace moesaic::text {
namespace {

struct Known {
  const char* name;
  size_t limit;
  bool is_template;
};

/// The biggest published tokenizer.json has 35 MB.
constexpr Known kKnown[] = {
    {"tokenizer.json", size_t{256} << 20, false},
    {"tokenizer_config.json", size_t{32} << 20, false},
    {"special_tokens_map.json", size_t{32} << 20, false},
    {"chat_template.jinja", kMaxTemplateBytes, true},
    {"additional_chat_templates/tool_use.jinja", kMaxTemplateBytes, true},
    {"chat_template.json", size_t{32} << 20, true},
};

}  // namespace

ModelFiles::ModelFiles(const std::filesystem::path& folder, bool templates)
    : path_(folder.native()) {
  for (const Known& known : kKnown) {
    if (known.is_template && !templates) continue;
    auto content = base::read_model_file(folder, known.name, known.limit);
    if (content) files_.push_back({known.name, std::move(*content)});
  }
}

MoesaicFolder ModelFiles::view() {
  views_.clear();
  for (const File& file : files_) views_.push_back(file_view(file.name, file.content));
  return {bytes_of(path_), path_.size(), views_.data(), views_.size()};
}

MoesaicFile file_view(const std::string& name, const std::string& content) {
  return {bytes_of(name), name.size(), bytes_of(content), content.size()};
}

}  // namespace moesaic::text
