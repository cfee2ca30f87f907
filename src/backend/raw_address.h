#pragma once

// For the backends alone: what an Address stands for.

#include "backend/address.h"

namespace moesaic::backend {

struct RawAddress {
  static Address of(const void* pointer) {
    Address address;
    address.at_ = reinterpret_cast<uintptr_t>(pointer);
    return address;
  }
  template <typename T = std::byte>
  static T* pointer(Address address) {
    return reinterpret_cast<T*>(address.at_);  // NOLINT(performance-no-int-to-ptr): a device's too
  }
};

}  // namespace moesaic::backend
