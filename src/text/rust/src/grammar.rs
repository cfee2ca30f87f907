//! Grammars that an answer obeys, over the tokens of a tokenizer: which may come next. The `llguidance`
//! crate does the work; here are its tokens, its limits and its errors as ours.

use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::toktrie::{
    InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv,
};
use llguidance::{Matcher as Inner, ParserFactory};
use serde_json::{json, Value};

use crate::error::{Error, Result};
use crate::gbnf;
use crate::memory;
use crate::tokenizer::Tokenizer;

/// Between the parts of a JSON text: a blank, or one or two ends of lines with an indentation. A model
/// that would write nothing but blanks has to go on.
const BLANKS: &str = r"\x20|(\r?\n){1,2}[\x20\t]{0,40}";
/// States of a lexer; each takes one or two kilobytes.
const MOST_STATES: usize = 16_384;
/// Bytes of a grammar with all that is found out while answers obey it.
const MOST_HELD: isize = 32 << 20;
/// Symbols of a grammar, and bytes of its text: what they take grows with their square, to a second.
const MOST_SYMBOLS: usize = 100_000;
const MOST_BYTES: usize = 128 << 10;

/// What a grammar's text is.
#[derive(Clone, Copy)]
pub enum Kind {
    /// JSON Schema; the answer is JSON.
    JsonSchema,
    /// A regular expression that the whole answer matches.
    Regex,
    /// Lark as llguidance has it, or GBNF, which has `::=`.
    Grammar,
}

/// What may come before an answer: anything up to a text or a special token, and only if it begins with
/// another where there is one. Without an end there is no thought.
#[derive(Default)]
pub struct Thought<'a> {
    pub open: &'a str,
    pub close: &'a str,
}

/// Makes grammars over the tokens of one model.
pub struct Grammars {
    factory: ParserFactory,
}

/// A grammar before any token. Answers that obey it share what its lexer finds out.
pub struct Grammar {
    start: Mutex<Inner>,
    /// Bytes that it and all ways through it hold.
    held: Arc<AtomicIsize>,
}

/// The way of one answer through a grammar.
pub struct Matcher {
    inner: Inner,
    held: Arc<AtomicIsize>,
}

struct Tokens {
    trie: TokTrie,
}

impl TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }
    fn tokenize_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(text)
    }
    /// Which of several tokenisations of a text the model writes is the model's to choose.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

impl Grammars {
    /// For a model of `vocab_size` tokens that ends answers with one of `ends`.
    pub fn new(tokenizer: &Tokenizer, vocab_size: u32, ends: &[u32]) -> Result<Grammars> {
        let ends: Vec<u32> = ends.iter().copied().filter(|id| *id < vocab_size).collect();
        let Some(first) = ends.first() else {
            return Err(Error::request(
                "this model has no token that ends an answer, which one that obeys a grammar needs",
            ));
        };
        let words: Vec<Vec<u8>> = (0..vocab_size)
            .map(|id| word_of(tokenizer, id as i32))
            .collect();
        let trie =
            TokTrie::from(&TokRxInfo::new(vocab_size, *first), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(Tokens { trie });
        let capabilities = InferenceCapabilities::default();
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, capabilities, &slices)
            .map_err(|e| Error::internal(e.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = MOST_STATES;
        limits.max_grammar_size = MOST_SYMBOLS;
        limits.verbose_errors = false;
        memory::check()?;
        Ok(Grammars { factory })
    }

    /// With a thought before it, the grammar begins behind that.
    pub fn compile(&self, kind: Kind, text: &str, thought: &Thought) -> Result<Grammar> {
        if text.len() > MOST_BYTES {
            return Err(Error::request(format!(
                "it has {} bytes; at most {MOST_BYTES} are taken",
                text.len()
            )));
        }
        let before = memory::held();
        let mut own = match kind {
            Kind::JsonSchema => GrammarWithLexer::from_json_schema(schema_of(text)?),
            Kind::Regex => GrammarWithLexer::from_regex(without_anchors(text)),
            Kind::Grammar if gbnf::looks_like(text) => {
                GrammarWithLexer::from_lark(gbnf::to_lark(text).map_err(refused)?)
            }
            Kind::Grammar => GrammarWithLexer::from_lark(text.to_owned()),
        };
        let grammar = if thought.close.is_empty() {
            TopLevelGrammar::from_grammar(own)
        } else {
            own.name = Some("answer".to_owned());
            TopLevelGrammar {
                grammars: vec![self.after(thought), own],
                max_tokens: None,
            }
        };
        let parser = self.factory.create_parser(grammar).map_err(refused)?;
        let mut start = Inner::new(Ok(parser));
        // What cannot be obeyed at all is told now.
        start.compute_mask_or_eos().map_err(refused)?;
        memory::check()?;
        Ok(Grammar {
            start: Mutex::new(start),
            held: Arc::new(AtomicIsize::new(memory::held() - before)),
        })
    }

    /// The thought, then the grammar that is named answer.
    fn after(&self, thought: &Thought) -> GrammarWithLexer {
        let special = |mark: &str| self.factory.tok_env().tok_trie().get_special_token(mark);
        let free = match special(thought.close) {
            Some(id) => format!("/(?s:.*)/ <[{id}]>"),
            None => "free".to_owned(),
        };
        let begin = match special(thought.open) {
            _ if thought.open.is_empty() => {
                format!("thought: {free} blanks\nstart: thought @answer")
            }
            Some(id) => format!("thought: <[{id}]> {free} blanks\nstart: thought? @answer"),
            None => format!(
                "thought: {} {free} blanks\nstart: thought? @answer",
                Value::from(thought.open)
            ),
        };
        let close = regex_syntax::escape(thought.close).replace('/', "\\/");
        GrammarWithLexer::from_lark(format!(
            "{begin}\nfree[lazy]: /(?s:.*){close}/\nblanks: /[ \\r\\n]{{0,4}}/\n"
        ))
    }
}

impl Grammar {
    /// Fails when the grammar broke under an earlier answer, and must be made anew.
    pub fn start(&self) -> Result<Matcher> {
        let before = memory::held();
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inner = start.clone();
        inner.is_accepting().map_err(failed)?;
        self.held
            .fetch_add(memory::held() - before, Ordering::Relaxed);
        Ok(Matcher {
            inner,
            held: self.held.clone(),
        })
    }

    /// Bytes that it holds, with all that was found out so far.
    pub fn bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed).max(0) as u64
    }
}

impl Drop for Matcher {
    fn drop(&mut self) {
        let before = memory::held();
        drop(std::mem::replace(
            &mut self.inner,
            Inner::new(Err(anyhow::anyhow!(""))),
        ));
        self.held
            .fetch_add(memory::held() - before, Ordering::Relaxed);
    }
}

impl Matcher {
    /// Sets bit t % 32 of word t / 32 for each token t that may come next: the ends of an answer, where
    /// it may end; nothing else where it must.
    pub fn allowed(&mut self, words: &mut [u32]) -> Result<()> {
        self.counted(|inner| {
            let mask = inner.compute_mask_or_eos().map_err(failed)?;
            let mask = mask.as_slice();
            let count = mask.len().min(words.len());
            words[..count].copy_from_slice(&mask[..count]);
            words[count..].fill(0);
            Ok(())
        })
    }

    /// Takes a token that was allowed; after an answer's end, whatever comes.
    pub fn accept(&mut self, id: u32) -> Result<()> {
        if self.inner.is_stopped() && !self.inner.is_error() {
            return Ok(());
        }
        self.counted(|inner| inner.consume_token(id).map_err(failed))
    }

    /// Does some work, and counts what it leaves in memory.
    fn counted(&mut self, work: impl FnOnce(&mut Inner) -> Result<()>) -> Result<()> {
        let before = memory::held();
        let done = work(&mut self.inner);
        let more = memory::held() - before;
        if self.held.fetch_add(more, Ordering::Relaxed) + more > MOST_HELD {
            return Err(Error::request("the grammar has become too large"));
        }
        done?;
        memory::check()
    }
}

/// The bytes of a token; of special ones, which no grammar means by their text, marked as such.
fn word_of(tokenizer: &Tokenizer, id: i32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    if tokenizer.is_special(id) {
        return [vec![TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat();
    }
    // No text has this byte.
    if bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) {
        return Vec::new();
    }
    bytes
}

fn refused(e: impl std::fmt::Display) -> Error {
    Error::request(first_lines(&e.to_string()))
}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::internal(first_lines(&e.to_string()))
}

/// Without the crate's backtraces.
fn first_lines(message: &str) -> String {
    let end = message.find("\n<backtrace>").unwrap_or(message.len());
    message[..end].to_owned()
}

/// Blanks are bounded, and what the crate cannot enforce is refused, whatever the schema says of that.
fn schema_of(text: &str) -> Result<Value> {
    let schema: Value =
        serde_json::from_str(text).map_err(|e| Error::request(format!("not JSON: {e}")))?;
    let mut schema = match schema {
        Value::Object(_) => schema,
        Value::Bool(true) => json!({}),
        Value::Bool(false) => return Err(Error::request("the schema allows nothing")),
        _ => return Err(Error::request("a JSON Schema is an object")),
    };
    let own = &mut schema["x-guidance"];
    if !own.is_object() {
        *own = json!({});
    }
    own["lenient"] = json!(false);
    if own.get("whitespace_flexible").is_none() && own.get("whitespace_pattern").is_none() {
        own["whitespace_pattern"] = json!(BLANKS);
    }
    Ok(schema)
}

/// The whole answer matches, so anchors at the ends say nothing new.
fn without_anchors(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    let Some(rest) = regex.strip_suffix('$') else {
        return regex;
    };
    let escapes = rest.bytes().rev().take_while(|byte| *byte == b'\\').count();
    if escapes % 2 == 0 {
        rest
    } else {
        regex
    }
}
