#pragma once

// The C interface of the Rust library. Only src/text/*.cpp includes this. Every function may be
// called from any thread; a tokenizer and a template are immutable once loaded, a stream belongs
// to one caller at a time. No Rust panic leaves these functions.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MoesaicTokenizer MoesaicTokenizer;
typedef struct MoesaicStream MoesaicStream;
typedef struct MoesaicTemplate MoesaicTemplate;
typedef struct MoesaicGrammars MoesaicGrammars;
typedef struct MoesaicGrammar MoesaicGrammar;
typedef struct MoesaicMatcher MoesaicMatcher;

/// Bytes owned by Rust; free them once with moesaic_bytes_free. Empty ones need not be freed.
typedef struct {
  uint8_t* data;
  size_t size;
  size_t capacity;
} MoesaicBytes;

/// Token ids owned by Rust; free them once with moesaic_ids_free.
typedef struct {
  int32_t* data;
  size_t size;
  size_t capacity;
} MoesaicIds;

/// Why a call failed. Zero kind: it did not.
enum {
  MOESAIC_TEXT_OK = 0,
  MOESAIC_TEXT_MODEL_FILE = 1,
  MOESAIC_TEXT_MISSING_FILE = 2,
  MOESAIC_TEXT_REQUEST = 3,
  MOESAIC_TEXT_CANCELLED = 4,
  MOESAIC_TEXT_INTERNAL = 5,
  /// Memory, or a thread, that cannot be had now.
  MOESAIC_TEXT_MEMORY = 6,
  MOESAIC_TEXT_THREAD = 7,
};

/// Filled by a failing call; `file` only with MOESAIC_TEXT_MODEL_FILE. Free both texts.
typedef struct {
  int32_t kind;
  MoesaicBytes file;
  MoesaicBytes message;
} MoesaicTextError;

void moesaic_bytes_free(MoesaicBytes bytes);
void moesaic_ids_free(MoesaicIds ids);

/// A file of a model's folder that the caller has read.
typedef struct {
  const uint8_t* name;  ///< within the folder
  size_t name_size;
  const uint8_t* data;
  size_t size;
} MoesaicFile;

/// A model's folder: its path for messages, and those of its files that exist and are asked for.
/// Nothing here is kept. This library opens no files itself.
typedef struct {
  const uint8_t* path;
  size_t path_size;
  const MoesaicFile* files;
  size_t count;
} MoesaicFolder;

/// Null with `error` filled when the folder's tokenizer cannot be loaded.
MoesaicTokenizer* moesaic_tokenizer_load(MoesaicFolder folder, MoesaicTextError* error);
void moesaic_tokenizer_free(MoesaicTokenizer* tokenizer);

/// How special tokens in a text are read.
enum {
  MOESAIC_SPECIALS_PARSE = 0,
  MOESAIC_SPECIALS_AS_TEXT = 1,
  /// The text carries guard marks: what they enclose is only text.
  MOESAIC_SPECIALS_GUARDED = 2,
};

/// Bytes of memory that encoding the text, or decoding the ids, may take: what a caller makes sure
/// of first, because a failed allocation in this library cannot be told from inside.
uint64_t moesaic_tokenizer_encode_memory(const MoesaicTokenizer* tokenizer, const uint8_t* text,
                                         size_t size);
uint64_t moesaic_tokenizer_decode_memory(const MoesaicTokenizer* tokenizer, const int32_t* ids,
                                         size_t count);

/// `cancel` points to one byte, read with relaxed order, or is null.
bool moesaic_tokenizer_encode(const MoesaicTokenizer* tokenizer, const uint8_t* text, size_t size,
                              bool add_special, int32_t specials, const void* cancel,
                              MoesaicIds* ids, MoesaicTextError* error);
bool moesaic_tokenizer_decode(const MoesaicTokenizer* tokenizer, const int32_t* ids, size_t count,
                              bool skip_special, MoesaicBytes* text, MoesaicTextError* error);
/// The token inside a text: as valid UTF-8, or its raw bytes.
bool moesaic_tokenizer_token_text(const MoesaicTokenizer* tokenizer, int32_t id, MoesaicBytes* text,
                                  MoesaicTextError* error);
bool moesaic_tokenizer_token_bytes(const MoesaicTokenizer* tokenizer, int32_t id,
                                   MoesaicBytes* bytes, MoesaicTextError* error);
int64_t moesaic_tokenizer_vocab_size(const MoesaicTokenizer* tokenizer);
/// Bytes of the longest token as it stands in a text.
uint64_t moesaic_tokenizer_longest_token(const MoesaicTokenizer* tokenizer);
bool moesaic_tokenizer_is_special(const MoesaicTokenizer* tokenizer, int32_t id);
/// -1 when there is none.
int32_t moesaic_tokenizer_token_to_id(const MoesaicTokenizer* tokenizer, const uint8_t* token,
                                      size_t size);
int32_t moesaic_tokenizer_bos(const MoesaicTokenizer* tokenizer);
int32_t moesaic_tokenizer_eos(const MoesaicTokenizer* tokenizer);

/// A stream keeps no reference to the tokenizer; give the same one to each call.
MoesaicStream* moesaic_stream_new(const MoesaicTokenizer* tokenizer, const int32_t* prompt_tail,
                                  size_t count, bool skip_special, MoesaicTextError* error);
bool moesaic_stream_push(MoesaicStream* stream, const MoesaicTokenizer* tokenizer, int32_t id,
                         MoesaicBytes* text, MoesaicTextError* error);
bool moesaic_stream_finish(MoesaicStream* stream, MoesaicBytes* text, MoesaicTextError* error);
void moesaic_stream_free(MoesaicStream* stream);

/// `replacement` is a template to take instead of the folder's, by the name to use in messages;
/// null when there is none. Null with a zero error kind when the model has no template.
MoesaicTemplate* moesaic_template_load(MoesaicFolder folder, const MoesaicFile* replacement,
                                       MoesaicTextError* error);
/// What is wrong with the model's own template, in which chats are refused; empty when it is whole.
bool moesaic_template_problem(const MoesaicTemplate* chat_template, MoesaicBytes* text,
                              MoesaicTextError* error);

/// Roles whose messages templates show differently; others are shown like a user's.
enum {
  MOESAIC_ROLE_SYSTEM = 0,
  MOESAIC_ROLE_USER = 1,
  MOESAIC_ROLE_ASSISTANT = 2,
  MOESAIC_ROLE_TOOL = 3,
};

/// Shapes of a message's content that the template shows whole.
typedef struct {
  bool text;      ///< one string
  bool part;      ///< a list of one {"type": "text", "text": ...}
  bool parts;     ///< a list of several
  bool thinking;  ///< {"type": "thinking", "thinking": ...} in that list
} MoesaicShapes;
MoesaicShapes moesaic_template_shapes(const MoesaicTemplate* chat_template, uint32_t role);

/// Bytes of memory that rendering a context of so many bytes takes: at least, and at most.
void moesaic_template_memory(size_t context_size, uint64_t* least, uint64_t* most);
/// Bytes of address space for a rendering's thread, of which few are touched.
uint64_t moesaic_template_stack(void);
/// Renders in at most `memory` bytes, which are no fewer than `least`.
bool moesaic_template_render(const MoesaicTemplate* chat_template, const uint8_t* context,
                             size_t context_size, uint64_t memory, MoesaicBytes* text,
                             MoesaicTextError* error);
/// The template as it was found; `size` bytes that live as long as it.
const uint8_t* moesaic_template_text(const MoesaicTemplate* chat_template, size_t* size);
void moesaic_template_free(MoesaicTemplate* chat_template);
bool moesaic_without_guards(const uint8_t* text, size_t size, MoesaicBytes* plain,
                            MoesaicTextError* error);

/// Grammars over the tokens of a model of `vocab_size`, whose answers end with one of `ends`. The
/// tokenizer is not needed any more after this.
MoesaicGrammars* moesaic_grammars_new(const MoesaicTokenizer* tokenizer, uint32_t vocab_size,
                                      const int32_t* ends, size_t count, MoesaicTextError* error);
void moesaic_grammars_free(MoesaicGrammars* grammars);

/// What a grammar's text is.
enum {
  MOESAIC_GRAMMAR_JSON_SCHEMA = 0,
  MOESAIC_GRAMMAR_REGEX = 1,
  /// Lark, or GBNF.
  MOESAIC_GRAMMAR_RULES = 2,
};
/// Null with kind MOESAIC_TEXT_REQUEST when the text is wrong or too much. With `close`, anything
/// up to that text or special token may come first: it must where `open` is empty, else it may and
/// begins with `open`. A grammar may be used by many callers, and outlives `grammars`.
MoesaicGrammar* moesaic_grammar_compile(const MoesaicGrammars* grammars, int32_t kind,
                                        const uint8_t* text, size_t size, const uint8_t* open,
                                        size_t open_size, const uint8_t* close, size_t close_size,
                                        MoesaicTextError* error);
/// Bytes that it takes now, with what was found out on the ways through it.
uint64_t moesaic_grammar_bytes(const MoesaicGrammar* grammar);
void moesaic_grammar_free(MoesaicGrammar* grammar);

/// A way through a grammar, used by one caller at a time. Null when the grammar failed under an
/// earlier one: make it again.
MoesaicMatcher* moesaic_matcher_new(const MoesaicGrammar* grammar, MoesaicTextError* error);
/// Sets bit t % 32 of word t / 32 for each token t that may come next, and clears the others.
bool moesaic_matcher_allowed(MoesaicMatcher* matcher, uint32_t* words, size_t count,
                             MoesaicTextError* error);
bool moesaic_matcher_accept(MoesaicMatcher* matcher, int32_t id, MoesaicTextError* error);
void moesaic_matcher_free(MoesaicMatcher* matcher);

#ifdef __cplusplus
}
#endif
