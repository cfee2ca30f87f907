#include "server/bound_address.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "base/error.h"

namespace moesaic::server {
namespace {

std::string remedy(const char* step, const std::string& name, const char* problem) {
  return fmt::format("cannot {} {}: {}; choose another --host or --port", step, name, problem);
}

}  // namespace

void BoundAddress::fail(const char* step, int error) const {
  if (fd_ >= 0) ::close(fd_);
  if (error == EMFILE || error == ENFILE) {
    throw base::OsError(fmt::format("cannot {} {}", step, name_), error);
  }
  throw base::UnavailableError(remedy(step, name_, std::strerror(error)));
}

BoundAddress::BoundAddress(const std::string& host, uint16_t port)
    : name_(host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                                : fmt::format("[{}]:{}", host, port)) {
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int problem = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (problem == EAI_SYSTEM) fail("find the address", errno);
  if (problem != 0) {
    throw base::UnavailableError(remedy("find the address", name_, ::gai_strerror(problem)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> list(found, ::freeaddrinfo);
  ipv6_ = found->ai_family == AF_INET6;
  fd_ = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd_ < 0) fail("open a socket for", errno);
  // A restarted server must not wait for the old connections' TIME_WAIT.
  const int on = 1;
  ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd_, found->ai_addr, found->ai_addrlen) != 0) fail("bind", errno);
  sockaddr_storage bound = {};
  socklen_t size = sizeof bound;
  if (::getsockname(fd_, reinterpret_cast<sockaddr*>(&bound), &size) != 0) fail("bind", errno);
  port_ = ntohs(ipv6_ ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                      : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
}

BoundAddress::~BoundAddress() {
  if (fd_ >= 0) ::close(fd_);
}

BoundAddress::BoundAddress(BoundAddress&& other) noexcept
    : name_(std::move(other.name_)),
      fd_(std::exchange(other.fd_, -1)),
      port_(other.port_),
      ipv6_(other.ipv6_) {}

BoundAddress& BoundAddress::operator=(BoundAddress&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(fd_, other.fd_);
  std::swap(port_, other.port_);
  std::swap(ipv6_, other.ipv6_);
  return *this;
}

int BoundAddress::listen(bool& ipv6) {
  if (::listen(fd_, SOMAXCONN) != 0) {
    throw base::UnavailableError(remedy("listen on", name_, std::strerror(errno)));
  }
  ipv6 = ipv6_;
  return std::exchange(fd_, -1);
}

}  // namespace moesaic::server
