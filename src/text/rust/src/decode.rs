//! From token ids to text, one token at a time.
//!
//! A tokenizer's decoder is a chain of steps that the `tokenizers` crate runs over a whole list of
//! tokens. Here each step is a small state machine, so that text comes out as soon as it is
//! certain; decoding a whole list is pushing it token by token, which is why a stream always adds
//! up to the whole. The one difference to the crate is kinder: in a run of byte tokens that is not
//! UTF-8 throughout, the crate turns every byte into U+FFFD, here only those that are wrong.

use std::sync::Arc;

use serde_json::Value;
use tokenizers::{Decoder, DecoderWrapper};

const REPLACEMENT: &str = "\u{FFFD}";

/// One step of a decoder with its state.
#[derive(Clone)]
enum Step {
    /// `from` becomes `to`, within one token.
    Replace { from: String, to: String },
    /// A step of the crate that looks at one token alone.
    PerToken(Arc<DecoderWrapper>),
    /// Tokens `<0xHH>` are bytes; `pending` is the start of a character.
    ByteFallback { pending: Vec<u8> },
    /// Characters stand for bytes, as in GPT-2.
    ByteLevel { pending: Vec<u8> },
    /// At most `left` and `right` times `content` off the ends of each token.
    StripToken {
        content: char,
        left: usize,
        right: usize,
    },
    /// The same off the ends of the whole text. `held` are trailing ones that may yet be the end.
    StripText {
        content: char,
        left: usize,
        right: usize,
        held: usize,
    },
    /// The replacement character is a space, and nothing in the first token when `drop_first`.
    Metaspace {
        replacement: char,
        drop_first: bool,
        first: bool,
    },
    /// Words are joined by spaces unless they start with `prefix`.
    WordPiece {
        prefix: String,
        cleanup: Option<Arc<DecoderWrapper>>,
        first: bool,
    },
    /// `suffix` ends a word: a space, but nothing in the last token, which is why one is held.
    Suffix {
        suffix: String,
        held: Option<String>,
    },
    /// No decoder at all: tokens joined by spaces.
    Join { first: bool },
    /// Anything else: all tokens are kept and given to the crate in the end.
    Whole {
        decoder: Arc<DecoderWrapper>,
        tokens: Vec<String>,
    },
}

/// A decoder at its start; clone it for each text.
#[derive(Clone)]
pub struct Chain {
    steps: Vec<Step>,
}

impl Chain {
    /// From the decoder in tokenizer.json and what the crate made of it.
    pub fn new(parsed: Value, decoder: Option<&DecoderWrapper>) -> Chain {
        let Some(decoder) = decoder else {
            return Chain {
                steps: vec![Step::Join { first: true }],
            };
        };
        let listed;
        let parts = match parsed.get("type").and_then(Value::as_str) {
            Some("Sequence") => match parsed.get("decoders").and_then(Value::as_array) {
                Some(parts) => parts.as_slice(),
                None => &[],
            },
            _ => {
                listed = [parsed];
                &listed
            }
        };
        let mut steps = Vec::with_capacity(parts.len());
        // From Fuse on there is one token, the whole text, which arrives in pieces.
        let mut fused = false;
        for part in parts {
            match translate(part, &mut fused) {
                Some(step) => steps.extend(step),
                None => {
                    steps = vec![Step::Whole {
                        decoder: Arc::new(decoder.clone()),
                        tokens: Vec::new(),
                    }];
                    break;
                }
            }
        }
        Chain { steps }
    }

    /// Whether tokens are kept until the end.
    pub fn keeps_tokens(&self) -> bool {
        self.steps
            .iter()
            .any(|step| matches!(step, Step::Whole { .. }))
    }

    /// Adds a token; text that became certain is appended to `out`.
    pub fn push(&mut self, token: String, out: &mut String) {
        push_through(&mut self.steps, token, out);
    }

    /// Ends the text: appends what was held back.
    pub fn finish(&mut self, out: &mut String) {
        for at in 0..self.steps.len() {
            let (head, rest) = self.steps.split_at_mut(at + 1);
            if let Some(token) = head[at].finish() {
                push_through(rest, token, out);
            }
        }
    }

    /// The bytes that one token stands for inside a text.
    pub fn token_bytes(&self, token: &str) -> Vec<u8> {
        let mut text = token.to_owned();
        for step in &self.steps {
            match step {
                Step::Replace { from, to } => text = text.replace(from.as_str(), to),
                Step::PerToken(decoder) => text = per_token(decoder, text),
                Step::ByteFallback { .. } => {
                    if let Some(byte) = byte_token(&text) {
                        return vec![byte];
                    }
                }
                Step::ByteLevel { .. } => return byte_level(&text),
                Step::Metaspace { replacement, .. } => text = text.replace(*replacement, " "),
                Step::Suffix { suffix, .. } => text = text.replace(suffix.as_str(), " "),
                _ => {}
            }
        }
        text.into_bytes()
    }
}

/// The step of one decoder's JSON: none for one without effect; None when it cannot run by token.
fn translate(part: &Value, fused: &mut bool) -> Option<Option<Step>> {
    let text = |name: &str| part.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| part.get(name).and_then(Value::as_u64).unwrap_or(0) as usize;
    let character = |name: &str| text(name).and_then(|t| t.chars().next());
    let step = match part.get("type").and_then(Value::as_str)? {
        "Fuse" => {
            *fused = true;
            return Some(None);
        }
        "Replace" => match part.get("pattern")?.get("String").and_then(Value::as_str) {
            // Longer patterns could lie across two pieces of a fused text.
            Some(from) if !*fused || from.chars().count() == 1 => Step::Replace {
                from: from.to_owned(),
                to: text("content")?,
            },
            None if !*fused => Step::PerToken(Arc::new(parse_decoder(part)?)),
            _ => return None,
        },
        "ByteFallback" if *fused => return Some(None),
        "ByteFallback" => Step::ByteFallback {
            pending: Vec::new(),
        },
        "ByteLevel" if !*fused => {
            *fused = true;
            Step::ByteLevel {
                pending: Vec::new(),
            }
        }
        "Strip" => {
            let (content, left, right) = (character("content")?, number("start"), number("stop"));
            if *fused {
                Step::StripText {
                    content,
                    left,
                    right,
                    held: 0,
                }
            } else {
                Step::StripToken {
                    content,
                    left,
                    right,
                }
            }
        }
        "Metaspace" if !*fused => {
            let scheme = text("prepend_scheme").unwrap_or_else(|| "always".into());
            let off = part.get("add_prefix_space") == Some(&Value::Bool(false));
            Step::Metaspace {
                replacement: character("replacement")?,
                drop_first: scheme != "never" && !off,
                first: true,
            }
        }
        "WordPiece" if !*fused => {
            let prefix = text("prefix")?;
            let cleanup = part.get("cleanup") == Some(&Value::Bool(true));
            Step::WordPiece {
                prefix,
                cleanup: cleanup.then(|| parse_decoder(part).map(Arc::new)).flatten(),
                first: true,
            }
        }
        "BPEDecoder" if !*fused => Step::Suffix {
            suffix: text("suffix")?,
            held: None,
        },
        _ => return None,
    };
    Some(Some(step))
}

fn parse_decoder(part: &Value) -> Option<DecoderWrapper> {
    serde_json::from_value(part.clone()).ok()
}

fn push_through(steps: &mut [Step], token: String, out: &mut String) {
    match steps.split_first_mut() {
        None => out.push_str(&token),
        Some((step, rest)) => {
            if let Some(token) = step.push(token) {
                push_through(rest, token, out);
            }
        }
    }
}

fn per_token(decoder: &DecoderWrapper, token: String) -> String {
    match decoder.decode_chain(vec![token.clone()]) {
        Ok(tokens) => tokens.concat(),
        Err(_) => token,
    }
}

fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// GPT-2's table from characters to bytes: printable Latin-1 stands for itself, the other bytes
/// for the characters from U+0100 on in order.
fn byte_of_char(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The bytes of a byte-level token; one with other characters (an added token) is its own text.
fn byte_level(token: &str) -> Vec<u8> {
    token
        .chars()
        .map(byte_of_char)
        .collect::<Option<Vec<u8>>>()
        .unwrap_or_else(|| token.as_bytes().to_vec())
}

/// Takes all complete characters off `pending`. Wrong bytes become U+FFFD: one each, or one for
/// each maximal start of a character when `by_part`.
fn take_characters(pending: &mut Vec<u8>, by_part: bool) -> String {
    let mut text = String::new();
    let mut at = 0;
    loop {
        match std::str::from_utf8(&pending[at..]) {
            Ok(valid) => {
                text.push_str(valid);
                at = pending.len();
                break;
            }
            Err(e) => {
                let valid = &pending[at..at + e.valid_up_to()];
                text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                at += e.valid_up_to();
                let Some(wrong) = e.error_len() else { break };
                text.push_str(&REPLACEMENT.repeat(if by_part { 1 } else { wrong }));
                at += wrong;
            }
        }
    }
    pending.drain(..at);
    text
}

fn strip_token(token: &str, content: char, left: usize, right: usize) -> String {
    let mut rest = token;
    for _ in 0..left {
        rest = rest.strip_prefix(content).unwrap_or(rest);
    }
    for _ in 0..right {
        rest = rest.strip_suffix(content).unwrap_or(rest);
    }
    rest.to_owned()
}

impl Step {
    /// What the token becomes; None while it is held back.
    fn push(&mut self, token: String) -> Option<String> {
        match self {
            Step::Replace { from, to } => Some(token.replace(from.as_str(), to)),
            Step::PerToken(decoder) => Some(per_token(decoder, token)),
            Step::ByteFallback { pending } => match byte_token(&token) {
                Some(byte) => {
                    pending.push(byte);
                    let text = take_characters(pending, false);
                    (!text.is_empty()).then_some(text)
                }
                None if pending.is_empty() => Some(token),
                None => {
                    let text = REPLACEMENT.repeat(pending.len()) + &token;
                    pending.clear();
                    Some(text)
                }
            },
            Step::ByteLevel { pending } => {
                pending.extend(byte_level(&token));
                Some(take_characters(pending, true))
            }
            Step::StripToken {
                content,
                left,
                right,
            } => Some(strip_token(&token, *content, *left, *right)),
            Step::StripText { .. } => Some(self.strip_text(&token)),
            Step::Metaspace {
                replacement,
                drop_first,
                first,
            } => {
                let space = if *first && *drop_first { "" } else { " " };
                *first = false;
                Some(token.replace(*replacement, space))
            }
            Step::WordPiece {
                prefix,
                cleanup,
                first,
            } => {
                let text = match token.strip_prefix(prefix.as_str()) {
                    _ if *first => token,
                    Some(rest) => rest.to_owned(),
                    None => format!(" {token}"),
                };
                *first = false;
                // As the only token of a list the crate's step adds no space, it only cleans up.
                Some(match cleanup {
                    Some(decoder) => per_token(decoder, text),
                    None => text,
                })
            }
            Step::Suffix { suffix, held } => {
                let before = held.replace(token);
                before.map(|token| token.replace(suffix.as_str(), " "))
            }
            Step::Join { first } => {
                let text = if *first { token } else { format!(" {token}") };
                *first = false;
                Some(text)
            }
            Step::Whole { tokens, .. } => {
                tokens.push(token);
                None
            }
        }
    }

    fn strip_text(&mut self, token: &str) -> String {
        let Step::StripText {
            content,
            left,
            right,
            held,
        } = self
        else {
            return token.to_owned();
        };
        let mut rest = token;
        while *left > 0 && !rest.is_empty() {
            match rest.strip_prefix(*content) {
                Some(tail) => {
                    rest = tail;
                    *left -= 1;
                }
                None => *left = 0,
            }
        }
        if rest.is_empty() {
            return String::new();
        }
        let mut text = content.to_string().repeat(*held);
        text.push_str(rest);
        *held = 0;
        while *held < *right && text.ends_with(*content) {
            text.pop();
            *held += 1;
        }
        text
    }

    /// What the end of the text makes certain.
    fn finish(&mut self) -> Option<String> {
        match self {
            Step::ByteFallback { pending } => {
                let bytes = std::mem::take(pending);
                (!bytes.is_empty()).then(|| REPLACEMENT.repeat(bytes.len()))
            }
            Step::ByteLevel { pending } => {
                let bytes = std::mem::take(pending);
                (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
            }
            Step::Suffix { suffix, held } => {
                held.take().map(|token| token.replace(suffix.as_str(), ""))
            }
            Step::Whole { decoder, tokens } => {
                let tokens = std::mem::take(tokens);
                if tokens.is_empty() {
                    return None;
                }
                decoder.decode(tokens).ok()
            }
            _ => None,
        }
    }
}
