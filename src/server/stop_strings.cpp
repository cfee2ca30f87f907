#include "server/stop_strings.h"

#include <algorithm>

namespace moesaic::server {
namespace {

/// Bytes of `stop` that the text ends with after one more byte, given how many it ended with.
uint32_t extend(const StopString& stop, uint32_t size, char byte) {
  while (size > 0 && stop.text[size] != byte) size = stop.overlap[size - 1];
  return stop.text[size] == byte ? size + 1 : 0;
}

StopString prepare(std::string text) {
  StopString stop{std::move(text), {0}};
  for (size_t i = 1; i < stop.text.size(); ++i) {
    stop.overlap.push_back(extend(stop, stop.overlap.back(), stop.text[i]));
  }
  return stop;
}

}  // namespace

StopStrings stop_strings(std::vector<std::string> texts) {
  std::sort(texts.begin(), texts.end());
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  std::vector<StopString> stops;
  stops.reserve(texts.size());
  for (std::string& text : texts) stops.push_back(prepare(std::move(text)));
  return std::make_shared<const std::vector<StopString>>(std::move(stops));
}

/// Follows every stop string by one byte; the longest one that ends with it, or null.
const StopString* StopMatcher::step(char byte) {
  const StopString* complete = nullptr;
  for (size_t i = 0; i < begun_.size(); ++i) {
    const StopString& stop = (*stops_)[i];
    begun_[i] = extend(stop, begun_[i], byte);
    if (begun_[i] < stop.text.size()) continue;
    begun_[i] = stop.overlap.back();
    if (complete == nullptr || stop.text.size() > complete->text.size()) complete = &stop;
  }
  return complete;
}

void StopMatcher::pass(std::string_view text) {
  held_ += text;
  for (const char byte : text) step(byte);
}

bool StopMatcher::add(std::string_view text) {
  if (!found_.empty()) return true;
  for (size_t i = 0; i < text.size(); ++i) {
    const StopString* stop = step(text[i]);
    if (stop == nullptr) continue;
    held_ += text.substr(0, i + 1);
    if (!include_stop_) held_.resize(held_.size() - stop->text.size());
    found_ = stop->text;
    return true;
  }
  held_ += text;
  return false;
}

std::string StopMatcher::take(bool end) {
  size_t keep = 0;
  if (!end && found_.empty()) {
    for (const uint32_t begun : begun_) keep = std::max<size_t>(keep, begun);
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

}  // namespace moesaic::server
