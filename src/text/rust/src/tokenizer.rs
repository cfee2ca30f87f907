//! Hugging Face tokenizers, validated, with the bytes of each token.

use crate::Problem;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use tokenizers::Tokenizer;

/// Ids above this many times the number of tokens mean a broken file, not holes.
const MAX_SPARSENESS: u64 = 8;

pub struct TextTokenizer {
    /// Special tokens in the text are special.
    parsing: Tokenizer,
    /// Special tokens in the text are text.
    plain: Tokenizer,
    special: HashSet<u32>,
    added: HashMap<u32, String>,
    /// Byte of each character of a byte-level vocabulary; empty for other vocabularies.
    byte_of: HashMap<char, u8>,
    byte_fallback: bool,
    vocab_size: i64,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

fn file(message: impl Into<String>) -> Problem {
    Problem::File(message.into())
}

/// The character that stands for each byte in byte-level vocabularies (GPT-2): printable Latin-1 for
/// itself, the others from U+0100 on.
fn byte_characters() -> HashMap<char, u8> {
    let mut next = 0u32;
    let mut map = HashMap::new();
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if printable {
            u32::from(byte)
        } else {
            next += 1;
            255 + next
        };
        map.insert(char::from_u32(code).expect("below the surrogates"), byte);
    }
    map
}

/// Whether the decoder, or one in its sequence, has this type.
fn has_decoder(root: &Value, kind: &str) -> bool {
    let decoder = &root["decoder"];
    decoder["type"] == kind
        || decoder["decoders"]
            .as_array()
            .is_some_and(|list| list.iter().any(|one| one["type"] == kind))
}

/// The byte of a fallback token such as `<0x0A>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

fn check_id(token: &str, id: &Value, seen: &mut HashSet<u64>) -> Result<u64, Problem> {
    let Some(id) = id.as_u64().filter(|id| *id < (1 << 31)) else {
        return Err(file(format!(
            "the id of token {token:?} is not a whole number from 0 to 2^31 - 1"
        )));
    };
    if !seen.insert(id) {
        return Err(file(format!("two tokens have the id {id}")));
    }
    Ok(id)
}

/// What the library does not check itself: ids that are negative, huge or used twice, and byte tokens
/// that name no byte.
fn check_vocabulary(root: &Value) -> Result<(), Problem> {
    let mut seen = HashSet::new();
    let mut largest = 0;
    let fallback = root["model"]["byte_fallback"] == true;
    if let Some(vocab) = root["model"]["vocab"].as_object() {
        for (token, id) in vocab {
            largest = largest.max(check_id(token, id, &mut seen)?);
            let claims_byte = token.starts_with("<0x") && token.ends_with('>') && token.len() <= 8;
            if fallback && claims_byte && fallback_byte(token).is_none() {
                return Err(file(format!("the byte token {token:?} names no byte")));
            }
        }
    }
    let mut added = HashSet::new();
    for token in root["added_tokens"].as_array().into_iter().flatten() {
        let name = token["content"].as_str().unwrap_or_default();
        let id = check_id(name, &token["id"], &mut added)?;
        largest = largest.max(id);
        seen.insert(id);
    }
    if largest > MAX_SPARSENESS * seen.len() as u64 + 4096 {
        return Err(file(format!(
            "the largest token id is {largest}, but there are only {} tokens",
            seen.len()
        )));
    }
    Ok(())
}

/// A special token of tokenizer_config.json: a string, or an object with `content`.
pub fn config_token(config: &Value, name: &str) -> Option<String> {
    let token = &config[name];
    token
        .as_str()
        .or_else(|| token["content"].as_str())
        .map(str::to_owned)
}

impl TextTokenizer {
    pub fn new(json: &[u8], config: &[u8]) -> Result<Self, Problem> {
        let root: Value =
            serde_json::from_slice(json).map_err(|e| file(format!("not JSON: {e}")))?;
        if !root.is_object() {
            return Err(file("expected a JSON object"));
        }
        check_vocabulary(&root)?;
        let mut parsing =
            Tokenizer::from_bytes(json).map_err(|e| file(format!("not a tokenizer: {e}")))?;
        // Files made for training can ask for both; a server wants neither.
        parsing.with_padding(None);
        parsing
            .with_truncation(None)
            .map_err(|e| file(e.to_string()))?;
        let mut plain = parsing.clone();
        plain.set_encode_special_tokens(true);
        let config: Value = if config.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(config)
                .map_err(|e| file(format!("tokenizer_config.json is not JSON: {e}")))?
        };
        let mut special = HashSet::new();
        let mut added = HashMap::new();
        let mut largest = 0;
        for (id, token) in parsing.get_added_tokens_decoder() {
            largest = largest.max(id);
            if token.special {
                special.insert(id);
            }
            added.insert(id, token.content);
        }
        for id in parsing.get_vocab(true).into_values() {
            largest = largest.max(id);
        }
        let id_of = |name: &str| parsing.token_to_id(&config_token(&config, name)?);
        let (bos, eos) = (id_of("bos_token"), id_of("eos_token"));
        Ok(Self {
            special,
            added,
            byte_of: if has_decoder(&root, "ByteLevel") {
                byte_characters()
            } else {
                HashMap::new()
            },
            byte_fallback: root["model"]["byte_fallback"] == true,
            vocab_size: i64::from(largest) + 1,
            bos,
            eos,
            parsing,
            plain,
        })
    }

    pub fn encode(&self, text: &str, add_special: bool, plain: bool) -> Result<Vec<u32>, Problem> {
        let tokenizer = if plain { &self.plain } else { &self.parsing };
        tokenizer
            .encode_fast(text, add_special)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|e| Problem::Request(format!("the text cannot be encoded: {e}")))
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Problem> {
        self.parsing
            .decode(ids, skip_special)
            .map_err(|e| Problem::Request(format!("the tokens cannot be decoded: {e}")))
    }

    /// The bytes that a token stands for in the text; none when there is no such token.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        if let Some(content) = self.added.get(&id) {
            return content.clone().into_bytes();
        }
        let Some(token) = self.parsing.id_to_token(id) else {
            return Vec::new();
        };
        if !self.byte_of.is_empty() {
            let mut bytes = Vec::with_capacity(token.len());
            for c in token.chars() {
                match self.byte_of.get(&c) {
                    Some(byte) => bytes.push(*byte),
                    None => bytes.extend(c.to_string().bytes()),
                }
            }
            return bytes;
        }
        if self.byte_fallback {
            if let Some(byte) = fallback_byte(&token) {
                return vec![byte];
            }
        }
        token.replace('\u{2581}', " ").into_bytes()
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    pub fn vocab_size(&self) -> i64 {
        self.vocab_size
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.parsing.token_to_id(token)
    }
}
