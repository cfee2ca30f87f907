// Items 1 to 38 of the catalogue of bad inputs, as one table. Each row is sent to a server whose
// limits and deadlines are small, while a control request runs beside it; the row's own outcome
// must be right, and the control must end as if nothing had happened.

#include "server/testing.h"

namespace moesaic::server::testing {
namespace {

using namespace std::string_literals;

/// What a row expects when the connection ends without an answer.
constexpr int kDropped = 0;

struct Row {
  std::string name;
  std::function<Answer(const Rig&)> act;
  int status = 400;
  std::string param = "";   ///< of the error body; "" = not looked at
  bool must_close = false;  ///< the connection must not be used any more
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.name; }

/// Sends bytes and reads the answer; notes whether the server then closes.
std::function<Answer(const Rig&)> raw(std::string bytes, bool half_close = false) {
  return [bytes = std::move(bytes), half_close](const Rig& rig) {
    Client client(rig.server->port());
    client.send(bytes);
    if (half_close) client.half_close();
    Answer answer = client.answer();
    answer.closed = client.closes(3s);
    return answer;
  };
}

std::string completion_with(const std::string& member) {
  return R"({"model":"toy","prompt":"abc","max_tokens":4,)" + member + "}";
}
std::string chat_with(const std::string& member) {
  return R"({"model":"toy","messages":[{"role":"user","content":"hi"}],"max_tokens":4,)" + member +
         "}";
}
std::string nested(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

std::function<Answer(const Rig&)> body(const std::string& text,
                                       const std::string& path = "/v1/completions") {
  return [text, path](const Rig& rig) { return ask(rig, post(path, text)); };
}

Row completion(const std::string& name, const std::string& member, const std::string& param,
               int status = 400) {
  return {name, body(completion_with(member)), status, param};
}
Row chatting(const std::string& name, const std::string& member, const std::string& param,
             int status = 400) {
  return {name, body(chat_with(member), "/v1/chat/completions"), status, param};
}
Row invalid_json(const std::string& name, const std::string& text) {
  return {name, body(text), 400, "body"};
}

std::string chunked_head() {
  return "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
         "Transfer-Encoding: chunked\r\n\r\n";
}
std::string json_head(const std::string& fields) {
  return "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n" + fields +
         "\r\n";
}

Answer slow_header(const Rig& rig) {
  Client client(rig.server->port());
  for (const char c : std::string("GET /health HTTP/1.1\r\nHost: t\r\nX: 1234567890")) {
    if (!client.send(std::string(1, c))) break;
    if (client.receive(20ms)) break;
  }
  Answer answer = client.answer();
  answer.closed = client.closes();
  return answer;
}

Answer stalled_body(const Rig& rig) {
  Client client(rig.server->port());
  client.send(json_head("Content-Length: 100\r\n") + "{");
  Answer answer = client.answer();
  answer.closed = client.closes();
  return answer;
}

/// Never idle for long, but never done: the total deadline ends it.
Answer dripping_body(const Rig& rig) {
  Client client(rig.server->port());
  client.send(json_head("Content-Length: 1000\r\n"));
  for (int i = 0; i < 1000; ++i) {
    if (!client.send(" ")) break;
    if (client.receive(50ms)) break;
  }
  Answer answer = client.answer();
  answer.closed = client.closes();
  return answer;
}

Answer tiny_chunks(const Rig& rig) {
  Client client(rig.server->port());
  const std::string text = completion_with(R"("unused":")" + std::string(100000, 'x') + "\"");
  std::string bytes = chunked_head();
  for (const char c : text) bytes += std::string("1\r\n") + c + "\r\n";
  client.send(bytes + "0\r\n\r\n");
  return client.answer();
}

/// Three requests at once: answered in order, the last closes.
Answer pipelined(const Rig& rig) {
  Client client(rig.server->port());
  client.send(get("/version") + post("/v1/completions", completion_with(R"("n":1)")) +
              get("/nowhere", "Connection: close\r\n") + get("/version"));
  EXPECT_EQ(client.answer().body, R"({"version":"0.1.0"})");
  EXPECT_EQ(client.answer().value().at("object"), "text_completion");
  Answer last = client.answer();
  last.closed = client.closes() && client.inbox().empty();
  return last;
}

Answer with_expectation(const Rig& rig) {
  Client client(rig.server->port());
  const std::string text = completion_with(R"("n":1)");
  client.send(
      json_head("Expect: 100-continue\r\nContent-Length: " + std::to_string(text.size()) + "\r\n"));
  EXPECT_TRUE(client.wait_for("100 Continue"));
  client.send(text);
  return client.answer();
}

Answer method_not_allowed(const Rig& rig) {
  Answer answer = ask(rig, get("/v1/completions"));
  EXPECT_EQ(answer.header("allow"), "POST");
  return answer;
}

std::vector<Row> http_rows() {
  const std::string long_value(9000, 'a');
  std::string many;
  for (int i = 0; i < 101; ++i) many += "A" + std::to_string(i) + ": b\r\n";
  std::string total;
  for (int i = 0; i < 12; ++i) total += "A: " + std::string(6000, 'b') + "\r\n";
  const std::string good = completion_with(R"("n":1)");
  const std::string sized = "Content-Length: " + std::to_string(good.size()) + "\r\n";
  return {
      {"01_long_header_line", raw("GET / HTTP/1.1\r\nHost: t\r\nA: " + long_value), 431, "", true},
      {"01_long_header", raw("GET / HTTP/1.1\r\nHost: t\r\n" + total + "\r\n"), 431, "", true},
      {"02_many_headers", raw("GET / HTTP/1.1\r\nHost: t\r\n" + many + "\r\n"), 431, "", true},
      {"03_long_request_line", raw("GET /" + long_value), 414, "", true},
      {"04_body_too_large", raw(json_head("Content-Length: 9999999\r\n")), 413, "", true},
      {"04_chunk_too_large", raw(chunked_head() + "FFFFFF\r\n"), 413, "", true},
      {"05_chunk_size_negative", raw(chunked_head() + "-2\r\nab\r\n0\r\n\r\n"), 400, "", true},
      {"05_chunk_size_0x", raw(chunked_head() + "0x10\r\n"), 400, "", true},
      {"05_chunk_size_plus", raw(chunked_head() + "+5\r\nhello\r\n"), 400, "", true},
      {"05_chunk_size_17_digits", raw(chunked_head() + "00000000000000001\r\n"), 400, "", true},
      {"05_chunk_lf_only", raw(chunked_head() + "5\nhello\n0\n\n"), 400, "", true},
      {"06_tiny_chunks", tiny_chunks, 200},
      {"07_length_and_chunked",
       raw(json_head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n"), 400, "",
       true},
      {"07_two_lengths", raw(json_head("Content-Length: 5\r\nContent-Length: 6\r\n") + "hello!"),
       400, "", true},
      {"08_truncated_body", raw(json_head("Content-Length: 100\r\n") + "{\"model\"", true),
       kDropped, "", true},
      {"09_slow_header", slow_header, 408, "", true},
      {"10_stalled_body", stalled_body, 408, "", true},
      {"10_dripping_body", dripping_body, 408, "", true},
      {"11_unknown_path", body("{}", "/v1/nowhere"), 404},
      {"11_wrong_method", method_not_allowed, 405},
      {"11_unknown_version", raw("GET / HTTP/3.0\r\nHost: t\r\n\r\n"), 505, "", true},
      {"11_unknown_expectation", raw(json_head("Expect: magic\r\n" + sized) + good), 417, "", true},
      {"11_100_continue", with_expectation, 200},
      {"12_form_type",
       [good](const Rig& rig) {
         return ask(rig, post("/v1/completions", good,
                              "Content-Type: application/x-www-form-urlencoded\r\n"));
       },
       415},
      {"12_json_with_charset",
       [good](const Rig& rig) {
         return ask(rig, post("/v1/completions", good,
                              "Content-Type: Application/JSON; charset=utf-8\r\n"));
       },
       200},
      {"13_gzip", raw(json_head("Content-Encoding: gzip\r\n" + sized) + good), 415, "", true},
      {"14_nul_in_header", raw("GET / HTTP/1.1\r\nHost: t\r\nA: \0\r\n\r\n"s), 400, "", true},
      {"14_cr_in_header", raw("GET / HTTP/1.1\r\nHost: t\r\nA: b\rc\r\n\r\n"), 400, "", true},
      {"14_lf_only", raw("GET / HTTP/1.1\nHost: t\n\n"), 400, "", true},
      {"14_folded", raw("GET / HTTP/1.1\r\nHost: t\r\nA: b\r\n c\r\n\r\n"), 400, "", true},
      {"14_space_before_colon", raw("GET / HTTP/1.1\r\nHost : t\r\n\r\n"), 400, "", true},
      {"15_double_slash", raw(get("//v1/models", "Connection: close\r\n")), 404},
      {"15_encoded_dots", raw(get("/v1/%2e%2e/v1/models", "Connection: close\r\n")), 401},
      {"15_dots", raw(get("/x/../v1/models", "Connection: close\r\n")), 404},
      {"15_absolute_form", raw(get("http://other/v1/models", "Connection: close\r\n")), 401},
      {"15_upper_case", raw(get("/V1/models", "Connection: close\r\n")), 404},
      {"15_trailing_slash", raw(get("/v1/models/", "Connection: close\r\n")), 401},
      {"16_pipelined", pipelined, 404, "", true},
  };
}

std::vector<Row> json_rows() {
  std::string nodes = R"("unused":[)";
  for (int i = 0; i < 5000; ++i) nodes += "{},";
  nodes += "0]";
  std::string ids = R"({"model":"toy","max_tokens":1,"prompt":[1)";
  for (int i = 0; i < 4000; ++i) ids += ",1";
  ids += "]}";
  return {
      invalid_json("17_empty", ""),
      invalid_json("17_broken", "{:"),
      {"17_not_an_object", body("[1]"), 400, "body"},
      invalid_json("18_deep", completion_with(R"("prompt2":)" + nested(65))),
      invalid_json("18_deep_and_unknown", completion_with(R"("x":{"y":)" + nested(70) + "}")),
      {"18_deep_enough", body(completion_with(R"("x":)" + nested(60))), 200},
      invalid_json("19_many_values", completion_with(nodes)),
      {"19_many_token_ids", body(ids), 200},
      invalid_json("20_name_twice", completion_with(R"("model":"toy")")),
      invalid_json("20_name_twice_inside", completion_with(R"("x":{"a":1,"a":1})")),
      invalid_json("21_nan", completion_with(R"("temperature":NaN)")),
      invalid_json("21_infinity", completion_with(R"("temperature":Infinity)")),
      invalid_json("21_1e999", completion_with(R"("temperature":1e999)")),
      {"22_beyond_int64", body(completion_with(R"("seed":9223372036854775808)")), 400, "body.seed"},
      {"22_far_beyond", body(completion_with(R"("seed":1e30)")), 400, "body.seed"},
      {"22_fraction", body(completion_with(R"("n":1.5)")), 400, "body.n"},
      invalid_json("23_invalid_utf8", completion_with("\"x\":\"\xFF\"")),
      invalid_json("23_overlong", completion_with("\"x\":\"\xC0\xAF\"")),
      invalid_json("23_cesu8", completion_with("\"x\":\"\xED\xA0\xBD\xED\xB8\x80\"")),
      invalid_json("23_gbk", completion_with("\"x\":\"\xC4\xE3\xBA\xC3\"")),
      invalid_json("24_lone_surrogate", completion_with(R"("user":"\uD83D")")),
      invalid_json("24_lone_surrogate_streaming",
                   completion_with(R"("stream":true,"user":"\uDE00")")),
      {"24_lone_surrogate_in_arguments",
       body(R"({"model":"toy","messages":[{"role":"assistant","tool_calls":[{"function":)"
            R"({"name":"f","arguments":"{\"a\":\"\\ud83d\"}"}}]}]})",
            "/v1/chat/completions"),
       400, "body.messages.0.tool_calls.0.function.arguments"},
      invalid_json("25_second_document", completion_with(R"("n":1)") + "{}"),
      invalid_json("25_comment", "/* x */" + completion_with(R"("n":1)")),
      invalid_json("25_byte_order_mark", "\xEF\xBB\xBF" + completion_with(R"("n":1)")),
      {"26_nul_in_prompt", body(R"({"model":"toy","prompt":"a\u0000b","max_tokens":1})"), 200},
      {"26_nul_in_model", body(R"({"model":"toy\u0000","prompt":"a"})"), 400, "body.model"},
      {"26_nul_in_stop", body(completion_with(R"("stop":"a\u0000")")), 400, "stop"},
  };
}

std::vector<Row> meaning_rows() {
  std::string bias = R"("logit_bias":{)";
  for (int i = 0; i < 301; ++i) bias += (i ? ",\"" : "\"") + std::to_string(i) + "\":1";
  bias += "}";
  const auto whole = [](const std::string& name, const std::string& text, const std::string& param,
                        int status = 400, const std::string& path = "/v1/completions") {
    return Row{name, body(text, path), status, param};
  };
  const std::string chat_path = "/v1/chat/completions";
  return {
      whole("27_model_of_another_type", R"({"model":1,"prompt":"a"})", "body.model"),
      whole("27_no_prompt", R"({"model":"toy"})", "prompt"),
      whole("27_empty_prompt", R"({"model":"toy","prompt":""})", "prompt"),
      whole("27_no_prompts", R"({"model":"toy","prompt":[]})", "prompt"),
      whole("27_empty_ids", R"({"model":"toy","prompt":[[]]})", "prompt"),
      whole("27_no_messages", R"({"model":"toy"})", "body.messages", 400, chat_path),
      whole("27_empty_messages", R"({"model":"toy","messages":[]})", "messages", 400, chat_path),
      whole("28_unknown_model", R"({"model":"nope","prompt":"a"})", "model", 404),
      completion("29_temperature_string", R"("temperature":"1")", "body.temperature"),
      completion("29_bool_for_int", R"("n":true)", "body.n"),
      completion("29_string_for_int", R"("seed":"7")", "body.seed"),
      completion("29_int_for_bool", R"("stream":1)", "body.stream"),
      completion("29_stop_number", R"("stop":5)", "body.stop"),
      chatting("29_tools_object", R"("tools":{})", "body.tools"),
      whole("29_messages_string", R"({"model":"toy","messages":"hi"})", "body.messages", 400,
            chat_path),
      whole("29_role_number", R"({"model":"toy","messages":[{"role":1,"content":"x"}]})",
            "body.messages.0.role", 400, chat_path),
      completion("30_temperature_negative", R"("temperature":-0.1)", "temperature"),
      completion("30_temperature_high", R"("temperature":2.01)", "temperature"),
      completion("30_top_p_zero", R"("top_p":0)", "top_p"),
      completion("30_top_p_high", R"("top_p":1.01)", "top_p"),
      completion("30_min_p_high", R"("min_p":1.5)", "min_p"),
      completion("30_top_k_negative", R"("top_k":-5)", "top_k"),
      completion("30_presence", R"("presence_penalty":9)", "presence_penalty"),
      completion("30_frequency", R"("frequency_penalty":-2.5)", "frequency_penalty"),
      completion("30_repetition", R"("repetition_penalty":0)", "repetition_penalty"),
      completion("31_n_zero", R"("n":0)", "n"),
      completion("31_n_negative", R"("n":-1)", "n"),
      completion("31_n_huge", R"("n":1000000000)", "n"),
      completion("31_best_of_huge", R"("best_of":1000000000)", "best_of"),
      completion("31_best_of_ignored", R"("best_of":2)", "", 200),
      whole("32_max_tokens_zero", R"({"model":"toy","prompt":"a","max_tokens":0})", "max_tokens"),
      whole("32_max_tokens_negative", R"({"model":"toy","prompt":"a","max_tokens":-1})",
            "max_tokens"),
      whole("32_max_tokens_2_31", R"({"model":"toy","prompt":"a","max_tokens":2147483648})",
            "max_tokens"),
      whole("32_max_tokens_2_63",
            R"({"model":"toy","prompt":"a","max_tokens":9223372036854775808})", "body.max_tokens"),
      whole("33_prompt_too_long", R"({"model":"toy","prompt":")" + std::string(5000, 'a') + "\"}",
            "input_tokens"),
      // Longer than any 4096 tokens could be, so it is not even tokenised.
      whole("34_more_than_the_context_can_hold",
            R"({"model":"toy","prompt":")" + std::string(100000, 'a') + "\"}", "input_tokens"),
      whole("34_prompt_bytes", R"({"model":"toy","prompt":")" + std::string(300000, 'a') + "\"}",
            "prompt"),
      completion("35_bias_outside", R"("logit_bias":{"99999":1})", "logit_bias"),
      completion("35_bias_no_number", R"("logit_bias":{"x":1})", "logit_bias"),
      completion("35_bias_many", bias, "logit_bias"),
      completion("35_bias_high", R"("logit_bias":{"5":101})", "logit_bias"),
      completion("35_bias_twice", R"("logit_bias":{"5":1,"05":1})", "logit_bias"),
      completion("35_bias_string", R"("logit_bias":{"5":"1"})", "body.logit_bias"),
      whole("36_id_negative", R"({"model":"toy","prompt":[-1]})", "body.prompt.0"),
      whole("36_ids_longer_than_the_context",
            R"({"model":"toy","prompt":[1)" + repeated(",1", 4095) + "]}", "input_tokens"),
      completion("list_of_allowed_ids_longer_than_the_vocabulary",
                 R"("allowed_token_ids":[1)" + repeated(",1", 512) + "]", "allowed_token_ids"),
      completion("list_of_stop_ids_longer_than_the_vocabulary",
                 R"("stop_token_ids":[1)" + repeated(",1", 512) + "]", "stop_token_ids"),
      completion("list_of_ids_twice", R"("allowed_token_ids":[98,97,98],"stop_token_ids":[3,3])",
                 "", 200),
      completion("list_of_allowed_ids_empty", R"("allowed_token_ids":[])", "allowed_token_ids"),
      completion("list_of_bad_words_long", R"("bad_words":["a")" + repeated(",\"a\"", 1024) + "]",
                 "bad_words"),
      completion("list_of_bad_words_of_many_bytes",
                 R"("bad_words":["a",")" + std::string(65536, 'b') + "\"]", "bad_words"),
      completion("list_of_bad_words_twice", R"("bad_words":["a","b","a"])", "", 200),
      whole("36_id_outside", R"({"model":"toy","prompt":[1,512]})", "prompt"),
      whole("36_id_fraction", R"({"model":"toy","prompt":[1,1.5]})", "body.prompt.1"),
      completion("37_stop_empty", R"("stop":[""])", "stop"),
      completion("37_stop_many", R"("stop":["a")" + repeated(R"(,"a")", 64) + "]", "stop"),
      completion("37_stop_long", R"("stop":")" + std::string(100000, 'x') + "\"", "stop"),
      completion("37_stop_no_string", R"("stop":[1])", "body.stop"),
      completion("38_logprobs_high", R"("logprobs":21)", "logprobs"),
      completion("38_prompt_logprobs_high", R"("prompt_logprobs":21)", "prompt_logprobs"),
      chatting("38_top_logprobs_high", R"("logprobs":true,"top_logprobs":21)", "top_logprobs"),
      chatting("38_top_logprobs_alone", R"("top_logprobs":2)", "top_logprobs"),
      // Roles and ids of calls are the template's to refuse; they are names all the same.
      whole("39_role_of_its_own",
            R"({"model":"toy","messages":[{"role":"critic","content":"x"}],"max_tokens":1})", "",
            200, chat_path),
      whole("39_role_empty", R"({"model":"toy","messages":[{"role":"","content":"x"}]})",
            "body.messages.0.role", 400, chat_path),
      whole("39_role_with_nul", R"({"model":"toy","messages":[{"role":"a\u0000","content":"x"}]})",
            "body.messages.0.role", 400, chat_path),
      whole("39_result_of_no_call",
            R"({"model":"toy","max_tokens":1,"messages":[{"role":"user","content":"a"},)"
            R"({"role":"tool","tool_call_id":"nobody","content":"x"},)"
            R"({"role":"tool","content":"x"}]})",
            "", 200, chat_path),
      whole("39_call_without_function",
            R"({"model":"toy","messages":[{"role":"assistant","tool_calls":[{"id":"a"}]}]})",
            "body.messages.0.tool_calls.0.function", 400, chat_path),
      chatting("40_schema_cycle",
               R"("response_format":{"type":"json_schema","json_schema":{"name":"a","schema":)"
               R"({"$ref":"#"}}})",
               "response_format.json_schema.schema"),
      chatting("40_schema_of_much",
               R"("response_format":{"type":"json_schema","json_schema":{"name":"a","schema":)"
               R"({"enum":[")" +
                   repeated("a", 140000) + R"("]}}})",
               "response_format.json_schema.schema"),
      chatting("40_schema_of_nothing", R"("guided_json":{"enum":[]})", "guided_json"),
      chatting("40_schema_deep",
               R"("response_format":{"type":"json_schema","json_schema":)" + nested(70) + "}",
               "body"),
      completion("40_regex_of_nothing", R"("structured_outputs":{"regex":"^+[a-z]$"})",
                 "structured_outputs.regex"),
      completion("40_regex_repeated", R"("guided_regex":"a{1,1000000000}")", "", 200),
      completion("40_grammar_deep", R"("grammar":"root ::= )" + repeated("(", 60000) + "\"",
                 "grammar"),
      chatting("42_template_names", R"("chat_template_kwargs":{"messages":[]})",
               "chat_template_kwargs"),
      completion("42_prompt_embeds", R"("prompt_embeds":"AAAA")", "prompt_embeds"),
      whole("42_file",
            R"({"model":"toy","messages":[{"role":"user","content":[{"type":"file",)"
            R"("file":{"file_id":"file:///etc/passwd"}}]}]})",
            "messages", 400, chat_path),
      whole("42_markdown_image",
            R"j({"model":"toy","prompt":"![](http://127.0.0.1:1/x)","max_tokens":1})j", "", 200),
      {"50_lora_outside",
       body(R"({"lora_name":"a","lora_path":"../../etc"})", "/v1/load_lora_adapter"), 404},
      {"52_lora_unload", body(R"({"lora_name":"a"})", "/v1/unload_lora_adapter"), 404},
      chatting("response_format_unheard", R"("response_format":{"type":"a"})", "response_format"),
      chatting("response_format_number", R"("response_format":{"type":1})",
               "body.response_format.type"),
      chatting("response_format_empty", R"("response_format":{"type":"json_schema"})",
               "response_format"),
      completion("structured_twice", R"("structured_outputs":{"regex":"a","choice":["b"]})",
                 "structured_outputs.choice"),
      completion("structured_nothing", R"("structured_outputs":{})", "structured_outputs"),
      completion("structured_and_guided", R"("structured_outputs":{"regex":"a"},"guided_json":{})",
                 "guided_json"),
      completion("choice_number", R"("guided_choice":[1])", "body.guided_choice"),
      completion("schema_number", R"("guided_json":1)", "guided_json"),
      completion("schema_no_json", R"("guided_json":"{")", "guided_json"),
      chatting("required_alone", R"("tool_choice":"required")", "tool_choice"),
      chatting("required_unknown",
               R"("tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":)"
               R"({"type":"function","function":{"name":"g"}})",
               "tool_choice"),
      chatting("required_and_format",
               R"("tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"required",)"
               R"("guided_regex":"a")",
               "guided_regex"),
      chatting("tool_schema",
               R"("tools":[{"type":"function","function":{"name":"f","parameters":)"
               R"({"type":"object","properties":{"a":{"type":"nonsense"}}}}}],)"
               R"("tool_choice":"required")",
               "tools"),
      chatting("strict_number",
               R"("tools":[{"type":"function","function":{"name":"f","strict":1}}])",
               "body.tools.0.function.strict"),
      chatting("not_strict",
               R"("tools":[{"type":"function","function":{"name":"f","strict":false}}])", "", 200),
      chatting("strict_of_no_calls",
               R"("tools":[{"type":"function","function":{"name":"f","strict":true}}],)"
               R"("tool_choice":"none")",
               "", 200),
      completion("later_token_offsets", R"("return_token_offsets":true)", "return_token_offsets"),
      completion("later_xargs", R"("vllm_xargs":{"a":1})", "vllm_xargs"),
      completion("later_encoder", R"("ec_transfer_params":{})", "ec_transfer_params"),
      completion("without_effect",
                 R"("best_of":2,"session_id":"s","length_penalty":2,"stream_interval":3,)"
                 R"("routed_experts_prompt_start":1,"mm_payload":"none","user":"u",)"
                 R"("return_mm_kwargs":false,"spaces_between_special_tokens":false)",
                 "", 200),
      completion("interval_zero", R"("stream_interval":0)", "stream_interval"),
      chatting("request_template", R"("chat_template":"{{ x }}")", "chat_template"),
      whole("image",
            R"({"model":"toy","messages":[{"role":"user","content":[{"type":"image_url",)"
            R"("image_url":{"url":"http://127.0.0.1:1/x"}}]}]})",
            "messages", 400, chat_path),
      completion("suffix", R"("suffix":"x")", "suffix"),
      completion("unknown_field", R"("no_such_field":{"a":[1]})", "", 200),
      completion("greedy_n", R"("n":2,"temperature":0)", "n"),
      completion("stream_options_alone", R"("stream_options":{"include_usage":true})",
                 "stream_options"),
      completion("min_tokens_high", R"("min_tokens":9)", "min_tokens"),
      {"embeddings_later", body("{}", "/v1/embeddings"), 404},
      {"generate_of_another_server_later", body(R"({"inputs":"a"})", "/"), 404},
      {"responses_later", body("{}", "/v1/responses"), 404},
  };
}

/// Constraints under names that they have in other servers and that are not understood: never
/// answered unconstrained.
std::vector<Row> constraint_rows() {
  const std::pair<const char*, const char*> constraints[] = {
      {"format", R"("json")"},
      {"format", R"({"type":"object"})"},
      {"structural_tag", R"("{}")"},
      {"structural_tag", R"({"structures":[]})"},
      {"functions", R"([{"name":"f"}])"},
      {"function_call", R"({"name":"f"})"},
      {"response_schema", "{}"},
  };
  std::vector<Row> rows;
  for (const auto& [field, value] : constraints) {
    const std::string member = "\"" + std::string(field) + "\":" + value;
    const std::string number = std::to_string(rows.size());
    rows.push_back(completion("constraint_" + number + "_" + field, member, field));
    rows.push_back(chatting("constraint_chat_" + number + "_" + field, member, field));
  }
  rows.push_back(
      chatting("constraint_nvext", R"("nvext":{"guided_regex":"("})", "nvext.guided_regex"));
  for (const char* none : {"null", "false", R"("")", R"("none")", "[]"}) {
    rows.push_back(chatting("no_constraint_" + std::to_string(rows.size()),
                            R"("grammar":)" + std::string(none) + R"(,"functions":)" + none, "",
                            200));
  }
  return rows;
}

std::vector<Row> all_rows() {
  std::vector<Row> rows = http_rows();
  for (auto* more : {json_rows, meaning_rows, constraint_rows}) {
    for (Row& row : more()) rows.push_back(std::move(row));
  }
  return rows;
}

/// One server for all rows, with a control request's answer from a quiet time.
class Hostile : public ::testing::TestWithParam<Row> {
 public:
  static void SetUpTestSuite() {
    rig_ = new Rig(TestSettings{{"header-timeout", "0.6"},
                                {"body-idle-timeout", "0.5"},
                                {"body-timeout", "0.9"},
                                {"keep-alive-timeout", "0.5"},
                                {"max-body-bytes", "1M"},
                                {"max-json-nodes", "5000"},
                                {"max-prompt-bytes", "200K"}});
    guarded_ = new Rig(TestSettings{{"api-key", "secret"}, {"keep-alive-timeout", "0.5"}});
    alone_ = control_text();
    ASSERT_EQ(alone_.size(), 120U);
  }
  static void TearDownTestSuite() {
    delete guarded_;
    delete rig_;
  }

 protected:
  /// Text of a streamed answer that takes a while.
  static std::string control_text() {
    std::string text;
    const Answer answer = complete(*rig_, {{"model", "toy"},
                                           {"prompt", "control"},
                                           {"max_tokens", 120},
                                           {"temperature", 0},
                                           {"stream", true}});
    const auto list = events(answer.body);
    if (list.empty() || list.back() != "[DONE]") return "";
    for (const json::value& event : list) {
      if (event.is_object()) text += text_of(event.at("choices").at(0).at("text"));
    }
    return text;
  }

  static Rig* rig_;
  static Rig* guarded_;  ///< with a key, for rows about authorisation
  static std::string alone_;
};
Rig* Hostile::rig_ = nullptr;
Rig* Hostile::guarded_ = nullptr;
std::string Hostile::alone_;

TEST_P(Hostile, HasItsOutcomeAndDisturbsNobody) {
  const Row& row = GetParam();
  std::string beside;
  std::thread control([&] { beside = control_text(); });
  Rig::eventually([] { return rig_->engine->stats().running > 0; }, 2s);
  const bool about_keys = row.name.starts_with("15_");
  const Answer answer = row.act(about_keys ? *guarded_ : *rig_);
  control.join();

  EXPECT_EQ(answer.status, row.status) << answer.head << answer.body;
  EXPECT_EQ(beside, alone_);
  EXPECT_TRUE(answer.closed || !row.must_close);
  const bool error =
      answer.status >= 400 && answer.status != 404 && answer.status != 405 && answer.status != 401;
  if (error || !row.param.empty()) {
    const json::value value = answer.value();
    EXPECT_EQ(value.at("error").at("code"), answer.status);
    EXPECT_FALSE(value.at("error").at("message").as_string().empty());
    EXPECT_LT(answer.body.size(), 600U) << "the client's bytes come back";
    EXPECT_TRUE(row.param.empty() || value.at("error").at("param") == json::value(row.param))
        << answer.body;
  }
  EXPECT_EQ(ask(*rig_, get("/health")).status, 200);
  EXPECT_TRUE(Rig::eventually([] { return rig_->all_blocks_back(); }));
}

INSTANTIATE_TEST_SUITE_P(Rows, Hostile, ::testing::ValuesIn(all_rows()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moesaic::server::testing
