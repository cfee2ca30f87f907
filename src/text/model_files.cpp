#include "text/model_files.h"

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

ModelFiles::ModelFiles(const base::ModelFolder& folder, bool templates)
    : path_(folder.path().native()) {
  for (const Known& known : kKnown) {
    if (known.is_template && !templates) continue;
    auto content = folder.read(known.name, known.limit);
    if (content) files_.push_back({known.name, std::move(*content)});
  }
}

MoesaicFolder ModelFiles::view() {
  views_.clear();
  for (const File& file : files_) views_.push_back(file_view(file.name, file.content));
  return {bytes_of(path_), path_.size(), views_.data(), views_.size()};
}

size_t ModelFiles::bytes() const {
  size_t bytes = 0;
  for (const File& file : files_) bytes += file.content.size();
  return bytes;
}

uint64_t loading_memory(size_t bytes) {
  // Measured: 24 times the file for a BPE model, 44 for a Unigram one, and up to some 100 MB for
  // the automata of the added tokens that a file may have.
  constexpr uint64_t kAlways = uint64_t{128} << 20;
  constexpr uint64_t kPerByte = 48;
  return kAlways + kPerByte * bytes;
}

MoesaicFile file_view(const std::string& name, const std::string& content) {
  return {bytes_of(name), name.size(), bytes_of(content), content.size()};
}

}  // namespace moesaic::text
