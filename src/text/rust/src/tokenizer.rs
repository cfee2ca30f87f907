//! Loading a tokenizer and asking for its tokens.

use std::collections::HashMap;
use std::path::Path;

use tokenizers::{
    AddedToken, Encoding, ModelWrapper, Normalizer, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, Token,
};

use crate::added_tokens::AddedTokens;
use crate::config::TokenizerConfig;
use crate::decode::Chain;
use crate::error::{Error, Result};
use crate::estimate::{self, Estimate};
use crate::files::Folder;
use crate::long_word::LongWords;
use crate::memory;
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
    /// What encoding takes.
    pub estimate: Estimate,
    /// Bytes of each id's token in the vocabulary, and what a decoder can make of one.
    token_sizes: HashMap<u32, usize>,
    decoded_growth: f64,
    /// Bytes of the longest token as a text has it.
    pub longest_token: usize,
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
        // Before anything is made of its parts.
        let bad = |problem| Error::model_file(&path, problem);
        let long_words = outline.bpe.and_then(LongWords::new);
        let (normalizer, pre_tokenizer) = (&outline.normalizer, &outline.pre_tokenizer);
        let estimate =
            Estimate::new(normalizer, pre_tokenizer, long_words.is_some()).map_err(bad)?;
        let decoded = estimate::checked(&outline.decoder, "decoder").map_err(bad)?;

        let config = TokenizerConfig::load(folder)?;
        let texts = outline.added.iter().map(|token| &token.content);
        let texts = texts.chain(config.texts()).map(String::len).sum();
        estimate::check_added(normalizer, texts).map_err(bad)?;

        let mut inner = parse(&path, bytes, &outline.added)?;
        add_declared(&mut inner, &config)?;
        let added = AddedTokens::new(inner.get_added_tokens_decoder(), inner.get_normalizer())?;
        let largest_added = inner.get_added_tokens_decoder().keys().copied().max();
        let (prefix, suffix) = added_around(&path, &inner, &config)?;
        let find = |name| config.special_text(name).and_then(|t| inner.token_to_id(t));
        let mut tokenizer = Tokenizer {
            bos: find("bos_token"),
            eos: find("eos_token"),
            chain: Chain::new(outline.decoder, inner.get_decoder()),
            long_words,
            estimate,
            token_sizes: HashMap::new(),
            // Without a decoder tokens are joined by spaces.
            decoded_growth: decoded.most() + 1.0,
            inner,
            added,
            prefix,
            suffix,
            vocab_size: largest_added.map_or(0, |id| id + 1).max(outline.vocab_size),
            longest_token: 0,
        };
        tokenizer.measure();
        Ok(tokenizer)
    }

    /// How many pieces the pre-tokenizer makes of a text; None when it fails on it.
    fn pieces(inner: &tokenizers::Tokenizer, text: &str) -> Option<usize> {
        let mut pieces: PreTokenizedString = text.into();
        if let Some(normalizer) = inner.get_normalizer() {
            pieces.normalize(|part| normalizer.normalize(part)).ok()?;
        }
        if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).ok()?;
        }
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::None);
        Some(splits.len())
    }

    /// Finds the sizes of all tokens, and what is never cut apart.
    fn measure(&mut self) {
        let inner = &self.inner;
        self.estimate
            .find_joins(|text| Tokenizer::pieces(inner, text));
        let vocab = self.inner.get_vocab(true);
        let texts = vocab.values().map(|id| self.token_bytes(*id as i32).len());
        self.longest_token = texts.max().unwrap_or(0);
        self.token_sizes = vocab.iter().map(|(token, id)| (*id, token.len())).collect();
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

    pub fn decode(&self, ids: &[i32], skip_special: bool) -> Result<String> {
        memory::room_for(self.decoding_memory(ids))?;
        let mut chain = self.chain.clone();
        let mut text = String::new();
        for id in ids {
            memory::check()?;
            self.push_token(&mut chain, *id, skip_special, &mut text);
        }
        chain.finish(&mut text);
        Ok(text)
    }

    /// Bytes of memory that decoding the ids may take: the text while it grows, its copies in the
    /// answer and, with a decoder that needs all tokens at once, those.
    pub fn decoding_memory(&self, ids: &[i32]) -> usize {
        const COPIES: usize = 6;
        const TOKEN: usize = 64;
        let token = if self.chain.keeps_tokens() { TOKEN } else { 0 };
        let sizes = ids.iter().map(|id| {
            let size = u32::try_from(*id)
                .ok()
                .and_then(|id| self.token_sizes.get(&id));
            size.map_or(0, |size| *size) + token
        });
        let text = sizes.sum::<usize>() as f64 * self.decoded_growth;
        (text as usize).saturating_mul(COPIES)
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

/// What the crate makes of a checked tokenizer.json.
fn parse(path: &Path, bytes: &[u8], added: &[AddedEntry]) -> Result<tokenizers::Tokenizer> {
    let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
        .map_err(|e| Error::model_file(path, format!("is not a tokenizer: {e}")))?;
    check_added_ids(path, &inner, added)?;
    // Both are switches of a call in transformers, whatever the file says.
    inner
        .with_truncation(None)
        .map_err(|e| Error::internal(e.to_string()))?;
    inner.with_padding(None);
    Ok(inner)
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
