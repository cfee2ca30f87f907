#pragma once

// What joins the ranks of a model: collectives in the order of the backend's operators. Every rank
// makes the same calls in the same order. parallel/ has those of several ranks.

#include <cstdint>

#include "backend/address.h"
#include "tensor/dtype.h"

namespace moesaic::backend {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int64_t ranks() const = 0;
  virtual int64_t rank() const = 0;

  /// Replaces `count` elements at `values` by their sums over all ranks, added in rank order.
  virtual void all_reduce(Address values, int64_t count, tensor::DType dtype) = 0;
};

/// One rank alone.
class SoloCommunicator final : public Communicator {
 public:
  int64_t ranks() const override { return 1; }
  int64_t rank() const override { return 0; }
  void all_reduce(Address, int64_t, tensor::DType) override {}
};

}  // namespace moesaic::backend
