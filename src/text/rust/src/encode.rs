//! From text to token ids: the steps of the `tokenizers` crate one by one, so that special tokens
//! can be only text where a caller says so, memory stays near the ids, and a cancel is seen.

use std::ops::Range;

use tokenizers::normalizer::Range as Span;
use tokenizers::tokenizer::PreTokenizedString;
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizer, Token,
};

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::long_word;
use crate::memory;
use crate::tokenizer::Tokenizer;

/// Which occurrences of special tokens are only text.
pub enum TextOnly<'a> {
    None,
    All,
    /// Those that overlap one of these places, which are sorted and apart.
    Places(&'a [Range<usize>]),
}

impl TextOnly<'_> {
    fn covers(&self, place: Range<usize>) -> bool {
        match self {
            TextOnly::None => false,
            TextOnly::All => true,
            TextOnly::Places(places) => {
                let first = places.partition_point(|p| p.end <= place.start);
                places.get(first).is_some_and(|p| p.start < place.end)
            }
        }
    }
}

fn internal(e: impl ToString) -> Error {
    Error::internal(e.to_string())
}

/// Ids of `text`, with what the post-processor adds when `add_special`.
pub fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    add_special: bool,
    text_only: &TextOnly,
    cancel: Cancel,
) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    if add_special {
        ids.extend(&tokenizer.prefix);
    }
    let parts = tokenizer
        .added
        .split_raw(text, &|place| text_only.covers(place));
    for (id, place) in parts {
        cancel.check()?;
        match id {
            Some(id) => ids.push(id),
            None => encode_part(tokenizer, text, place, text_only, cancel, &mut ids)?,
        }
    }
    if add_special {
        ids.extend(&tokenizer.suffix);
    }
    Ok(ids)
}

/// Ids of the text between two added tokens.
fn encode_part(
    tokenizer: &Tokenizer,
    text: &str,
    place: Range<usize>,
    text_only: &TextOnly,
    cancel: Cancel,
    ids: &mut Vec<u32>,
) -> Result<()> {
    let part = &text.as_bytes()[place.clone()];
    memory::room_for(tokenizer.estimate.encoding(part))?;
    let mut pieces: PreTokenizedString = part_string(text, place.clone())?.into();
    pieces
        .split(|_, mut part| {
            if let Some(normalizer) = tokenizer.inner.get_normalizer() {
                normalizer.normalize(&mut part)?;
            }
            Ok(split_normalized(tokenizer, part, place.start, text_only))
        })
        .map_err(internal)?;
    cancel.check()?;
    if let Some(pre_tokenizer) = tokenizer.inner.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut pieces).map_err(internal)?;
    }
    cancel.check()?;
    for (word, _, tokens) in pieces.get_splits(OffsetReferential::Original, OffsetType::None) {
        match tokens {
            Some(tokens) => ids.extend(tokens.iter().map(|t| t.id)),
            None => encode_word(tokenizer, word, cancel, ids)?,
        }
    }
    Ok(())
}

/// The part as the crate's string. Pre-tokenisers ask one thing of its place: whether it is the
/// start of the text (Metaspace's `first`), so any other part is cut out after one character.
fn part_string(text: &str, place: Range<usize>) -> Result<NormalizedString> {
    let part = &text[place.clone()];
    if place.start == 0 {
        return Ok(NormalizedString::from(part));
    }
    let mut shifted = String::with_capacity(part.len() + 1);
    shifted.push('.');
    shifted.push_str(part);
    NormalizedString::from(shifted)
        .slice(Span::Normalized(1..))
        .ok_or_else(|| Error::internal("a part of the text lies outside it"))
}

type Piece = (NormalizedString, Option<Vec<Token>>);

/// Splits a normalised part at the tokens that are matched after normalisation.
fn split_normalized(
    tokenizer: &Tokenizer,
    part: NormalizedString,
    start: usize,
    text_only: &TextOnly,
) -> Vec<Piece> {
    if !tokenizer.added.has_normalized() {
        return vec![(part, None)];
    }
    let is_text = |place: Range<usize>| match text_only {
        TextOnly::Places(_) => part
            .convert_offsets(Span::Normalized(place))
            // Offsets count from the part, places from the text.
            .is_some_and(|o| text_only.covers(o.start + start..o.end + start)),
        _ => text_only.covers(place),
    };
    let parts = tokenizer.added.split_normalized(part.get(), &is_text);
    parts
        .into_iter()
        .filter_map(|(id, place)| {
            let piece = part.slice(Span::Normalized(place))?;
            let tokens = id.map(|id| {
                let size = piece.len();
                vec![Token::new(id, String::new(), (0, size))]
            });
            Some((piece, tokens))
        })
        .collect()
}

fn encode_word(
    tokenizer: &Tokenizer,
    word: &str,
    cancel: Cancel,
    ids: &mut Vec<u32>,
) -> Result<()> {
    cancel.check()?;
    let model = tokenizer.inner.get_model();
    if word.len() >= long_word::MIN_BYTES {
        if let Some(long_words) = &tokenizer.long_words {
            let whole = model.token_to_id(word);
            return match whole.filter(|_| tokenizer.ignores_merges()) {
                Some(id) => {
                    ids.push(id);
                    Ok(())
                }
                None => long_words.encode(word, cancel, ids),
            };
        }
    }
    let tokens = model.tokenize(word).map_err(internal)?;
    ids.extend(tokens.iter().map(|t| t.id));
    Ok(())
}
