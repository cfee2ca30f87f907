//! Checks of tokenizer.json that the `tokenizers` crate does not make: it keeps the last of two
//! equal keys, renumbers added tokens and takes any text for a byte token. Checked in one pass
//! that holds strings and ids only, before the crate builds anything.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

/// Largest JSON text of the normalizer, the pre-tokenizer, the post-processor and the decoder. The
/// longest published ones are SentencePiece's character maps, below 1 MB.
const MAX_PART_BYTES: usize = 8 << 20;

/// Where ids end. Published tokenizers have up to a million; what goes through all ids takes its time
/// for each, token or not.
const MAX_IDS: i128 = 1 << 22;
/// Longest token. Published ones have some hundred bytes; a model can say any token again and again.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// Longest added token, and all of them together. Automata of many times their size are made of them.
const MAX_ADDED_TOKEN_BYTES: usize = 1 << 10;
const MAX_ADDED_BYTES: usize = 1 << 20;

/// What later steps need of the file beyond what the `tokenizers` crate gives.
pub struct Outline {
    pub added: Vec<AddedEntry>,
    /// The parts' JSON, null when there is none.
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Value,
    /// Largest id + 1.
    pub vocab_size: u32,
    /// Merges and alphabet of a BPE model.
    pub bpe: Option<BpeOutline>,
}

#[derive(Deserialize)]
pub struct AddedEntry {
    pub id: i64,
    pub content: String,
}

/// A BPE model as ids.
pub struct BpeOutline {
    /// Left, right and result of each merge in order of rank.
    pub merges: Vec<(u32, u32, u32)>,
    pub characters: HashMap<char, u32>,
    /// The 256 byte tokens, when unknown characters fall back to them.
    pub bytes: Option<Box<[u32; 256]>>,
    pub unknown: Option<u32>,
    pub fuse_unknown: bool,
    /// Whether words are merged by these rules alone.
    pub plain: bool,
}

#[derive(Deserialize)]
struct FileOutline {
    #[serde(default)]
    added_tokens: Option<Vec<AddedEntry>>,
    #[serde(default)]
    normalizer: Option<Box<RawValue>>,
    #[serde(default)]
    pre_tokenizer: Option<Box<RawValue>>,
    #[serde(default)]
    post_processor: Option<Box<RawValue>>,
    #[serde(default)]
    decoder: Option<Box<RawValue>>,
    model: ModelOutline,
}

#[derive(Deserialize)]
struct ModelOutline {
    #[serde(default)]
    vocab: Vocab,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    unk_token: Option<String>,
}

/// Tokens by text. A Unigram model lists them, the others map them to ids.
#[derive(Default)]
struct Vocab {
    ids: HashMap<String, u32>,
    problem: Option<String>,
    listed: bool,
}

enum Merge {
    Line(String),
    Pair(String, String),
}

/// The problem with an id of the file, if it has one.
fn id_problem(token: &str, id: i128) -> Option<String> {
    if id < 0 {
        Some(format!("token {token:?} has the negative id {id}"))
    } else if id >= MAX_IDS {
        Some(format!(
            "token {token:?} has id {id}; ids end below {MAX_IDS}"
        ))
    } else {
        None
    }
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct VocabVisitor;

        impl<'de> Visitor<'de> for VocabVisitor {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a vocabulary: an object of ids or a list of [token, score]")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Vocab, A::Error> {
                let mut vocab = Vocab::default();
                let mut seen = HashSet::new();
                while let Some((token, id)) = map.next_entry::<String, i128>()? {
                    let problem = if let Some(problem) = id_problem(&token, id) {
                        Some(problem)
                    } else if !seen.insert(id) {
                        Some(format!(
                            "token {token:?} has id {id}, which another token has"
                        ))
                    } else if vocab.ids.contains_key(&token) {
                        Some(format!("token {token:?} is in the vocabulary twice"))
                    } else {
                        None
                    };
                    if problem.is_some() {
                        vocab.problem = problem;
                        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                        return Ok(vocab);
                    }
                    vocab.ids.insert(token, id as u32);
                }
                Ok(vocab)
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Vocab, A::Error> {
                let mut vocab = Vocab {
                    listed: true,
                    ..Vocab::default()
                };
                let mut id = 0;
                while let Some((token, _score)) = seq.next_element::<(String, f64)>()? {
                    vocab.ids.entry(token).or_insert(id);
                    id += 1;
                }
                Ok(vocab)
            }
        }

        deserializer.deserialize_any(VocabVisitor)
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct MergeVisitor;

        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge: \"left right\" or [left, right]")
            }

            fn visit_str<E>(self, line: &str) -> std::result::Result<Merge, E> {
                Ok(Merge::Line(line.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Merge, A::Error> {
                let missing = || serde::de::Error::custom("a merge has two tokens");
                let left = seq.next_element()?.ok_or_else(missing)?;
                let right = seq.next_element()?.ok_or_else(missing)?;
                if seq.next_element::<IgnoredAny>()?.is_some() {
                    return Err(missing());
                }
                Ok(Merge::Pair(left, right))
            }
        }

        deserializer.deserialize_any(MergeVisitor)
    }
}

/// Checks the bytes of a tokenizer.json at `path` and keeps what later steps need.
pub fn check(path: &Path, bytes: &[u8]) -> Result<Outline> {
    let bad = |problem: String| Error::model_file(path, problem);
    let file: FileOutline =
        serde_json::from_slice(bytes).map_err(|e| bad(format!("is not a tokenizer: {e}")))?;
    for (name, part) in [
        ("normalizer", &file.normalizer),
        ("pre_tokenizer", &file.pre_tokenizer),
        ("post_processor", &file.post_processor),
        ("decoder", &file.decoder),
    ] {
        let size = part.as_ref().map_or(0, |p| p.get().len());
        if size > MAX_PART_BYTES {
            return Err(bad(format!(
                "its {name} has {size} bytes; at most {MAX_PART_BYTES} are read"
            )));
        }
    }
    if let Some(problem) = file.model.vocab.problem {
        return Err(bad(problem));
    }
    let vocab = &file.model.vocab.ids;
    if vocab.is_empty() && file.added_tokens.as_ref().is_none_or(Vec::is_empty) {
        return Err(bad("has no tokens".into()));
    }
    let decoder = file.decoder.as_ref().map_or("", |part| part.get());
    if file.model.byte_fallback == Some(true) || decoder.contains("\"ByteFallback\"") {
        check_byte_tokens(vocab).map_err(bad)?;
    }
    let added = file.added_tokens.unwrap_or_default();
    if let Some(long) = vocab.keys().find(|text| text.len() > MAX_TOKEN_BYTES) {
        return Err(bad(too_long("token", long, MAX_TOKEN_BYTES)));
    }
    if let Some(problem) = added_problem(added.iter().map(|token| &token.content)) {
        return Err(bad(problem));
    }
    check_added(&added, vocab).map_err(bad)?;
    if let (Some(unk), false) = (&file.model.unk_token, file.model.vocab.listed) {
        if !vocab.contains_key(unk) && !added.iter().any(|a| a.content == *unk) {
            return Err(bad(format!(
                "its unk_token {unk:?} is not in the vocabulary"
            )));
        }
    }
    let largest = vocab.values().copied().max();
    let largest = largest.max(added.iter().map(|a| a.id as u32).max());
    let bpe = bpe_outline(&file.model).map_err(bad)?;
    let parsed = |part: Option<Box<RawValue>>| {
        let part = part.map_or(Ok(Value::Null), |part| {
            files::parse_strict(part.get().as_bytes())
        });
        part.map_err(|e| bad(format!("is not a tokenizer: {e}")))
    };
    Ok(Outline {
        added,
        normalizer: parsed(file.normalizer)?,
        pre_tokenizer: parsed(file.pre_tokenizer)?,
        decoder: parsed(file.decoder)?,
        vocab_size: largest.map_or(0, |id| id + 1),
        bpe,
    })
}

fn bpe_outline(model: &ModelOutline) -> std::result::Result<Option<BpeOutline>, String> {
    let is_bpe = match &model.kind {
        Some(kind) => kind == "BPE",
        None => !model.merges.is_empty(),
    };
    if !is_bpe {
        return Ok(None);
    }
    let vocab = &model.vocab.ids;
    let prefix = model.continuing_subword_prefix.as_deref().unwrap_or("");
    let suffix = model.end_of_word_suffix.as_deref().unwrap_or("");
    let merges = resolve_merges(&model.merges, vocab, prefix)?;
    let mut characters = HashMap::new();
    for (token, id) in vocab {
        let mut chars = token.chars();
        if let (Some(c), None) = (chars.next(), chars.next()) {
            characters.insert(c, *id);
        }
    }
    let falls_back = model.byte_fallback == Some(true);
    let bytes = falls_back.then(|| byte_tokens(vocab)).flatten();
    Ok(Some(BpeOutline {
        plain: prefix.is_empty()
            && suffix.is_empty()
            && model.dropout.unwrap_or(0.0) == 0.0
            && bytes.is_some() == falls_back,
        merges,
        characters,
        bytes,
        unknown: model.unk_token.as_ref().and_then(|t| vocab.get(t).copied()),
        fuse_unknown: model.fuse_unk == Some(true),
    }))
}

/// The ids of <0x00> to <0xFF>; None when one is missing.
fn byte_tokens(vocab: &HashMap<String, u32>) -> Option<Box<[u32; 256]>> {
    let mut ids = Box::new([0; 256]);
    for (byte, id) in ids.iter_mut().enumerate() {
        *id = *vocab.get(&format!("<0x{byte:02X}>"))?;
    }
    Some(ids)
}

/// `<0x0A>` and the like must be two hexadecimal digits, or text would turn into wrong bytes.
fn check_byte_tokens(vocab: &HashMap<String, u32>) -> std::result::Result<(), String> {
    for token in vocab.keys() {
        let Some(digits) = token
            .strip_prefix("<0x")
            .and_then(|rest| rest.strip_suffix('>'))
        else {
            continue;
        };
        if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!(
                "byte token {token:?} does not name a byte; it must be two hexadecimal digits"
            ));
        }
    }
    Ok(())
}

/// The problem with the lengths of added tokens, if there is one.
pub fn added_problem<'a>(texts: impl Iterator<Item = &'a String> + Clone) -> Option<String> {
    if let Some(long) = texts
        .clone()
        .find(|text| text.len() > MAX_ADDED_TOKEN_BYTES)
    {
        return Some(too_long("added token", long, MAX_ADDED_TOKEN_BYTES));
    }
    let all: usize = texts.map(String::len).sum();
    (all > MAX_ADDED_BYTES).then(|| {
        format!("its added tokens have {all} bytes together; at most {MAX_ADDED_BYTES} are allowed")
    })
}

fn too_long(what: &str, text: &str, most: usize) -> String {
    let start: String = text.chars().take(40).collect();
    let size = text.len();
    format!("{what} {start:?}... has {size} bytes; at most {most} are allowed")
}

fn check_added(
    added: &[AddedEntry],
    vocab: &HashMap<String, u32>,
) -> std::result::Result<(), String> {
    let mut by_id: HashMap<i64, &str> = HashMap::new();
    let mut by_text: HashMap<&str, i64> = HashMap::new();
    let in_vocab: HashMap<u32, &str> = vocab.iter().map(|(t, id)| (*id, t.as_str())).collect();
    for entry in added {
        if let Some(problem) = id_problem(&entry.content, entry.id.into()) {
            return Err(problem);
        }
        let taken = in_vocab.get(&(entry.id as u32)).copied();
        let other = by_id.insert(entry.id, &entry.content).or(taken);
        if other.is_some_and(|other| other != entry.content) {
            return Err(format!(
                "added token {:?} has id {}, which token {:?} has",
                entry.content,
                entry.id,
                other.unwrap_or_default()
            ));
        }
        let known = vocab.get(&entry.content).map(|id| i64::from(*id));
        let other = by_text.insert(&entry.content, entry.id).or(known);
        if other.is_some_and(|other| other != entry.id) {
            return Err(format!(
                "token {:?} has two ids, {} and {}",
                entry.content,
                other.unwrap_or_default(),
                entry.id
            ));
        }
    }
    Ok(())
}

fn resolve_merges(
    merges: &[Merge],
    vocab: &HashMap<String, u32>,
    prefix: &str,
) -> std::result::Result<Vec<(u32, u32, u32)>, String> {
    let mut resolved = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let (left, right) = match merge {
            Merge::Line(line) if line.starts_with("#version") => continue,
            Merge::Line(line) => line
                .split_once(' ')
                .filter(|(_, right)| !right.contains(' '))
                .ok_or_else(|| format!("merge {rank} ({line:?}) is not two tokens"))?,
            Merge::Pair(left, right) => (left.as_str(), right.as_str()),
        };
        let tail = right.strip_prefix(prefix).ok_or_else(|| {
            format!("merge {rank} ({left:?}, {right:?}) lacks the subword prefix {prefix:?}")
        })?;
        if left.is_empty() || tail.is_empty() {
            return Err(format!("merge {rank} ({left:?}, {right:?}) joins nothing"));
        }
        let find = |token: &str| {
            vocab.get(token).copied().ok_or_else(|| {
                format!("merge {rank} ({left:?}, {right:?}) names {token:?}, not in the vocabulary")
            })
        };
        resolved.push((find(left)?, find(right)?, find(&format!("{left}{tail}"))?));
    }
    Ok(resolved)
}

/// The texts of the special tokens among the added ones, without checking the rest of the file.
pub fn special_texts(path: &Path, bytes: &[u8]) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Special {
        content: String,
        #[serde(default)]
        special: bool,
    }
    #[derive(Deserialize)]
    struct Specials {
        #[serde(default)]
        added_tokens: Option<Vec<Special>>,
    }
    let file: Specials = serde_json::from_slice(bytes)
        .map_err(|e| Error::model_file(path, format!("is not a tokenizer: {e}")))?;
    let added = file.added_tokens.unwrap_or_default().into_iter();
    Ok(added.filter(|t| t.special).map(|t| t.content).collect())
}
