//! Guard marks: how a rendered chat template says which of its text is the user's.
//!
//! A special token's text inside message content ("<|im_end|>") is put between OPEN and CLOSE, and
//! encoding reads what they enclose as plain text. All three marks are Unicode noncharacters, so
//! real text has none; one in a message all the same is written after ESCAPE. Text without
//! special tokens carries no marks at all and encodes as it is.

use std::ops::Range;

pub const OPEN: char = '\u{FDD0}';
pub const CLOSE: char = '\u{FDD1}';
pub const ESCAPE: char = '\u{FDD2}';

pub fn is_mark(c: char) -> bool {
    matches!(c, OPEN | CLOSE | ESCAPE)
}

/// The first two of a mark's three UTF-8 bytes.
const LEAD: &str = "\u{FDD0}";

/// Whether the text may hold marks; cheap, and never wrong when it says no.
pub fn may_hold_marks(text: &str) -> bool {
    let lead = &LEAD.as_bytes()[..2];
    text.as_bytes().windows(2).any(|pair| pair == lead)
}

/// The text without its marks, and the places in it that were enclosed.
pub fn unmark(marked: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(marked.len());
    let mut places = Vec::new();
    let mut open = None;
    let mut chars = marked.chars();
    while let Some(c) = chars.next() {
        match c {
            OPEN => open = Some(text.len()),
            CLOSE => {
                if let Some(start) = open.take().filter(|start| *start < text.len()) {
                    places.push(start..text.len());
                }
            }
            ESCAPE => text.extend(chars.next()),
            c => text.push(c),
        }
    }
    (text, places)
}

/// The reverse of `unmark`: `places` are sorted, apart and on character boundaries.
pub fn mark(text: &str, places: &[Range<usize>]) -> String {
    let mut marked = String::with_capacity(text.len() + places.len() * 6);
    let mut done = 0;
    for place in places {
        escape_into(&text[done..place.start], &mut marked);
        marked.push(OPEN);
        escape_into(&text[place.clone()], &mut marked);
        marked.push(CLOSE);
        done = place.end;
    }
    escape_into(&text[done..], &mut marked);
    marked
}

fn escape_into(text: &str, out: &mut String) {
    if !may_hold_marks(text) {
        out.push_str(text);
        return;
    }
    for c in text.chars() {
        if is_mark(c) {
            out.push(ESCAPE);
        }
        out.push(c);
    }
}
