//! Which special tokens of a rendered template are the user's text.
//!
//! A template mixes its own special tokens with message content as plain strings. To tell them
//! apart it is rendered twice when the content holds a special token's text: once as it is, which
//! gives the text to encode, and once with marks around those places, which shows where they went.
//! The places found in the marked text are then carried over to the plain one, so marks never
//! change what the template writes, whatever it does with strings. Where the two cannot be
//! aligned, a token counts as the user's.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};

use super::numbers;

/// Marks are noncharacters. A token's own pair is chosen by its number, so that a mark that a
/// template left beside another token by splitting the content is not taken for that one's.
const FIRST_OPEN: u32 = 0xFDD4;
const FIRST_CLOSE: u32 = FIRST_OPEN + PAIRS;
const PAIRS: u32 = 8;
/// Follows content that ends like the start of a special token, which the next content could end.
const BREAK: char = '\u{FDE4}';

pub fn is_mark(c: char) -> bool {
    (FIRST_OPEN..=BREAK as u32).contains(&(c as u32))
}

fn open_mark(token: usize) -> char {
    char::from_u32(FIRST_OPEN + token as u32 % PAIRS).unwrap_or(BREAK)
}

fn close_mark(token: usize) -> char {
    char::from_u32(FIRST_CLOSE + token as u32 % PAIRS).unwrap_or(BREAK)
}

/// A special token's place in a text.
#[derive(Clone, Debug, PartialEq)]
struct Occurrence {
    token: usize,
    place: Range<usize>,
    of_user: bool,
}

/// The texts of a model's special tokens.
pub struct SpecialTexts {
    finder: Option<AhoCorasick>,
    /// The texts in order, and the longest one's bytes.
    texts: Vec<String>,
    longest: usize,
}

impl SpecialTexts {
    pub fn new(mut texts: Vec<String>) -> SpecialTexts {
        texts.retain(|text| !text.is_empty());
        texts.sort();
        texts.dedup();
        SpecialTexts {
            finder: AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&texts)
                .ok()
                .filter(|_| !texts.is_empty()),
            longest: texts.iter().map(String::len).max().unwrap_or(0),
            texts,
        }
    }

    fn find(&self, text: &str) -> Vec<Occurrence> {
        let Some(finder) = &self.finder else {
            return Vec::new();
        };
        finder
            .find_iter(text)
            .map(|found| Occurrence {
                token: found.pattern().as_usize(),
                place: found.range(),
                of_user: false,
            })
            .collect()
    }

    /// Whether the text ends like the start of a special token, short of its end.
    fn ends_open(&self, text: &str) -> bool {
        let first = text.len().saturating_sub(self.longest);
        (first..text.len())
            .filter(|at| text.is_char_boundary(*at))
            .any(|at| self.begins_one(&text[at..]))
    }

    fn begins_one(&self, start: &str) -> bool {
        // In order, the tokens that begin so come right after the text itself.
        let after = self.texts.partition_point(|text| text.as_str() <= start);
        self.texts
            .get(after)
            .is_some_and(|text| text.starts_with(start))
    }

    /// The text with marks; None when it needs none.
    fn mark_text(&self, text: &str) -> Option<String> {
        let found = self.find(text);
        let ends_open = self.ends_open(text);
        if found.is_empty() && !ends_open {
            return None;
        }
        let clean = |part: &str| part.replace(is_mark, "\u{FFFD}");
        let mut marked = String::with_capacity(text.len() + 6 * found.len() + 3);
        let mut done = 0;
        for one in found {
            marked.push_str(&clean(&text[done..one.place.start]));
            marked.push(open_mark(one.token));
            marked.push_str(&text[one.place.clone()]);
            marked.push(close_mark(one.token));
            done = one.place.end;
        }
        marked.push_str(&clean(&text[done..]));
        if ends_open {
            marked.push(BREAK);
        }
        Some(marked)
    }

    /// A copy of the context with marks in all its strings; None when it needs none.
    pub fn mark_context(&self, context: &Map<String, Value>) -> Option<Map<String, Value>> {
        self.finder.as_ref()?;
        let mut marked = Map::new();
        let mut changed = false;
        for (name, value) in context {
            let copy = self.mark_value(value);
            changed |= copy.is_some();
            marked.insert(name.clone(), copy.unwrap_or_else(|| value.clone()));
        }
        changed.then_some(marked)
    }

    fn mark_value(&self, value: &Value) -> Option<Value> {
        match value {
            Value::String(text) => self.mark_text(text).map(Value::String),
            Value::Array(items) => {
                let copies: Vec<_> = items.iter().map(|item| self.mark_value(item)).collect();
                if copies.iter().all(Option::is_none) {
                    return None;
                }
                let both = copies.into_iter().zip(items);
                let items = both.map(|(copy, item)| copy.unwrap_or_else(|| item.clone()));
                Some(Value::Array(items.collect()))
            }
            Value::Object(map) if numbers::written(map).is_some() => None,
            Value::Object(map) => {
                let mut changed = false;
                let mut copy = Map::new();
                for (name, item) in map {
                    let (new_name, new_item) = (self.mark_text(name), self.mark_value(item));
                    changed |= new_name.is_some() || new_item.is_some();
                    copy.insert(
                        new_name.unwrap_or_else(|| name.clone()),
                        new_item.unwrap_or_else(|| item.clone()),
                    );
                }
                changed.then_some(Value::Object(copy))
            }
            _ => None,
        }
    }

    /// The user's special tokens in `plain`, found from the same template's marked rendering.
    pub fn places_of_user(&self, plain: &str, marked: &str) -> Vec<Range<usize>> {
        let shown = self.find_marked(marked);
        let found = self.find(plain);
        let is_template = align(&found, &shown);
        found
            .into_iter()
            .zip(is_template)
            .filter(|(_, is_template)| !is_template)
            .map(|(one, _)| one.place)
            .collect()
    }

    /// All special tokens of a rendering in which nothing is the template's, for want of a marked
    /// one to compare with.
    pub fn all_places(&self, plain: &str) -> Vec<Range<usize>> {
        self.find(plain).into_iter().map(|one| one.place).collect()
    }

    /// The special tokens of a marked text: the user's have their own mark at an end, or any mark
    /// inside.
    fn find_marked(&self, marked: &str) -> Vec<Occurrence> {
        let mut text = String::with_capacity(marked.len());
        let mut marks: Vec<(usize, char)> = Vec::new();
        for c in marked.chars() {
            if is_mark(c) {
                marks.push((text.len(), c));
            } else {
                text.push(c);
            }
        }
        let mut found = self.find(&text);
        for one in &mut found {
            let first = marks.partition_point(|(at, _)| *at < one.place.start);
            one.of_user = marks[first..]
                .iter()
                .take_while(|(at, _)| *at <= one.place.end)
                .any(|(at, mark)| {
                    let inside = *at > one.place.start && *at < one.place.end;
                    let opens = *at == one.place.start && *mark == open_mark(one.token);
                    let closes = *at == one.place.end && *mark == close_mark(one.token);
                    inside || opens || closes
                });
        }
        found
    }
}

/// For each occurrence of the plain text, whether it is a token that the template wrote.
fn align(plain: &[Occurrence], marked: &[Occurrence]) -> Vec<bool> {
    let same = |(a, b): (&Occurrence, &Occurrence)| a.token == b.token;
    if plain.len() == marked.len() && plain.iter().zip(marked).all(same) {
        return marked.iter().map(|one| !one.of_user).collect();
    }
    longest_common(plain, marked)
}

/// Aligns by a longest common subsequence; what it leaves out is the user's.
fn longest_common(plain: &[Occurrence], marked: &[Occurrence]) -> Vec<bool> {
    /// Cells of the table; beyond, all tokens count as the user's.
    const MAX_CELLS: usize = 16 << 20;
    let mut is_template = vec![false; plain.len()];
    let width = marked.len() + 1;
    if (plain.len() + 1).saturating_mul(width) > MAX_CELLS {
        return is_template;
    }
    let mut lengths = vec![0u16; (plain.len() + 1) * width];
    for i in (0..plain.len()).rev() {
        for j in (0..marked.len()).rev() {
            lengths[i * width + j] = if plain[i].token == marked[j].token {
                lengths[(i + 1) * width + j + 1].saturating_add(1)
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < plain.len() && j < marked.len() {
        if plain[i].token == marked[j].token {
            is_template[i] = !marked[j].of_user;
            i += 1;
            j += 1;
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    is_template
}
