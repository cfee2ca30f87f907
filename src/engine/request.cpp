#include "engine/request.h"

#include <algorithm>

namespace moesaic::engine {
namespace {

template <typename T>
void sort_and_make_unique(std::vector<T>& list) {
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
}

}  // namespace

std::shared_ptr<const TokenRules> token_rules(TokenRules lists) {
  sort_and_make_unique(lists.allowed_token_ids);
  sort_and_make_unique(lists.bad_words);
  sort_and_make_unique(lists.stop_token_ids);
  return std::make_shared<const TokenRules>(std::move(lists));
}

}  // namespace moesaic::engine
