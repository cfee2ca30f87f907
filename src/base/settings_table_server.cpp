#include "base/settings_table.h"

// What the server does: sockets, limits, the protocol and the log.

namespace moesaic::base {
namespace {

using enum SettingType;
using enum SettingState;
using namespace setting_groups;

// clang-format off
constexpr SettingRow kRows[] = {
    // name, type, default, range, group, other flags, environment, state, help, works, later
    {"host", kString, "", "", kServer, "--hostname", "HOST", kActive, "Address to bind. Default is 127.0.0.1, or 0.0.0.0 inside a Kubernetes pod."},
    {"port", kInt, "8000", "0..65535", kServer, "-p", "PORT", kActive, "Port to bind; 0 picks a free one."},
    {"api-key", kStringList, "", "", kServer, "", "VLLM_API_KEY,API_KEY", kActive, "Bearer keys, comma-separated; with one set, /v1 needs it."},
    {"root-path", kString, "", "", kServer, "", "", kActive, "Path prefix that a proxy in front leaves on requests."},
    {"allowed-origins", kString, "[\"*\"]", "", kServer, "--cors-allow-origin", "CORS_ALLOW_ORIGIN", kActive, "CORS origins as a JSON list, or one origin."},
    {"allowed-methods", kString, "[\"*\"]", "", kServer, "", "", kActive, "CORS methods as a JSON list."},
    {"allowed-headers", kString, "[\"*\"]", "", kServer, "", "", kActive, "CORS headers as a JSON list."},
    {"allow-credentials", kBool, "false", "", kServer, "", "", kActive, "CORS credentials."},
    {"io-threads", kInt, "1", "1..64", kServer, "", "", kActive, "Threads that move bytes of all connections."},
    {"text-threads", kInt, "1", "1..64", kServer, "--validation-workers,--renderer-num-workers", "VALIDATION_WORKERS", kActive, "Threads that tokenise, render templates and turn tokens into text."},
    {"enable-request-id-headers", kBool, "false", "", kServer, "", "", kActive, "Echo X-Request-Id."},
    {"shutdown-timeout", kInt, "30", "0..86400", kServer, "--graceful-termination-timeout", "GRACEFUL_TERMINATION_TIMEOUT", kActive, "Seconds that running requests may take to end after SIGTERM; 0 aborts them."},
    {"stall-timeout", kFloat, "120", "0.1..", kServer, "", "", kActive, "Seconds without progress, while there is work, after which /health answers 503."},
    {"disable-log-stats", kBool, "false", "", kServer, "", "", kActive, "No line of statistics in the log every ten seconds."},
    {"disable-fastapi-docs", kBool, "false", "", kServer, "", "", kActive, "No /docs and no /openapi.json."},

    {"max-header-bytes", kInt, "64K", "1024..1M", kLimits, "", "", kActive, "All header lines of a request together; more is 431."},
    {"max-header-count", kInt, "100", "1..10000", kLimits, "--h11-max-header-count", "", kActive, "Header lines of a request; more is 431."},
    {"max-header-line", kInt, "8K", "256..64K", kLimits, "", "", kActive, "One header line, and the request line (more is 414)."},
    {"max-body-bytes", kInt, "16M", "1024..1G", kLimits, "--payload-limit", "PAYLOAD_LIMIT", kActive, "A request's body; more is 413."},
    {"header-timeout", kFloat, "60", "0.05..3600", kLimits, "", "", kActive, "Seconds until the whole header must have come; 408 after."},
    {"body-idle-timeout", kFloat, "30", "0.05..3600", kLimits, "", "", kActive, "Seconds a body may stand still; 408 after."},
    {"body-timeout", kFloat, "300", "0.05..86400", kLimits, "", "", kActive, "Seconds until the whole body must have come; 408 after."},
    {"keep-alive-timeout", kFloat, "75", "0.05..3600", kLimits, "", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", kActive, "Seconds an idle connection is kept."},
    {"write-timeout", kFloat, "60", "0.05..3600", kLimits, "", "", kActive, "Seconds a client may leave its answer unread before it counts as gone."},
    {"max-connections", kInt, "16384", "1..1000000", kLimits, "", "", kActive, "Open connections; beyond them health and metrics are answered, and everything else is 503."},
    {"max-stream-bytes", kInt, "1M", "1024..1G", kLimits, "", "", kActive, "Unread bytes of one stream; a reader slower than that is cut off and its request aborted."},
    {"max-inflight-bytes", kInt, "0", "0..1T", kLimits, "", "", kActive, "What requests and answers in flight may hold together, one of them at most half; beyond it 503. 0 = a sixteenth of this instance's memory, from 64M to 4G."},
    {"max-json-depth", kInt, "64", "4..1024", kLimits, "", "", kActive, "Nesting of a JSON body; more is 400."},
    {"max-json-nodes", kInt, "250000", "100..100000000", kLimits, "", "", kActive, "Values in a JSON body outside token id lists; more is 400."},
    {"max-prompt-bytes", kInt, "8M", "1..1G", kLimits, "", "", kActive, "Text of one prompt, checked before it is tokenised."},
    {"max-prompts", kInt, "256", "1..65536", kLimits, "--max-client-batch-size", "MAX_CLIENT_BATCH_SIZE", kActive, "Prompts of one /v1/completions request."},
    {"max-n", kInt, "128", "1..16384", kLimits, "--max-best-of", "VLLM_MAX_N_SEQUENCES,MAX_BEST_OF", kActive, "Largest n of a request."},
    {"max-stop-sequences", kInt, "64", "1..1024", kLimits, "", "MAX_STOP_SEQUENCES", kActive, "Stop strings of a request."},
    {"max-stop-bytes", kInt, "4K", "1..1M", kLimits, "", "", kActive, "Length of one stop string."},
    {"max-logit-bias", kInt, "300", "1..1000000", kLimits, "", "", kActive, "Entries of logit_bias."},
    {"max-bad-words", kInt, "1024", "1..65536", kLimits, "", "", kActive, "Entries of bad_words."},
    {"max-bad-words-bytes", kInt, "64K", "1..1M", kLimits, "", "", kActive, "Text of all bad_words of a request together."},
    {"max-logprobs", kInt, "20", "0..1000", kLimits, "--max-top-n-tokens", "MAX_TOP_N_TOKENS", kActive, "Largest logprobs, top_logprobs and prompt_logprobs."},

    {"chat-template", kString, "", "", kProtocol, "", "", kActive, "Chat template as a file or as Jinja text; default is the model's."},
    {"default-chat-template-kwargs", kJson, "", "", kProtocol, "", "", kActive, "JSON object given to every chat template."},
    {"response-role", kString, "assistant", "", kProtocol, "", "", kActive, "Role of answers."},
    {"return-tokens-as-token-ids", kBool, "false", "", kProtocol, "", "", kActive, "Token strings of logprobs become token_id:N."},
    {"enable-prompt-tokens-details", kBool, "false", "", kProtocol, "", "", kActive, "usage says how many prompt tokens came from the prefix cache."},
    {"enable-force-include-usage", kBool, "false", "", kProtocol, "", "", kActive, "Every stream ends with usage."},
    {"tool-call-parser", kString, "auto", "", kProtocol, "", "", kActive, "How tool calls are read from the model's text; auto is the form that the chat template shows.", "auto|hermes|qwen3_coder|qwen3_xml|glm45|glm47|mistral|deepseek_v3|deepseek_v31|kimi_k2|minimax|minimax_m2|granite|granite-20b-fc|jamba|llama3_json|llama4_json|llama4_pythonic|pythonic|xlam|phi4_mini_json", "Other tool call formats come later."},
    {"reasoning-parser", kString, "auto", "", kProtocol, "", "", kActive, "How a model's reasoning is told from its answer; auto is the form that the chat template shows, none leaves it in the answer.", "auto|none|qwen3|deepseek_r1|deepseek_v3|glm45|minimax|minimax_m2|step3|ernie45|mistral|granite", "Other forms of reasoning come later."},
    {"chat-template-content-format", kString, "auto", "auto|string|openai", kProtocol, "", "", kActive, "Whether templates see message content as a string or as parts; auto gives what the template shows."},
    {"enable-tokenizer-info-endpoint", kBool, "false", "", kProtocol, "", "", kActive, "/tokenizer_info answers with tokenizer_config.json and the chat template."},
    {"logprobs-mode", kString, "raw_logprobs", "processed_logits|processed_logprobs|raw_logits|raw_logprobs", kProtocol, "", "", kActive, "What logprobs are made of.", "raw_logprobs", "Other log-probabilities come later."},
    {"structured-outputs-config", kJson, "", "", kProtocol, "", "", kActive, "disable_any_whitespace: JSON without blanks between its parts; disable_additional_properties: objects have what their schema lists; other members have no effect."},
    {"guided-decoding-disable-any-whitespace", kBool, "false", "", kProtocol, "", "", kActive, "As disable_any_whitespace of --structured-outputs-config."},
    {"guided-decoding-disable-additional-properties", kBool, "false", "", kProtocol, "", "", kActive, "As disable_additional_properties of --structured-outputs-config."},

    {"log-level", kString, "info", "", kLogging, "", "VLLM_LOGGING_LEVEL,LOG_LEVEL", kActive, "trace, debug, info, warning, error, critical or off."},
    {"enable-log-requests", kBool, "false", "", kLogging, "", "", kActive, "One line per request: id, sizes, timing. Never its text."},
    {"json-output", kBool, "false", "", kLogging, "", "JSON_OUTPUT", kActive, "Log lines as JSON objects of time, level and message; the greeting is one too."},
};
// clang-format on

}  // namespace

std::span<const SettingRow> server_rows() { return kRows; }

}  // namespace moesaic::base
