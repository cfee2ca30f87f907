#include "deploy/json_reader.h"

#include <fmt/format.h>

#include "base/error.h"

namespace moesaic::deploy {
namespace {

namespace json = boost::json;

std::string scalar_text(const json::value& value, std::string_view path, const Place& place) {
  if (value.is_string()) return std::string(value.get_string());
  if (value.is_object() || value.is_array()) wrong(place, fmt::format("{} must be a text", path));
  return value.is_null() ? "" : json::serialize(value);
}

}  // namespace

void wrong(const Place& place, std::string_view what) {
  throw base::ModelFileError(
      place.file, fmt::format("line {}: {}: {}", place.line, place.object.substr(0, 120), what));
}

const json::value* find_path(const json::object& root, std::string_view path, const Place& place) {
  const json::object* at = &root;
  std::string_view rest = path;
  while (true) {
    const size_t dot = rest.find('.');
    const json::value* value = at->if_contains(rest.substr(0, dot));
    if (value == nullptr || value->is_null()) return nullptr;
    if (dot == std::string_view::npos) return value;
    if (!value->is_object()) {
      wrong(place,
            fmt::format("{} must be a mapping", path.substr(0, path.size() - rest.size() + dot)));
    }
    at = &value->get_object();
    rest = rest.substr(dot + 1);
  }
}

const json::object& object_at(const json::object& root, std::string_view path, const Place& place) {
  static const json::object kNone;
  const json::value* value = find_path(root, path, place);
  if (value == nullptr) return kNone;
  if (!value->is_object()) wrong(place, fmt::format("{} must be a mapping", path));
  return value->get_object();
}

const json::array& array_at(const json::object& root, std::string_view path, const Place& place) {
  static const json::array kNone;
  const json::value* value = find_path(root, path, place);
  if (value == nullptr) return kNone;
  if (!value->is_array()) wrong(place, fmt::format("{} must be a list", path));
  return value->get_array();
}

std::string text_at(const json::object& root, std::string_view path, const Place& place) {
  const json::value* value = find_path(root, path, place);
  return value == nullptr ? "" : scalar_text(*value, path, place);
}

int64_t integer_at(const json::object& root, std::string_view path, int64_t fallback,
                   const Place& place) {
  const json::value* value = find_path(root, path, place);
  if (value == nullptr) return fallback;
  if (!value->is_int64() || value->get_int64() < 0 || value->get_int64() > 1'000'000'000) {
    wrong(place, fmt::format("{} must be a whole number from 0 to a billion", path));
  }
  return value->get_int64();
}

std::vector<std::string> texts_at(const json::object& root, std::string_view path,
                                  const Place& place) {
  std::vector<std::string> texts;
  const json::value* value = find_path(root, path, place);
  // One word instead of a list of one is a common slip.
  if (value != nullptr && value->is_string()) return {std::string(value->get_string())};
  for (const json::value& item : array_at(root, path, place)) {
    texts.push_back(scalar_text(item, path, place));
  }
  return texts;
}

std::vector<const json::object*> objects_at(const json::object& root, std::string_view path,
                                            const Place& place) {
  std::vector<const json::object*> objects;
  for (const json::value& item : array_at(root, path, place)) {
    if (!item.is_object()) wrong(place, fmt::format("{} must be a list of mappings", path));
    objects.push_back(&item.get_object());
  }
  return objects;
}

}  // namespace moesaic::deploy
