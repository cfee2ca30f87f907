#include "server/byte_budget.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace moesaic::server {

namespace {

/// Whether `more` can be added to `used`, by one that has `own` then.
bool has_room(size_t limit, size_t used, size_t more, size_t own) {
  return used + more <= limit && own <= limit - used - more;
}

}  // namespace

/// `own`: what the request will hold with `more`.
bool ByteBudget::take(size_t more, size_t own, bool for_answer) {
  size_t used = used_;
  do {
    if (!has_room(limit_, used, more, own) ||
        (!for_answer && !has_room(request_limit(), requests_, more, own))) {
      on_refusal_();
      return false;
    }
  } while (!used_.compare_exchange_weak(used, used + more));
  if (!for_answer) requests_ += more;
  return true;
}

void ByteBudget::give_back(size_t bytes, bool for_answer) {
  if (!for_answer) requests_ -= bytes;
  used_ -= bytes;
}

ByteShare::ByteShare(std::shared_ptr<ByteBudget> budget) {
  if (budget) request_ = std::make_shared<Request>(std::move(budget));
}

ByteShare::ByteShare(ByteShare&& other) noexcept
    : request_(std::move(other.request_)),
      answer_(other.answer_),
      bytes_(std::exchange(other.bytes_, 0)) {}

ByteShare& ByteShare::operator=(ByteShare&& other) noexcept {
  if (this == &other) return *this;
  shrink(bytes_);
  request_ = std::move(other.request_);
  answer_ = other.answer_;
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

bool ByteShare::try_resize(size_t bytes) {
  if (bytes <= bytes_) {
    shrink(bytes_ - bytes);
    return true;
  }
  if (request_) {
    const size_t more = bytes - bytes_;
    if (!request_->budget->take(more, request_->bytes + more, answer_)) return false;
    request_->bytes += more;
  }
  bytes_ = bytes;
  return true;
}

void ByteShare::resize(size_t bytes) {
  if (try_resize(bytes)) return;
  const size_t most = request_->budget->most(answer_);
  if (request_->bytes + bytes - bytes_ > most) {
    throw base::RequestError(
        400, "BadRequestError",
        fmt::format("this request would hold more than {} bytes, the most that "
                    "--max-inflight-bytes leaves to one; send less text, or ask for fewer choices, "
                    "tokens or logprobs",
                    most));
  }
  throw base::RequestError(503, "ServiceUnavailableError", std::string(kNoRoom));
}

void ByteShare::shrink(size_t bytes) {
  bytes = std::min(bytes, bytes_);
  bytes_ -= bytes;
  if (!request_) return;
  request_->bytes -= bytes;
  request_->budget->give_back(bytes, answer_);
}

ByteShare ByteShare::another(size_t bytes) const {
  ByteShare share;
  share.request_ = request_;
  share.answer_ = answer_;
  share.resize(bytes);
  return share;
}

ByteShare ByteShare::for_answer() const {
  ByteShare share;
  share.request_ = request_;
  share.answer_ = true;
  return share;
}

}  // namespace moesaic::server
