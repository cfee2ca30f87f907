#pragma once

#include <cstdint>
#include <string>

namespace moesaic::server {

/// An address that is ours, and on which nobody listens yet: whoever connects is refused. So a
/// start finds out at once that a port is taken, and a probe cannot take a model that loads for a
/// ready one.
class BoundAddress {
 public:
  /// Throws UnavailableError, which names the address, when it cannot be had, and OsError without a
  /// descriptor for it. Port 0 is any free one.
  BoundAddress(const std::string& host, uint16_t port);
  ~BoundAddress();
  BoundAddress(BoundAddress&& other) noexcept;
  BoundAddress& operator=(BoundAddress&& other) noexcept;

  uint16_t port() const { return port_; }
  /// Begins to listen and gives the socket up; its family is in `ipv6`. Throws as the constructor.
  int listen(bool& ipv6);

 private:
  [[noreturn]] void fail(const char* step, int error) const;

  std::string name_;  ///< "127.0.0.1:8000", for messages
  int fd_ = -1;
  uint16_t port_ = 0;
  bool ipv6_ = false;
};

}  // namespace moesaic::server
