//! Special tokens and switches of tokenizer_config.json and special_tokens_map.json.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::Folder;
use crate::tokenizer_json;

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

/// A value of one of the configs, which names its file and key in a complaint.
struct Entry<'a> {
    path: &'a Path,
    key: String,
    value: &'a Value,
}

impl<'a> Entry<'a> {
    fn wrong(&self, what: &str) -> Error {
        Error::model_file(self.path, format!("its {} must be {what}", self.key))
    }

    fn inner(&self, key: impl std::fmt::Display, value: &'a Value) -> Entry<'a> {
        Entry {
            path: self.path,
            key: format!("{}[{key}]", self.key),
            value,
        }
    }

    /// A special token is written as its text or as an object with `content`.
    fn token_text(&self) -> Result<&'a str> {
        match self.value {
            Value::String(text) => Some(text.as_str()),
            Value::Object(map) => map.get("content").and_then(Value::as_str),
            _ => None,
        }
        .ok_or_else(|| self.wrong("a text, or an object with a text as its content"))
    }

    /// A list of special tokens, or an object of named ones.
    fn token_texts(&self) -> Result<Vec<String>> {
        let owned = |entry: Entry<'a>| entry.token_text().map(str::to_owned);
        match self.value {
            Value::Array(list) => {
                let items = list.iter().enumerate();
                items
                    .map(|(at, item)| owned(self.inner(at, item)))
                    .collect()
            }
            Value::Object(named) => {
                let items = named.iter();
                items
                    .map(|(name, item)| owned(self.inner(name, item)))
                    .collect()
            }
            _ => Err(self.wrong("a list of tokens, or an object of named ones")),
        }
    }

    /// added_tokens_decoder in order of id.
    fn declared_tokens(&self) -> Result<Vec<DeclaredToken>> {
        let Value::Object(declared) = self.value else {
            return Err(self.wrong("an object of tokens by id"));
        };
        let tokens = declared.iter();
        let tokens = tokens.map(|(id, value)| self.inner(id, value).declared_token(id));
        let mut tokens = tokens.collect::<Result<Vec<_>>>()?;
        tokens.sort_by_key(|token| token.id);
        Ok(tokens)
    }

    fn declared_token(&self, id: &str) -> Result<DeclaredToken> {
        let number = id.parse::<u32>().ok().filter(|id| *id < 1 << 31);
        let wrong = || self.wrong("a token: a token id, and an object with a text as its content");
        let (Some(number), Value::Object(map)) = (number, self.value) else {
            return Err(wrong());
        };
        let content = map.get("content").and_then(Value::as_str);
        let flag = |name: &str, default: bool| match map.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.inner(name, value).wrong("true or false")),
        };
        let special = flag("special", false)?;
        Ok(DeclaredToken {
            id: number,
            content: content.ok_or_else(wrong)?.to_owned(),
            single_word: flag("single_word", false)?,
            lstrip: flag("lstrip", false)?,
            rstrip: flag("rstrip", false)?,
            normalized: flag("normalized", !special)?,
            special,
        })
    }
}

impl TokenizerConfig {
    pub fn load(folder: &Folder) -> Result<TokenizerConfig> {
        const MAIN: &str = "tokenizer_config.json";
        const MORE: &str = "special_tokens_map.json";
        let (path, more) = (folder.path(MAIN), folder.path(MORE));
        let map = folder.object(MAIN)?.unwrap_or_default();
        let specials = folder.object(MORE)?.unwrap_or_default();
        let find = |name: &str| {
            let main = map.get(name).map(|value| (&path, value));
            let (path, value) = main.or_else(|| specials.get(name).map(|value| (&more, value)))?;
            let key = name.to_owned();
            (!value.is_null()).then_some(Entry { path, key, value })
        };
        let mut config = TokenizerConfig::default();
        for name in SPECIAL_NAMES {
            if let Some(entry) = find(name) {
                config.special.push((name, entry.token_text()?.to_owned()));
            }
        }
        for name in ["additional_special_tokens", "extra_special_tokens"] {
            if let Some(entry) = find(name) {
                config.additional.extend(entry.token_texts()?);
            }
        }
        if let Some(entry) = find("added_tokens_decoder") {
            config.declared = entry.declared_tokens()?;
        }
        for name in ["add_bos_token", "add_eos_token"] {
            if let Some(entry) = find(name).filter(|entry| !entry.value.is_boolean()) {
                return Err(entry.wrong("true or false"));
            }
        }
        if let Some(entry) = find("tokenizer_class").filter(|entry| !entry.value.is_string()) {
            return Err(entry.wrong("a text"));
        }
        if let Some(problem) = tokenizer_json::added_problem(config.texts()) {
            return Err(Error::model_file(&path, problem));
        }
        config.map = map;
        Ok(config)
    }

    /// The texts of all tokens here.
    pub fn texts(&self) -> impl Iterator<Item = &String> + Clone {
        let declared = self.declared.iter().map(|token| &token.content);
        let named = self.special.iter().map(|(_, text)| text);
        declared.chain(named).chain(&self.additional)
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
