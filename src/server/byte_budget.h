#pragma once

// A bound on the bytes that requests and answers in flight hold together (--max-inflight-bytes):
// bodies, what is read from them, prompts, answers in the making, and bytes that wait to be sent.

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

namespace moesaic::server {

/// What a client is told when there is no room now.
inline constexpr std::string_view kNoRoom =
    "requests and answers in flight hold all of --max-inflight-bytes; try again later";

class ByteBudget {
 public:
  /// `on_refusal` is called, on any thread, whenever a share could not have what it wanted.
  explicit ByteBudget(
      size_t limit, std::function<void()> on_refusal = [] {})
      : limit_(limit), on_refusal_(std::move(on_refusal)) {}

  size_t limit() const { return limit_; }
  size_t used() const { return used_; }
  /// The most that one can ever hold, with its answer or without.
  size_t most(bool with_answer) const { return (with_answer ? limit_ : request_limit()) / 2; }

 private:
  friend class ByteShare;
  size_t request_limit() const { return limit_ / 4 * 3; }
  bool take(size_t more, size_t own, bool for_answer);
  void give_back(size_t bytes, bool for_answer);

  const size_t limit_;
  const std::function<void()> on_refusal_;
  std::atomic<size_t> used_{0};
  std::atomic<size_t> requests_{0};  ///< the part of it that is for requests and not for answers
};

/// A part of what one request holds; goes back with its end. A share is used by one thread at a
/// time, the shares of a request by several.
///
/// A request may hold as much as is then left free: one alone half of the budget, two a third each.
/// So the large ones never take everything, and a small one finds room. For requests without their
/// answers the budget is three quarters of what it is, so that however many have come in, they can
/// be answered.
class ByteShare {
 public:
  ByteShare() = default;  ///< of no budget: counts nothing and has all it wants
  /// The first share of a request.
  explicit ByteShare(std::shared_ptr<ByteBudget> budget);
  ~ByteShare() { shrink(bytes_); }
  ByteShare(ByteShare&& other) noexcept;
  ByteShare& operator=(ByteShare&& other) noexcept;

  size_t bytes() const { return bytes_; }
  /// False when there is no room; then nothing has changed.
  bool try_resize(size_t bytes);
  /// Throws RequestError when there is no room: 503, or 400 when there never will be.
  void resize(size_t bytes);
  void grow(size_t bytes) { resize(bytes_ + bytes); }
  void shrink(size_t bytes);
  /// Another share of the same request, of `bytes`; throws as resize() does.
  ByteShare another(size_t bytes = 0) const;
  /// Another share of the same request, for its answer.
  ByteShare for_answer() const;

 private:
  struct Request {
    std::shared_ptr<ByteBudget> budget;
    std::atomic<size_t> bytes{0};
  };
  std::shared_ptr<Request> request_;
  bool answer_ = false;
  size_t bytes_ = 0;
};

}  // namespace moesaic::server
