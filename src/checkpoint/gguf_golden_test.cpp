// Unpacking of GGUF's block types against what the `gguf` package makes of the same bytes
// (tests/golden/make_gguf_golden.py).

#include <gtest/gtest.h>

#include <cmath>

#include "base/mapped_file.h"
#include "checkpoint/safetensors.h"
#include "tensor/unpack.h"

namespace moesaic::checkpoint {
namespace {

TEST(GgufGolden, EveryTypeOfBlocksMeansWhatThePackageSays) {
  const std::string path = MOESAIC_SOURCE_DIR "/tests/golden/gguf_blocks.safetensors";
  const base::MappedFile file{path};
  std::map<std::string, tensor::View> views;
  for (const TensorEntry& entry : parse_safetensors(file.bytes(), path)) {
    views.emplace(entry.name, entry.view);
  }
  for (const tensor::WeightFormat& format : tensor::block_formats()) {
    SCOPED_TRACE(format.label);
    const std::string name(format.label);
    ASSERT_TRUE(views.contains(name + ".stored"));
    tensor::Part part;
    part.values = views.at(name + ".stored");
    const tensor::View& values = views.at(name + ".values");
    const int64_t cols = values.shape[1];
    ASSERT_EQ(part.values.shape[1] / format.block_bytes * format.block_values, cols);
    std::vector<float> out(static_cast<size_t>(cols));
    for (int64_t row = 0; row < values.shape[0]; ++row) {
      tensor::unpack(format, part, row, 0, cols, out.data());
      double largest = 0;
      for (int64_t i = 0; i < cols; ++i) {
        largest = std::max(
            largest,
            std::abs(static_cast<double>(tensor::load_float(values.dtype, values.row(row), i))));
      }
      for (int64_t i = 0; i < cols; ++i) {
        // The package multiplies in another order here and there: a rounding or two.
        const float want = tensor::load_float(values.dtype, values.row(row), i);
        ASSERT_NEAR(out[static_cast<size_t>(i)], want, largest * 2e-7)
            << "row " << row << ", value " << i;
      }
    }
  }
}

}  // namespace
}  // namespace moesaic::checkpoint
