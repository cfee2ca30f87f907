//! Special tokens and switches of tokenizer_config.json and special_tokens_map.json.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::Folder;

/// Names of the single special tokens, as transformers and chat templates know them.
pub const SPECIAL_NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// An entry of `added_tokens_decoder`.
#[derive(Clone, Debug)]
pub struct DeclaredToken {
    pub id: u32,
    pub content: String,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    pub special: bool,
}

/// What tokenizer_config.json and special_tokens_map.json say.
#[derive(Default)]
pub struct TokenizerConfig {
    pub map: Map<String, Value>,
    /// Special tokens by name; tokenizer_config.json wins over special_tokens_map.json.
    pub special: Vec<(&'static str, String)>,
    /// additional_special_tokens and extra_special_tokens.
    pub additional: Vec<String>,
    /// added_tokens_decoder in order of id.
    pub declared: Vec<DeclaredToken>,
}

/// A special token is written as its text or as an object with `content`.
fn token_text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Object(map) => map.get("content").and_then(Value::as_str),
        _ => None,
    }
}

fn declared_token(id: u32, value: &Value) -> Option<DeclaredToken> {
    let map = value.as_object()?;
    let content = map.get("content")?.as_str()?.to_owned();
    let flag =
        |name: &str, default: bool| map.get(name).and_then(Value::as_bool).unwrap_or(default);
    let special = flag("special", false);
    Some(DeclaredToken {
        id,
        content,
        single_word: flag("single_word", false),
        lstrip: flag("lstrip", false),
        rstrip: flag("rstrip", false),
        normalized: flag("normalized", !special),
        special,
    })
}

impl TokenizerConfig {
    pub fn load(folder: &Folder) -> Result<TokenizerConfig> {
        let path = folder.path("tokenizer_config.json");
        let map = folder.object("tokenizer_config.json")?.unwrap_or_default();
        let specials = folder
            .object("special_tokens_map.json")?
            .unwrap_or_default();
        let find = |name: &str| map.get(name).or_else(|| specials.get(name));
        let mut config = TokenizerConfig::default();
        for name in SPECIAL_NAMES {
            if let Some(text) = find(name).and_then(token_text) {
                config.special.push((name, text.to_owned()));
            }
        }
        for name in ["additional_special_tokens", "extra_special_tokens"] {
            match find(name) {
                Some(Value::Array(list)) => config
                    .additional
                    .extend(list.iter().filter_map(token_text).map(str::to_owned)),
                Some(Value::Object(named)) => config
                    .additional
                    .extend(named.values().filter_map(token_text).map(str::to_owned)),
                _ => {}
            }
        }
        if let Some(Value::Object(declared)) = map.get("added_tokens_decoder") {
            let mut entries = Vec::with_capacity(declared.len());
            for (id, value) in declared {
                let bad = |what| {
                    Error::model_file(&path, format!("added_tokens_decoder entry {id:?} {what}"))
                };
                let number = id
                    .parse::<u32>()
                    .ok()
                    .filter(|id| *id < 1 << 31)
                    .ok_or_else(|| bad("is not a token id"))?;
                let token = declared_token(number, value).ok_or_else(|| bad("has no content"))?;
                entries.push(token);
            }
            entries.sort_by_key(|token| token.id);
            config.declared = entries;
        }
        config.map = map;
        Ok(config)
    }

    pub fn special_text(&self, name: &str) -> Option<&str> {
        self.special
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, text)| text.as_str())
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        self.map.get(name).and_then(Value::as_bool)
    }

    /// Whether transformers builds this tokenizer's post-processor from add_bos_token and
    /// add_eos_token instead of taking the one of tokenizer.json.
    pub fn adds_bos_by_flag(&self) -> bool {
        let class = self
            .map
            .get("tokenizer_class")
            .and_then(Value::as_str)
            .unwrap_or("");
        ["Llama", "CodeLlama", "Gemma", "Cohere"]
            .iter()
            .any(|family| {
                class
                    .strip_prefix(family)
                    .is_some_and(|r| r.starts_with("Tokenizer"))
            })
    }
}
