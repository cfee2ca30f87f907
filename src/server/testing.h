#pragma once

// For the server's tests: a server over a real engine whose model is a toy, a byte-level tokenizer
// in a temporary folder, and a client that speaks raw bytes.

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/executor_testing.h"
#include "server/server.h"

namespace moesaic::server::testing {

using namespace std::chrono_literals;
namespace json = boost::json;

inline constexpr int32_t kVocab = 512;
inline constexpr int32_t kEos = 258;

/// A model whose next token is a function of the last one and its position: bytes 'a' to 'z' in
/// turn, unless a script says what comes at a position.
class ToyExecutor : public engine::TestExecutor {
 public:
  struct Knobs {
    std::atomic<int> step_microseconds{200};
    std::atomic<bool> closed{false};  ///< steps wait until it is false
    std::atomic<bool> broken{false};  ///< the next step throws
    std::mutex mutex;
    int64_t script_from = 0;      ///< position of the first scripted token
    std::vector<int32_t> script;  ///< then EOS

    void play(int64_t from, std::string_view text) {
      std::lock_guard lock(mutex);
      script_from = from;
      script.clear();
      for (const char c : text) script.push_back(static_cast<unsigned char>(c));
    }
  };
  ToyExecutor(std::shared_ptr<Knobs> knobs, int64_t vocab)
      : knobs_(std::move(knobs)), vocab_(vocab) {}

  void compute(const engine::StepBatch& batch, const Choose& choose) override {
    std::this_thread::sleep_for(std::chrono::microseconds(knobs_->step_microseconds));
    while (knobs_->closed) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (knobs_->broken) throw std::runtime_error("the toy is broken");
    for (const int32_t token : batch.token_ids) {
      for (const int64_t layer : {0, 1}) count(2, 4, layer, token & 3);
    }
    std::vector<float> logits(static_cast<size_t>(vocab_));
    for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
      const auto row = static_cast<size_t>(batch.logit_rows[i]);
      std::fill(logits.begin(), logits.end(), 0.0F);
      logits[static_cast<size_t>(next(batch.token_ids[row], batch.positions[row]))] = 20.0F;
      choose(i, logits);
    }
  }
  int64_t vocab_size() const override { return vocab_; }

 private:
  int32_t next(int32_t token, int32_t position) {
    std::lock_guard lock(knobs_->mutex);
    if (!knobs_->script.empty()) {
      const int64_t at = position + 1 - knobs_->script_from;
      if (at >= 0 && at < static_cast<int64_t>(knobs_->script.size())) {
        return knobs_->script[static_cast<size_t>(at)];
      }
      return kEos;
    }
    return 'a' + (token + position) % 26;
  }
  std::shared_ptr<Knobs> knobs_;
  int64_t vocab_;
};

/// A tokenizer with one token per byte, and a chat template in the style of ChatML.
class ByteModelFolder {
 public:
  ByteModelFolder() {
    char name[] = "/tmp/moesaic-server-test-XXXXXX";
    path_ = ::mkdtemp(name);
    write("tokenizer.json", json::serialize(tokenizer()));
    write("tokenizer_config.json",
          json::serialize(json::object{{"eos_token", "<|im_end|>"},
                                       {"chat_template", kTemplate},
                                       {"tokenizer_class", "PreTrainedTokenizerFast"}}));
  }
  ~ByteModelFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  static constexpr const char* kTemplate =
      "{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
      "<|im_end|>\n{% endif %}"
      "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
      "{%- for call in message.tool_calls or [] %}{{ call.function.arguments.town }}{% endfor %}"
      "<|im_end|>\n{% endfor %}"
      "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
      "{%- if shout is defined %}{{ shout }}{% endif %}";

  /// The letter that stands for a byte in byte-level vocabularies.
  static std::string letter(int byte) {
    int code = byte;
    const bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    if (!plain) {
      code = 256;
      for (int other = 0; other < byte; ++other) {
        code += !((other >= 33 && other <= 126) || (other >= 161 && other <= 172) || other >= 174);
      }
    }
    if (code < 0x80) return std::string(1, static_cast<char>(code));
    return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
  }

  static json::object tokenizer() {
    json::object vocab;
    for (int byte = 0; byte < 256; ++byte) vocab[letter(byte)] = byte;
    json::array added;
    int id = 256;
    for (const char* text : {"<|im_start|>", "<|im_middle|>", "<|im_end|>"}) {
      added.push_back(json::object{{"id", id++},
                                   {"content", text},
                                   {"single_word", false},
                                   {"lstrip", false},
                                   {"rstrip", false},
                                   {"normalized", false},
                                   {"special", true}});
    }
    const json::object level{{"type", "ByteLevel"},
                             {"add_prefix_space", false},
                             {"trim_offsets", true},
                             {"use_regex", false}};
    return {{"version", "1.0"},
            {"truncation", nullptr},
            {"padding", nullptr},
            {"added_tokens", added},
            {"normalizer", nullptr},
            {"pre_tokenizer", level},
            {"post_processor", nullptr},
            {"decoder", level},
            {"model", json::object{{"type", "BPE"},
                                   {"dropout", nullptr},
                                   {"unk_token", nullptr},
                                   {"continuing_subword_prefix", nullptr},
                                   {"end_of_word_suffix", nullptr},
                                   {"fuse_unk", false},
                                   {"byte_fallback", false},
                                   {"vocab", vocab},
                                   {"merges", json::array{}}}}};
  }

  void write(const char* name, const std::string& text) { std::ofstream(path_ / name) << text; }

  std::filesystem::path path_;
};

using TestSettings = std::vector<std::pair<const char*, const char*>>;

/// A running server.
class Rig {
 public:
  /// `vocab`: ids of the model; at least those of ASCII. The tokenizer always has 259.
  explicit Rig(const TestSettings& extra = {}, bool with_text = true, int64_t vocab = kVocab) {
    base::Settings settings;
    settings.set("port", "0", "test");
    settings.set("max-num-seqs", "32", "test");
    settings.set("max-inflight-bytes", "1G", "test");
    for (const auto& [name, value] : extra) settings.set(name, value, "test");
    engine::EngineOptions options;
    options.num_blocks = 4096;
    options.max_rows = 512;
    options.max_sequences = settings.get_int("max-num-seqs");
    options.max_model_len = 4096;
    options.eos_ids = {kEos};
    metrics = std::make_shared<base::Metrics>(
        base::Metrics::Labels{{"model_name", "toy"}, {"engine", "0"}}, 4096);
    engine = std::make_shared<engine::Engine>(options, std::make_unique<ToyExecutor>(knobs, vocab),
                                              make_observer(metrics));
    ServedModel model;
    model.names = {"toy", "toy-too", "org/toy"};
    model.root = "/models/toy";
    model.max_model_len = options.max_model_len;
    model.spec.vocab_size = vocab;
    model.spec.eos_ids = options.eos_ids;
    // The toy counts experts of two layers; before them, as in DeepSeek's models, is a dense one.
    model.spec.layers.resize(3);
    for (const size_t layer : {1, 2}) {
      model.spec.layers[layer].ffn.moe = true;
      model.spec.layers[layer].ffn.experts = 4;
      model.spec.layers[layer].ffn.router.top_k = 1;
    }
    model.tokenizer_info = R"({"tokenizer_class":"Bytes"})";
    if (with_text) {
      model.tokenizer = text::Tokenizer::load(folder.path());
      model.chat_template =
          text::ChatTemplate::load(folder.path(), settings.get_string("chat-template"));
    }
    server = std::make_unique<Server>(settings, bind_address(settings), model, engine, metrics);
    thread = std::thread([this] {
      try {
        server->run();
        exit_code = 0;
      } catch (const base::Error& error) {
        exit_code = static_cast<int>(error.exit_code());
      }
    });
  }
  ~Rig() {
    server->shutdown();
    if (thread.joinable()) thread.join();
  }

  /// Until `condition`, at most `limit`.
  template <typename Condition>
  static bool eventually(Condition condition, std::chrono::milliseconds limit = 5s) {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (std::chrono::steady_clock::now() < end) {
      if (condition()) return true;
      std::this_thread::sleep_for(2ms);
    }
    return condition();
  }
  bool all_blocks_back() const {
    const engine::EngineStats stats = engine->stats();
    return stats.running == 0 && stats.waiting == 0 && stats.blocks_held == 0;
  }

  ByteModelFolder folder;
  std::shared_ptr<ToyExecutor::Knobs> knobs = std::make_shared<ToyExecutor::Knobs>();
  std::shared_ptr<base::Metrics> metrics;
  std::shared_ptr<engine::Engine> engine;
  std::unique_ptr<Server> server;
  int exit_code = -1;  ///< what the process would end with; valid once `thread` is joined
  std::thread thread;
};

/// An answer as it came.
struct Answer {
  int status = 0;  ///< 0 = none came
  std::string head;
  std::string body;
  bool closed = false;  ///< the server closed the connection after it

  json::value value() const { return json::parse(body); }
  std::string header(const std::string& name) const {
    const size_t at = head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "";
    const size_t start = at + name.size() + 4;
    return head.substr(start, head.find("\r\n", start) - start);
  }
};

/// A connection that speaks raw bytes.
class Client {
 public:
  explicit Client(uint16_t port, int receive_buffer = 0) {
    socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer > 0) {
      ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    }
    const int one = 1;
    ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) close();
  }
  ~Client() { close(); }
  Client(Client&& other) noexcept : socket_(std::exchange(other.socket_, -1)) {}

  bool connected() const { return socket_ >= 0; }
  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  void reset() {
    const linger hard = {1, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close();
  }
  void half_close() const { ::shutdown(socket_, SHUT_WR); }

  /// False when the server no longer takes bytes.
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  /// False at the end of the stream or after `limit`.
  bool receive(std::chrono::milliseconds limit = 10s) {
    pollfd waiting = {socket_, POLLIN, 0};
    if (::poll(&waiting, 1, static_cast<int>(limit.count())) <= 0) return false;
    char buffer[65536];
    const ssize_t size = ::recv(socket_, buffer, sizeof buffer, 0);
    if (size <= 0) {
      ended_ = true;
      return false;
    }
    inbox_.append(buffer, static_cast<size_t>(size));
    return true;
  }
  /// True when the server closes within `limit`.
  bool closes(std::chrono::milliseconds limit = 5s) {
    while (receive(limit)) {
    }
    return ended_;
  }
  bool wait_for(std::string_view text, std::chrono::milliseconds limit = 10s) {
    while (inbox_.find(text) == std::string::npos) {
      if (!receive(limit)) return false;
    }
    return true;
  }

  /// Reads one answer, its body unchunked.
  Answer answer(bool head_request = false, std::chrono::milliseconds limit = 20s) {
    Answer out;
    if (!wait_for("\r\n\r\n", limit)) {
      out.closed = ended_;
      return out;
    }
    const size_t end = inbox_.find("\r\n\r\n") + 4;
    out.head = inbox_.substr(0, end);
    inbox_.erase(0, end);
    out.status = std::atoi(out.head.c_str() + 9);
    if (out.status == 100) return answer(head_request, limit);
    if (out.header("Transfer-Encoding") == "chunked") {
      read_chunks(out, limit);
    } else if (!head_request) {
      const auto size = static_cast<size_t>(std::atoll(out.header("Content-Length").c_str()));
      while (inbox_.size() < size && receive(limit)) {
      }
      out.body = inbox_.substr(0, size);
      inbox_.erase(0, size);
    }
    return out;
  }

  std::string& inbox() { return inbox_; }

 private:
  void read_chunks(Answer& out, std::chrono::milliseconds limit) {
    for (;;) {
      if (!wait_for("\r\n", limit)) return;
      const size_t line = inbox_.find("\r\n");
      const size_t size = std::strtoul(inbox_.c_str(), nullptr, 16);
      while (inbox_.size() < line + 4 + size) {
        if (!receive(limit)) return;
      }
      out.body += inbox_.substr(line + 2, size);
      inbox_.erase(0, line + 4 + size);
      if (size == 0) return;
    }
  }

  int socket_ = -1;
  std::string inbox_;
  bool ended_ = false;
};

inline std::string post(std::string_view path, std::string_view body,
                        std::string_view more_headers = "") {
  std::string out = "POST " + std::string(path) + " HTTP/1.1\r\nHost: test\r\n";
  if (more_headers.find("Content-Type") == std::string_view::npos) {
    out += "Content-Type: application/json\r\n";
  }
  out += more_headers;
  out += "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n";
  out += body;
  return out;
}

inline std::string get(std::string_view path, std::string_view more_headers = "") {
  return "GET " + std::string(path) + " HTTP/1.1\r\nHost: test\r\n" + std::string(more_headers) +
         "\r\n";
}

inline Answer ask(const Rig& rig, std::string_view bytes) {
  Client client(rig.server->port());
  client.send(bytes);
  return client.answer(bytes.starts_with("HEAD "));
}

inline Answer complete(const Rig& rig, const json::object& body) {
  return ask(rig, post("/v1/completions", json::serialize(body)));
}

inline Answer chat(const Rig& rig, const json::object& body) {
  return ask(rig, post("/v1/chat/completions", json::serialize(body)));
}

/// The first series of `name` that has all of `labels`; -1 when there is none.
inline double metric(const Rig& rig, const std::string& name,
                     const std::vector<std::string>& labels = {}) {
  std::istringstream lines(ask(rig, get("/metrics")).body);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name + "{") && !line.starts_with(name + " ")) continue;
    const bool wanted = std::all_of(labels.begin(), labels.end(), [&](const std::string& label) {
      return line.find(label) != std::string::npos;
    });
    if (wanted) return std::stod(line.substr(line.rfind(' ') + 1));
  }
  return -1;
}

/// The JSON of each event of a stream; "[DONE]" is a string.
inline std::vector<json::value> events(const std::string& body) {
  std::vector<json::value> out;
  for (size_t at = 0; at < body.size();) {
    const size_t end = body.find("\n\n", at);
    if (end == std::string::npos || body.compare(at, 6, "data: ") != 0) {
      ADD_FAILURE() << "not an event: " << body.substr(at, 80);
      break;
    }
    const std::string data = body.substr(at + 6, end - at - 6);
    out.push_back(data == "[DONE]" ? json::value(data) : json::parse(data));
    at = end + 2;
  }
  return out;
}

inline std::string text_of(const json::value& value) {
  return {value.as_string().data(), value.as_string().size()};
}

}  // namespace moesaic::server::testing
