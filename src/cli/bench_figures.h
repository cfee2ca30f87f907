#pragma once

// What a run of `bench serve` is summed up in.

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench_answer.h"

namespace moesaic::cli {

/// Times of one kind. Beyond kKept of them the percentiles are those of that many drawn at random
/// from all, each as likely as any other; mean and count stay exact.
class Samples {
 public:
  static constexpr size_t kKept = size_t{1} << 20;

  void add(double value);
  int64_t count() const { return count_; }
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }
  /// At each of `shares` in [0, 1], between the two nearest samples where it falls between them.
  /// There must be a sample.
  std::vector<double> percentiles(const std::vector<double>& shares) const;

 private:
  std::vector<float> kept_;
  int64_t count_ = 0;
  double sum_ = 0;
  std::mt19937_64 random_{1};
};

/// Failures by reason. A server that words each of its errors anew gets one row for the rest.
class Failures {
 public:
  static constexpr size_t kReasons = 20;

  void add(const std::string& reason);
  int64_t count() const { return count_; }
  /// The most frequent first.
  std::vector<std::pair<std::string, int64_t>> rows() const;

 private:
  std::map<std::string, int64_t> reasons_;
  int64_t count_ = 0;
};

/// All of a run. Times in seconds.
struct LoadFigures {
  int64_t completed = 0;
  Failures failures;
  int64_t prompt_tokens = 0, output_tokens = 0;
  int64_t asked_tokens = 0;   ///< of the completed: output tokens that they were asked for
  int64_t without_usage = 0;  ///< answers whose tokens the server did not count
  int64_t peak_in_flight = 0;
  double seconds = 0;  ///< from the first request to the last answer
  double late = 0;     ///< the most that a request began after it was due
  bool interrupted = false;
  Samples ttft;  ///< from the beginning of a request, which may have to connect, to its first token
  Samples tpot;  ///< (last token - first) / (tokens - 1), of each answer with two or more
  Samples itl;   ///< between one event with tokens and the next
  Samples e2e;   ///< to the end of the answer

  /// A complete answer to a request that asked for `asked` tokens; `prompt` is the length of its
  /// prompt where that is known.
  void add(const StreamedAnswer& answer, int64_t asked, std::optional<int64_t> prompt);
};

/// What was run, for the head of a report.
struct LoadTitle {
  std::string url, model, endpoint;
  int64_t requests = 0;
  int64_t concurrency = 0;  ///< 0: a rate instead
  double rate = 0;          ///< requests per second
};

std::string load_report(const LoadTitle& title, const LoadFigures& figures);
/// The same as one JSON object; times in milliseconds.
std::string load_json(const LoadTitle& title, const LoadFigures& figures);

}  // namespace moesaic::cli
