#pragma once

// Memory of a backend. It may be a device's, so nothing outside src/backend can follow an address:
// it is a type of its own, and the header that opens it, raw_address.h, is refused elsewhere by
// scripts/check_layers.py.

#include <cstddef>
#include <cstdint>
#include <memory>

namespace moesaic::backend {

/// A place in a backend's memory; the default is none.
class Address {
 public:
  constexpr Address() = default;
  explicit operator bool() const { return at_ != 0; }
  Address operator+(size_t bytes) const {
    Address moved = *this;
    moved.at_ += bytes;
    return moved;
  }
  /// Bytes from `other` to this.
  ptrdiff_t operator-(Address other) const { return static_cast<ptrdiff_t>(at_ - other.at_); }
  bool operator==(const Address&) const = default;

 private:
  friend struct RawAddress;
  uintptr_t at_ = 0;
};

/// Memory that Backend::allocate gave; given back at the end. Movable only. The backend outlives
/// it.
class Buffer {
 public:
  /// What gives the memory back.
  class Owner {
   public:
    virtual ~Owner() = default;
  };

  Buffer() = default;
  Buffer(Address address, size_t size, std::unique_ptr<Owner> owner)
      : address_(address), size_(size), owner_(std::move(owner)) {}

  Address address() const { return address_; }
  size_t size() const { return size_; }

 private:
  Address address_;
  size_t size_ = 0;
  std::unique_ptr<Owner> owner_;
};

/// Bytes of memory that a backend's device has, and those that nobody has yet.
struct MemoryInfo {
  uint64_t total = 0;
  uint64_t free = 0;
};

}  // namespace moesaic::backend
