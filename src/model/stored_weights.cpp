#include "model/stored_weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cmath>
#include <cstring>
#include <exception>
#include <mutex>

#include "base/error.h"
#include "checkpoint/strict_json.h"
#include "tensor/unpack_stored.h"

namespace moesaic::model {
namespace {

using base::ModelFileError;
using checkpoint::TensorEntry;
using tensor::DType;
using tensor::Packing;
using tensor::Scheme;
using tensor::Shape;
using tensor::View;
using tensor::WeightFormat;

constexpr std::string_view kWeight = ".weight";
/// What quantising tools put in the place of "x.weight" or beside it.
constexpr std::array<std::string_view, 5> kMarks = {".qweight", ".weight_packed", ".weight_scale",
                                                    ".weight_scale_inv", ".weight.absmax"};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool plain(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

/// A view of `rows` x `cols` of as many elements, whatever its shape was.
View as_matrix(const View& view, int64_t rows, int64_t cols) {
  View matrix = view;
  matrix.shape = {rows, cols};
  return matrix;
}

/// Reads the tensors of one module.
class Reader {
 public:
  Reader(const checkpoint::Checkpoint& checkpoint, const StoredFormat& stored,
         const std::string& weight, int64_t outputs, int64_t inputs)
      : checkpoint_(checkpoint),
        format_(stored.format),
        stored_(stored),
        names_(*stored.names),
        module_(weight.substr(0, weight.size() - kWeight.size())),
        outputs_(outputs),
        inputs_(inputs),
        groups_(format_.group_k > 0 ? ceil_div(inputs, format_.group_k) : 1) {}

  StoredMatrix run() {
    matrix_.format = &format_;
    switch (format_.packing) {
      case Packing::kElements:
        elements();
        break;
      case Packing::kWords:
        words();
        break;
      case Packing::kGptq:
        gptq();
        break;
      case Packing::kAwqGemm:
        awq_gemm();
        break;
      case Packing::kAwqGemv:
        awq_gemv();
        break;
      case Packing::kNibbles:
        nibbles();
        break;
      case Packing::kFlat:
        flat();
        break;
    }
    for (const std::string_view name : names_.unused) {
      if (const TensorEntry* entry = look(name)) use(*entry);
    }
    return std::move(matrix_);
  }

 private:
  // --- one packing each: the shapes that its tool writes

  void elements() {
    const bool fp8 = format_.scheme == Scheme::kScaled;
    const TensorEntry& values = need(names_.values);
    if (fp8) {
      expect(values, {{outputs_, inputs_}}, {DType::kF8E4M3, DType::kF8E5M2});
    } else {
      expect(values, {{outputs_, inputs_}}, {DType::kI8});
    }
    matrix_.part.values = values.view;
    const int64_t rows = format_.group_n > 0 ? ceil_div(outputs_, format_.group_n) : 1;
    std::vector<Shape> shapes = {{rows, groups_}};
    if (groups_ == 1) shapes.push_back({rows});
    if (rows * groups_ == 1) shapes.emplace_back();
    const TensorEntry& scales = need(scales_name());
    if (fp8) {
      expect(scales, shapes, {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E8M0, DType::kU8});
    } else {
      expect(scales, shapes, {DType::kF32, DType::kBF16, DType::kF16});
    }
    matrix_.part.scales = checked(scales, rows, groups_);
    if (format_.zeros_stored) {
      const TensorEntry& zeros = need(names_.zeros);
      expect(zeros, shapes, {DType::kI8});
      matrix_.part.zeros = as_matrix(zeros.view, rows, groups_);
    } else {
      refuse_unread(names_.zeros);
    }
    order();
  }

  void words() {
    const int64_t each = 32 / format_.value_bits;
    matrix_.part.values = integers(names_.values, outputs_, ceil_div(inputs_, each), {DType::kI32});
    scales(outputs_, groups_);
    if (format_.zeros_stored) {
      matrix_.part.zeros = integers(names_.zeros, ceil_div(outputs_, each), groups_, {DType::kI32});
    } else {
      refuse_unread(names_.zeros);
    }
    order();
    shape();
  }

  void gptq() {
    const int64_t each = 32 / format_.value_bits;
    divides(inputs_, each, "inputs");
    divides(outputs_, each, "outputs");
    matrix_.part.values = integers(names_.values, inputs_ / each, outputs_, {DType::kI32});
    scales(groups_, outputs_);
    matrix_.part.zeros = integers(names_.zeros, groups_, outputs_ / each, {DType::kI32});
    order();
  }

  void awq_gemm() {
    divides(outputs_, 8, "outputs");
    matrix_.part.values = integers(names_.values, inputs_, outputs_ / 8, {DType::kI32});
    scales(groups_, outputs_);
    matrix_.part.zeros = integers(names_.zeros, groups_, outputs_ / 8, {DType::kI32});
    refuse_unread(names_.order);
  }

  /// Words of zero points are padded to whole ones, then to one, two or four for groups of 128, 64
  /// and 32 (AutoAWQ's calculate_zeros_width).
  void awq_gemv() {
    divides(inputs_, 8, "inputs");
    const int64_t size = format_.group_k > 0 ? format_.group_k : inputs_;
    const int64_t multiple = size >= 128 ? 1 : size == 64 ? 2 : 4;
    const int64_t wide = ceil_div(ceil_div(groups_, 8), multiple) * multiple;
    matrix_.part.values = integers(names_.values, outputs_, inputs_ / 8, {DType::kI32});
    scales(outputs_, wide * 8);
    matrix_.part.zeros = integers(names_.zeros, outputs_, wide, {DType::kI32});
    refuse_unread(names_.order);
  }

  void nibbles() {
    divides(inputs_, format_.group_k, "inputs");
    matrix_.part.values = integers(names_.values, outputs_, inputs_ / 2, {DType::kU8});
    const bool nvfp4 = format_.name == "nvfp4";
    const TensorEntry& scales = need(names_.scales);
    if (nvfp4) {
      expect(scales, {{outputs_, groups_}}, {DType::kF8E4M3});
    } else {
      expect(scales, {{outputs_, groups_}}, {DType::kU8, DType::kF8E8M0});
    }
    matrix_.part.scales = checked(scales, outputs_, groups_);
    if (!nvfp4) return refuse_unread(names_.outer_scales);
    const TensorEntry& outer = need(names_.outer_scales);
    expect(outer, {{}, {1}, {1, 1}}, {DType::kF32});
    matrix_.part.outer_scales = checked(outer, 1, 1);
    shape();
  }

  void flat() {
    const int64_t values = outputs_ * inputs_;
    const int64_t bytes = ceil_div(values, 2);
    const int64_t blocks = ceil_div(values, format_.group_k);
    const TensorEntry& stored = need(names_.values);
    expect(stored, {{bytes, 1}, {1, bytes}, {bytes}}, {DType::kU8});
    matrix_.part.values = as_matrix(stored.view, 1, bytes);
    matrix_.part.inputs = inputs_;
    const TensorEntry& scales = need(names_.scales);
    expect(scales, {{blocks}}, {DType::kF32, DType::kU8});
    matrix_.part.codes = code_book(names_.codes, 16);
    const boost::json::object state = read_state();
    if (scales.view.dtype == DType::kF32) {
      matrix_.part.scales = checked(scales, 1, blocks);
      return;
    }
    // Scales that were quantised themselves.
    constexpr int64_t kOuterBlocks = 256;
    matrix_.part.scales = as_matrix(scales.view, 1, blocks);
    matrix_.part.scale_codes = code_book(names_.scale_codes, 256);
    const TensorEntry& outer = need(names_.outer_scales);
    expect(outer, {{ceil_div(blocks, kOuterBlocks)}}, {DType::kF32});
    matrix_.part.outer_scales = checked(outer, 1, ceil_div(blocks, kOuterBlocks));
    const ConfigReader reader(state, state_->file, state_->name);
    reader.integer("nested_blocksize", kOuterBlocks, kOuterBlocks);
    matrix_.part.scale_offset = static_cast<float>(reader.number("nested_offset", -1e30, 1e30));
  }

  /// What bitsandbytes says of the whole tensor, "...bitsandbytes__nf4": JSON, in bytes.
  boost::json::object read_state() {
    for (const std::string_view kind : {"nf4", "fp4"}) {
      state_ = checkpoint_.find(fmt::format("{}{}{}", module_, names_.state, kind));
      if (state_ != nullptr) break;
    }
    if (state_ == nullptr) need(fmt::format("{}nf4", names_.state));
    use(*state_);
    constexpr size_t kMostBytes = 4096;
    const View& view = state_->view;
    if (view.dtype != DType::kU8 || view.bytes() > kMostBytes) {
      refuse(*state_, "is not a short text in bytes");
    }
    boost::json::object state =
        parse_state(std::string(reinterpret_cast<const char*>(view.data), view.bytes()));
    const ConfigReader reader(state, state_->file, state_->name);
    reader.integer("blocksize", format_.group_k, format_.group_k);
    if (reader.integers("shape", 1, int64_t{1} << 40, 2) != Shape{outputs_, inputs_}) {
      refuse(*state_, fmt::format("has another shape than [{}, {}]", outputs_, inputs_));
    }
    return state;
  }

  boost::json::object parse_state(const std::string& text) const {
    try {
      return checkpoint::parse_strict_object(text, state_->name);
    } catch (const ModelFileError& error) {
      refuse(*state_, fmt::format("is no JSON object: {}", error.what()));
    }
  }

  // --- parts that several packings share

  View integers(std::string_view name, int64_t rows, int64_t cols,
                std::initializer_list<DType> types) {
    const TensorEntry& entry = need(name);
    expect(entry, {{rows, cols}}, types);
    return entry.view;
  }

  void scales(int64_t rows, int64_t cols) {
    const TensorEntry& entry = need(names_.scales);
    expect(entry, {{rows, cols}}, {DType::kF16, DType::kBF16, DType::kF32});
    matrix_.part.scales = checked(entry, rows, cols);
  }

  View code_book(std::string_view name, int64_t codes) {
    const TensorEntry& entry = need(name);
    expect(entry, {{codes}}, {DType::kF32});
    return checked(entry, 1, codes);
  }

  void order() {
    const TensorEntry* entry = look(names_.order);
    if (entry == nullptr) {
      if (stored_.order_needed) need(names_.order);
      return;
    }
    use(*entry);
    expect(*entry, {{inputs_}}, {DType::kI32});
    matrix_.part.order = entry->view;
    matrix_.checks.push_back({.tensor = entry, .groups = groups_});
  }

  /// Two integers that say what the matrix was before packing.
  void shape() {
    const TensorEntry* entry = look(names_.shape);
    if (entry == nullptr) return;
    use(*entry);
    expect(*entry, {{2}}, {DType::kI64, DType::kI32});
    for (int64_t i = 0; i < 2; ++i) {
      int64_t value = 0;
      const size_t size = tensor::size_of(entry->view.dtype);
      std::memcpy(&value, entry->view.data + static_cast<size_t>(i) * size, size);
      if (value == (i == 0 ? outputs_ : inputs_)) continue;
      refuse(*entry,
             fmt::format("says {} where config.json asks for [{}, {}]", value, outputs_, inputs_));
    }
  }

  // --- finding, checking, refusing

  std::string_view scales_name() const {
    const bool other = look(names_.scales) == nullptr && look(names_.other_scales) != nullptr;
    return other ? names_.other_scales : names_.scales;
  }

  const TensorEntry* look(std::string_view name) const {
    return name.empty() ? nullptr : checkpoint_.find(module_ + std::string(name));
  }

  void use(const TensorEntry& entry) { matrix_.names.push_back(entry.name); }

  const TensorEntry& need(std::string_view name) {
    const TensorEntry* entry = look(name);
    if (entry == nullptr) {
      throw ModelFileError(
          checkpoint_.path().string(),
          fmt::format("is missing, though {} is stored as {}", module_, stored_.description()),
          module_ + std::string(name));
    }
    use(*entry);
    return *entry;
  }

  /// A tensor that would change the values and has no meaning in this format.
  void refuse_unread(std::string_view name) const {
    const TensorEntry* entry = look(name);
    if (entry == nullptr) return;
    refuse(*entry,
           fmt::format("has no meaning where weights are stored as {}", stored_.description()));
  }

  /// Adds the scales to those whose content is checked.
  View checked(const TensorEntry& entry, int64_t rows, int64_t cols) {
    matrix_.checks.push_back({.tensor = &entry, .groups = 0});
    return as_matrix(entry.view, rows, cols);
  }

  void expect(const TensorEntry& entry, const std::vector<Shape>& shapes,
              std::initializer_list<DType> types) const {
    if (std::find(types.begin(), types.end(), entry.view.dtype) == types.end()) {
      std::vector<std::string_view> names;
      for (const DType type : types) names.push_back(tensor::to_string(type));
      refuse(entry, fmt::format("is {}, but weights stored as {} have {} there",
                                tensor::to_string(entry.view.dtype), stored_.description(),
                                fmt::join(names, " or ")));
    }
    if (std::find(shapes.begin(), shapes.end(), entry.view.shape) != shapes.end()) return;
    refuse(entry, fmt::format("has shape [{}], but [{}, {}] stored as {} has [{}] there",
                              fmt::join(entry.view.shape, ", "), outputs_, inputs_,
                              stored_.description(), fmt::join(shapes.front(), ", ")));
  }

  void divides(int64_t size, int64_t by, const char* what) const {
    if (size % by == 0) return;
    throw ModelFileError(checkpoint_.path().string(),
                         fmt::format("has {} {}, which are no multiple of {}, as weights stored as "
                                     "{} need",
                                     size, what, by, stored_.description()),
                         module_);
  }

  [[noreturn]] static void refuse(const TensorEntry& entry, const std::string& problem) {
    throw ModelFileError(entry.file, problem, entry.name, entry.offset);
  }

  const checkpoint::Checkpoint& checkpoint_;
  const WeightFormat& format_;
  const StoredFormat& stored_;
  const StoredNames& names_;
  std::string module_;
  int64_t outputs_, inputs_, groups_;
  const TensorEntry* state_ = nullptr;
  StoredMatrix matrix_;
};

/// The problem of a tensor's content; empty when it is sound.
std::string problem_of(const StoredCheck& check) {
  const View& view = check.tensor->view;
  const size_t size = tensor::size_of(view.dtype);
  const int64_t count = view.elements();
  alignas(8) std::array<std::byte, 8> element{};  // it may lie at any address in the file
  const View one{.dtype = view.dtype, .shape = {1, 1}, .data = element.data()};
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(element.data(), view.data + static_cast<size_t>(i) * size, size);
    if (check.groups > 0) {
      int32_t group = 0;
      std::memcpy(&group, element.data(), sizeof(group));
      if (group >= 0 && group < check.groups) continue;
      return fmt::format("puts input {} into group {}, of {} groups", i, group, check.groups);
    }
    const float scale = tensor::load_scale(one, 0, 0);
    if (!std::isfinite(scale)) return fmt::format("has the scale {} at {}", scale, i);
  }
  return {};
}

}  // namespace

std::optional<StoredMatrix> StoredWeights::find(const std::string& weight, int64_t outputs,
                                                int64_t inputs) const {
  const TensorEntry* entry = checkpoint_.find(weight);
  if ((entry != nullptr && plain(entry->view.dtype)) || !weight.ends_with(kWeight)) {
    return std::nullopt;
  }
  const std::string module = weight.substr(0, weight.size() - kWeight.size());
  const TensorEntry* mark = entry;
  for (size_t i = 0; mark == nullptr && i < kMarks.size(); ++i) {
    mark = checkpoint_.find(module + std::string(kMarks[i]));
  }
  if (mark == nullptr) return std::nullopt;
  if (rules_ == nullptr) {
    if (entry != nullptr) return std::nullopt;
    throw ModelFileError(mark->file,
                         "is a tensor of a quantised checkpoint, but config.json has no "
                         "quantization_config that says how it is to be read",
                         mark->name, mark->offset);
  }
  const StoredFormat* stored = rules_->find(module);
  if (stored == nullptr) {
    throw ModelFileError(
        mark->file, fmt::format("is quantised, but quantization_config leaves {} alone", module),
        mark->name, mark->offset);
  }
  return Reader(checkpoint_, *stored, weight, outputs, inputs).run();
}

std::string StoredWeights::weight_of(std::string_view tensor) const {
  if (rules_ == nullptr) return {};
  for (const std::string_view suffix : rules_->suffixes()) {
    const size_t at = suffix.ends_with("__")     ? tensor.rfind(suffix)
                      : tensor.ends_with(suffix) ? tensor.size() - suffix.size()
                                                 : std::string_view::npos;
    if (at == std::string_view::npos || at == 0) continue;
    return std::string(tensor.substr(0, at)) + std::string(kWeight);
  }
  return {};
}

bool StoredWeights::unneeded(const TensorEntry& tensor) const {
  if (rules_ == nullptr) return false;
  for (const char* suffix :
       {".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".prob_scale", ".output_scale"}) {
    if (tensor.name.ends_with(suffix)) return true;
  }
  constexpr std::string_view kBias = ".bias";
  constexpr size_t kMostBytes = size_t{64} << 20;
  if (!tensor.name.ends_with(kBias) || tensor.view.bytes() > kMostBytes) return false;
  const std::string module = tensor.name.substr(0, tensor.name.size() - kBias.size());
  if (checkpoint_.find(module + ".qweight") == nullptr) return false;
  const std::byte* data = tensor.view.data;
  return std::all_of(data, data + tensor.view.bytes(),
                     [](std::byte byte) { return byte == std::byte{0}; });
}

void check_stored(const std::vector<StoredCheck>& checks, base::ThreadPool& pool) {
  std::atomic<size_t> first = checks.size();
  pool.parallel_for(static_cast<int64_t>(checks.size()), [&](int64_t index, int) {
    const auto at = static_cast<size_t>(index);
    if (at > first || problem_of(checks[at]).empty()) return;
    size_t seen = first;
    while (at < seen && !first.compare_exchange_weak(seen, at)) {
    }
  });
  if (first == checks.size()) return;
  const TensorEntry& tensor = *checks[first].tensor;
  throw ModelFileError(tensor.file, problem_of(checks[first]), tensor.name, tensor.offset);
}

}  // namespace moesaic::model
