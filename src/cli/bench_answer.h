#pragma once

// What a server streams as an answer: server-sent events, and in them the chunks of the OpenAI
// protocol as ours, vLLM, TGI and llama.cpp send them. Of `bench serve`.

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::cli {

/// Why a request counts as failed, in a few words that failures of one kind share.
class RequestFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Cuts a stream into events. Lines end in LF or CR LF; what is not `data` is passed over.
class EventStream {
 public:
  static constexpr size_t kMaxEvent = size_t{1} << 20;  ///< bytes

  /// Takes bytes as they come and calls `take` with the data of each event they complete. Throws
  /// RequestFailure when an event is larger than kMaxEvent.
  void feed(std::string_view bytes, const std::function<void(std::string_view)>& take);

 private:
  void end_line(const std::string& line, const std::function<void(std::string_view)>& take);

  std::string line_;
  std::string data_;
  bool has_data_ = false;
};

/// One answer while it comes. Times are seconds since its request began.
class StreamedAnswer {
 public:
  /// `max_tokens`: what was asked for. Far more events than that are a failure.
  explicit StreamedAnswer(int64_t max_tokens) : max_tokens_(max_tokens) {}

  /// Takes the data of one event. Throws RequestFailure when it is no chunk or reports an error.
  void take(std::string_view data, double now);

  /// Nothing more is to come.
  bool done() const { return done_; }
  /// Throws RequestFailure unless the answer came to its end.
  void check_complete() const;

  /// Events that brought a token, with text or without.
  int64_t token_events() const { return token_events_; }
  double first_token() const { return first_token_; }
  double last_token() const { return last_token_; }
  double end() const { return end_; }  ///< of the last event
  /// Between events that brought tokens.
  const std::vector<float>& gaps() const { return gaps_; }
  /// As the server counts them; nothing when it did not say.
  std::optional<int64_t> prompt_tokens() const { return prompt_tokens_; }
  std::optional<int64_t> output_tokens() const { return output_tokens_; }

 private:
  void take_token(double now);

  int64_t max_tokens_;
  bool done_ = false, finished_ = false;
  int64_t token_events_ = 0;
  double first_token_ = 0, last_token_ = 0, end_ = 0;
  std::vector<float> gaps_;
  std::optional<int64_t> prompt_tokens_, output_tokens_;
};

/// The message of an error's body: {"error":{"message":...}}, {"error":"..."}, {"message":...} or
/// plain text. Fit for a terminal, cut to a line.
std::string error_message(std::string_view body);

}  // namespace moesaic::cli
