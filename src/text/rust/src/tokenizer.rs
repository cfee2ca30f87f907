//! Loading a tokenizer and asking for its tokens.

use std::path::Path;

use tokenizers::{AddedToken, Encoding, ModelWrapper, Token};

use crate::added_tokens::AddedTokens;
use crate::config::TokenizerConfig;
use crate::decode::Chain;
use crate::error::{Error, Result};
use crate::files::Folder;
use crate::long_word::LongWords;
use crate::tokenizer_json::{self, AddedEntry};

pub struct Tokenizer {
    pub inner: tokenizers::Tokenizer,
    pub added: AddedTokens,
    /// Ids that the post-processor puts before and after a text.
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
    /// The decoder at the start of a text.
    pub chain: Chain,
    /// Merging of long words; None for models that need the crate for them.
    pub long_words: Option<LongWords>,
    pub vocab_size: u32,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

impl Tokenizer {
    /// Loads the folder's tokenizer.json with the configs beside it.
    pub fn load(folder: &Folder) -> Result<Tokenizer> {
        let path = folder.path("tokenizer.json");
        let bytes = folder.bytes("tokenizer.json").ok_or_else(|| {
            Error::missing_file(format!(
                "{} does not exist; the model needs its tokenizer.json",
                path.display()
            ))
        })?;
        let outline = tokenizer_json::check(&path, bytes)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| Error::model_file(&path, format!("is not a tokenizer: {e}")))?;
        check_added_ids(&path, &inner, &outline.added)?;
        // Both are switches of a call in transformers, whatever the file says.
        inner
            .with_truncation(None)
            .map_err(|e| Error::internal(e.to_string()))?;
        inner.with_padding(None);

        let config = TokenizerConfig::load(folder)?;
        add_declared(&mut inner, &config)?;
        let added = AddedTokens::new(inner.get_added_tokens_decoder(), inner.get_normalizer())?;
        let largest_added = inner.get_added_tokens_decoder().keys().copied().max();
        let vocab_size = largest_added.map_or(0, |id| id + 1).max(outline.vocab_size);
        let (prefix, suffix) = added_around(&path, &inner, &config)?;
        let find = |name| config.special_text(name).and_then(|t| inner.token_to_id(t));
        Ok(Tokenizer {
            bos: find("bos_token"),
            eos: find("eos_token"),
            chain: Chain::new(&outline.decoder, inner.get_decoder()),
            long_words: outline.bpe.and_then(LongWords::new),
            inner,
            added,
            prefix,
            suffix,
            vocab_size,
        })
    }

    /// Whether a word that is a token is taken whole, whatever its merges.
    pub fn ignores_merges(&self) -> bool {
        matches!(self.inner.get_model(), ModelWrapper::BPE(bpe) if bpe.ignore_merges)
    }

    /// The token's text in the vocabulary; None for an id without a token.
    pub fn token(&self, id: i32) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    pub fn is_special(&self, id: i32) -> bool {
        let Ok(id) = u32::try_from(id) else {
            return false;
        };
        let added = self.inner.get_added_vocabulary();
        added
            .get_added_tokens_decoder()
            .get(&id)
            .is_some_and(|token| added.is_special_token(&token.content))
    }

    /// Gives the token to a decoder, unless it is a special one that is skipped.
    pub fn push_token(&self, chain: &mut Chain, id: i32, skip_special: bool, out: &mut String) {
        if skip_special && self.is_special(id) {
            return;
        }
        if let Some(token) = self.token(id) {
            chain.push(token, out);
        }
    }

    pub fn decode(&self, ids: &[i32], skip_special: bool) -> String {
        let mut chain = self.chain.clone();
        let mut text = String::new();
        for id in ids {
            self.push_token(&mut chain, *id, skip_special, &mut text);
        }
        chain.finish(&mut text);
        text
    }

    /// The bytes that the token stands for inside a text; none for an id without a token.
    pub fn token_bytes(&self, id: i32) -> Vec<u8> {
        match self.token(id) {
            Some(token) if self.is_special(id) => token.into_bytes(),
            Some(token) => self.chain.token_bytes(&token),
            None => Vec::new(),
        }
    }
}

/// The crate numbers added tokens itself; a file whose ids it does not reproduce (because ids are
/// left out between them) would give the model wrong tokens.
fn check_added_ids(path: &Path, inner: &tokenizers::Tokenizer, added: &[AddedEntry]) -> Result<()> {
    for entry in added.iter().filter(|entry| !entry.content.is_empty()) {
        let id = inner.token_to_id(&entry.content);
        if id.map(i64::from) != Some(entry.id) {
            return Err(Error::model_file(
                path,
                format!(
                    "added token {:?} has id {} where {} follows from the tokens before it; ids \
                     must not leave holes",
                    entry.content,
                    entry.id,
                    id.map_or("none".into(), |id| id.to_string())
                ),
            ));
        }
    }
    Ok(())
}

/// Takes over the tokens of tokenizer_config.json as transformers does: added_tokens_decoder in
/// order of id with its flags, then special tokens by name that are not known as such yet. A token
/// that would get another id than it declares, or one past the vocabulary for a mere name, is left
/// out: the model has no row for it.
fn add_declared(inner: &mut tokenizers::Tokenizer, config: &TokenizerConfig) -> Result<()> {
    let is_named = |text: &str| {
        let mut named = config.special.iter().map(|(_, text)| text);
        named.any(|known| known == text) || config.additional.iter().any(|known| known == text)
    };
    for token in &config.declared {
        let id = inner.token_to_id(&token.content);
        if id.unwrap_or_else(|| next_id(inner)) == token.id {
            add_token(
                inner,
                AddedToken {
                    content: token.content.clone(),
                    single_word: token.single_word,
                    lstrip: token.lstrip,
                    rstrip: token.rstrip,
                    normalized: token.normalized,
                    special: token.special || is_named(&token.content),
                },
            )?;
        }
    }
    let named = config.special.iter().map(|(_, text)| text);
    for text in named.chain(&config.additional) {
        let is_special = inner.get_added_vocabulary().is_special_token(text);
        if !is_special && inner.token_to_id(text).is_some() {
            add_token(inner, AddedToken::from(text.as_str(), true))?;
        }
    }
    Ok(())
}

fn add_token(inner: &mut tokenizers::Tokenizer, token: AddedToken) -> Result<()> {
    // Adding rebuilds the automata of all added tokens, so one that is there is not added again.
    let known = inner.get_added_vocabulary().get_added_tokens_decoder();
    if known.values().any(|old| *old == token) {
        return Ok(());
    }
    inner
        .add_tokens([token])
        .map(|_| ())
        .map_err(|e| Error::internal(e.to_string()))
}

/// The id that the crate gives to the next new token.
fn next_id(inner: &tokenizers::Tokenizer) -> u32 {
    let size = inner.get_vocab_size(false) as u32;
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    let largest = added.keys().copied().max();
    largest.map_or(size, |largest| size.max(largest + 1))
}

/// What is put before and after every text: by the file's post-processor, found by processing one
/// token, or by transformers' flags.
fn added_around(
    path: &Path,
    inner: &tokenizers::Tokenizer,
    config: &TokenizerConfig,
) -> Result<(Vec<u32>, Vec<u32>)> {
    const PROBE: u32 = u32::MAX;
    let probe = Encoding::from_tokens(vec![Token::new(PROBE, String::new(), (0, 0))], 0);
    let processed = inner
        .post_process(probe, None, true)
        .map_err(|e| Error::model_file(path, format!("its post_processor fails: {e}")))?;
    let ids = processed.get_ids();
    let at = ids.iter().position(|id| *id == PROBE).ok_or_else(|| {
        Error::model_file(path, "its post_processor leaves out the text".to_string())
    })?;
    let (mut prefix, mut suffix) = (ids[..at].to_vec(), ids[at + 1..].to_vec());
    if config.adds_bos_by_flag() {
        apply_flag(inner, config, "add_bos_token", "bos_token", &mut prefix);
        apply_flag(inner, config, "add_eos_token", "eos_token", &mut suffix);
    }
    for id in prefix.iter().chain(&suffix) {
        if inner.id_to_token(*id).is_none() {
            return Err(Error::model_file(
                path,
                format!("its post_processor adds id {id}, which is no token"),
            ));
        }
    }
    Ok((prefix, suffix))
}

fn apply_flag(
    inner: &tokenizers::Tokenizer,
    config: &TokenizerConfig,
    flag: &str,
    name: &str,
    ids: &mut Vec<u32>,
) {
    let id = config.special_text(name).and_then(|t| inner.token_to_id(t));
    match (config.flag(flag), id) {
        (Some(true), Some(id)) => *ids = vec![id],
        (Some(false), _) => ids.clear(),
        _ => {}
    }
}
