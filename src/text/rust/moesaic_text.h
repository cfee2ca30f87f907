#pragma once

// The C face of the Rust library in this folder. Every call that can fail returns a status and fills
// `error`; no panic crosses it. Buffers that it fills are given back with moesaic_text_free.

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint8_t* data;
  size_t size;
  size_t capacity;
} MoesaicBuffer;

enum {
  MOESAIC_TEXT_OK = 0,
  MOESAIC_TEXT_BAD_FILE = 1,     // the model's file is malformed
  MOESAIC_TEXT_BAD_REQUEST = 2,  // the request cannot be rendered or encoded
};

typedef struct MoesaicTokenizer MoesaicTokenizer;
typedef struct MoesaicTemplate MoesaicTemplate;

void moesaic_text_free(MoesaicBuffer buffer);

// `json`: tokenizer.json; `config`: tokenizer_config.json or empty.
int moesaic_tokenizer_new(const uint8_t* json, size_t json_size, const uint8_t* config,
                          size_t config_size, MoesaicTokenizer** out, MoesaicBuffer* error);
void moesaic_tokenizer_delete(MoesaicTokenizer* tokenizer);
// Fills `ids` with int32. `plain`: special tokens in the text are text.
int moesaic_tokenizer_encode(const MoesaicTokenizer* tokenizer, const uint8_t* text, size_t size,
                             int add_special, int plain, MoesaicBuffer* ids, MoesaicBuffer* error);
int moesaic_tokenizer_decode(const MoesaicTokenizer* tokenizer, const int32_t* ids, size_t count,
                             int skip_special, MoesaicBuffer* text, MoesaicBuffer* error);
// The bytes that a token stands for; empty when there is no such token.
void moesaic_tokenizer_token_bytes(const MoesaicTokenizer* tokenizer, int32_t id,
                                   MoesaicBuffer* bytes);
int moesaic_tokenizer_is_special(const MoesaicTokenizer* tokenizer, int32_t id);
int64_t moesaic_tokenizer_vocab_size(const MoesaicTokenizer* tokenizer);
// -1 when there is none.
int32_t moesaic_tokenizer_token_to_id(const MoesaicTokenizer* tokenizer, const uint8_t* token,
                                      size_t size);
int32_t moesaic_tokenizer_bos(const MoesaicTokenizer* tokenizer);
int32_t moesaic_tokenizer_eos(const MoesaicTokenizer* tokenizer);

// `source`: the Jinja text, or empty to take it from `config` (tokenizer_config.json). `json`:
// tokenizer.json, whose special tokens are guarded in message content. *out stays null when there is
// no template.
int moesaic_template_new(const uint8_t* source, size_t source_size, const uint8_t* config,
                         size_t config_size, const uint8_t* json, size_t json_size,
                         MoesaicTemplate** out, MoesaicBuffer* error);
void moesaic_template_delete(MoesaicTemplate* chat_template);
int moesaic_template_render(const MoesaicTemplate* chat_template, const uint8_t* context,
                            size_t size, MoesaicBuffer* text, MoesaicBuffer* error);

#ifdef __cplusplus
}
#endif
