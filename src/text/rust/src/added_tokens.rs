//! Finding added tokens in text, as the `tokenizers` crate does, with one more choice: which
//! occurrences of special tokens are only text.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::{AddedToken, NormalizedString, Normalizer, NormalizerWrapper};

use crate::error::{Error, Result};

/// A part of a text: an added token, or text between them.
pub type Part = (Option<u32>, Range<usize>);

struct Entry {
    id: u32,
    special: bool,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
}

/// A set of patterns; of those that start at one place the longest wins, as in the crate.
struct Matcher {
    automaton: AhoCorasick,
    entries: Vec<Entry>,
}

/// Tokens that are matched before the text is normalised, and tokens matched after.
pub struct AddedTokens {
    raw: Option<Matcher>,
    normalized: Option<Matcher>,
}

impl AddedTokens {
    pub fn new(
        tokens: impl IntoIterator<Item = (u32, AddedToken)>,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<AddedTokens> {
        let mut raw = Vec::new();
        let mut normalized = Vec::new();
        for (id, token) in tokens {
            if token.content.is_empty() {
                continue;
            }
            if token.normalized {
                let mut text = NormalizedString::from(token.content.as_str());
                if let Some(normalizer) = normalizer {
                    normalizer
                        .normalize(&mut text)
                        .map_err(|e| Error::internal(e.to_string()))?;
                }
                if !text.is_empty() {
                    normalized.push((text.get().to_owned(), id, token));
                }
            } else {
                raw.push((token.content.clone(), id, token));
            }
        }
        Ok(AddedTokens {
            raw: Matcher::new(raw)?,
            normalized: Matcher::new(normalized)?,
        })
    }

    /// Splits text that is not normalised yet. `is_text` says whether a special token's place is
    /// only text.
    pub fn split_raw(&self, text: &str, is_text: &dyn Fn(Range<usize>) -> bool) -> Vec<Part> {
        split(self.raw.as_ref(), text, is_text)
    }

    /// Splits normalised text.
    pub fn split_normalized(
        &self,
        text: &str,
        is_text: &dyn Fn(Range<usize>) -> bool,
    ) -> Vec<Part> {
        split(self.normalized.as_ref(), text, is_text)
    }

    pub fn has_normalized(&self) -> bool {
        self.normalized.is_some()
    }
}

impl Matcher {
    fn new(mut tokens: Vec<(String, u32, AddedToken)>) -> Result<Option<Matcher>> {
        if tokens.is_empty() {
            return Ok(None);
        }
        // Ordered, so that of two tokens that normalise to the same text the lower id wins.
        tokens.sort_by_key(|(_, id, _)| *id);
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(text, _, _)| text))
            .map_err(|e| Error::internal(e.to_string()))?;
        let entries = tokens
            .into_iter()
            .map(|(_, id, token)| Entry {
                id,
                special: token.special,
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
            })
            .collect();
        Ok(Some(Matcher { automaton, entries }))
    }
}

fn is_single_word(text: &str, place: &Range<usize>) -> bool {
    let before = text[..place.start].chars().next_back();
    let after = text[place.end..].chars().next();
    ![before, after]
        .into_iter()
        .flatten()
        .any(regex_syntax::is_word_character)
}

fn split(
    matcher: Option<&Matcher>,
    text: &str,
    is_text: &dyn Fn(Range<usize>) -> bool,
) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut done = 0;
    if let Some(matcher) = matcher {
        for found in matcher.automaton.find_iter(text) {
            let entry = &matcher.entries[found.pattern().as_usize()];
            let mut place = found.range();
            // A token made of spaces can lie within those that the one before it stripped.
            if place.start < done
                || (entry.special && is_text(place.clone()))
                || (entry.single_word && !is_single_word(text, &place))
            {
                continue;
            }
            if entry.lstrip {
                place.start = text[done..place.start].trim_end().len() + done;
            }
            if entry.rstrip {
                place.end = text.len() - text[place.end..].trim_start().len();
            }
            if done < place.start {
                parts.push((None, done..place.start));
            }
            done = place.end;
            parts.push((Some(entry.id), place));
        }
    }
    if done < text.len() {
        parts.push((None, done..text.len()));
    }
    parts
}
