//! The source of a template, rewritten where minijinja reads it otherwise than Jinja2, in ways that
//! a template can also write.

use minijinja::machinery::{tokenize, Token, WhitespaceConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};

use super::macros::{KWARGS, VARARGS};

/// A variable and a function for the source text, so names that a template could write but does
/// not.
pub const ONE: &str = "moesaic_one";
pub const TUPLE: &str = "moesaic_tuple";

/// Tokens of one tag. Compiling folds constants at every level of an expression anew, which takes
/// quadratic time.
const MAX_TOKENS: usize = 10_000;

/// Jinja2's source as minijinja is to read it.
pub fn rewritten(text: &str, whitespace: WhitespaceConfig) -> Result<String, Error> {
    // Jinja2 has one line end, whatever the file has.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let text = rewritten_tags(&text);
    let mut edits = Edits::default();
    for token in tokenize(&text, false, SyntaxConfig, whitespace) {
        let (token, span) = token?;
        edits.take(&token, span.start_offset as usize, span.end_offset as usize)?;
    }
    Ok(edits.applied(&text))
}

/// transformers' own `{% generation %}` only marks text for training; here it is `{% if true %}`,
/// which leaves the same text. And a newline after `{% raw %}` is part of the text.
fn rewritten_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let opens = |pair: &[u8]| pair == b"{%" || pair == b"{#";
    while let Some(at) = rest.as_bytes().windows(2).position(opens) {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        if before.ends_with('#') {
            let end = tag.find("#}").unwrap_or(tag.len());
            out.push_str(&tag[..end]);
            rest = &tag[end..];
            continue;
        }
        let inside = tag.trim_start_matches(['-', '+']);
        let sign = &tag[..tag.len() - inside.len()];
        let word = inside.trim_start();
        let name = word.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = name.into_iter().next().unwrap_or_default();
        let after = word[name.len()..].trim_start();
        let closes = ["%}", "-%}", "+%}"]
            .iter()
            .any(|end| after.starts_with(end));
        let new = match name {
            "generation" if closes => "if true",
            "endgeneration" if closes => "endif",
            "raw" if closes => {
                let body = &after[after.find("%}").map_or(0, |at| at + 2)..];
                let (raw, left) = body.split_at(end_of_raw(body));
                let opening = if after.starts_with("%}") {
                    "+%}"
                } else {
                    "-%}"
                };
                out.extend([sign, " raw ", opening, raw]);
                rest = left;
                continue;
            }
            _ => {
                rest = tag;
                continue;
            }
        };
        out.extend([sign, " ", new, " "]);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Bytes before the tag that ends a raw text.
fn end_of_raw(body: &str) -> usize {
    let tags = body.match_indices("{%");
    let mut ends = tags.filter(|(at, _)| {
        let tag = body[at + 2..].trim_start_matches(['-', '+']).trim_start();
        tag.starts_with("endraw")
    });
    ends.next().map_or(body.len(), |(at, _)| at)
}

/// An open parenthesis.
struct Open {
    at: usize,
    /// It groups, and does not call.
    groups: bool,
    commas: usize,
    empty: bool,
}

/// A list of expressions without parentheses, which is a tuple if it has a comma.
struct Bare {
    at: usize,
    commas: usize,
}

struct Macro {
    /// Where its parameters end, and whether it has any.
    end: usize,
    has_parameters: bool,
    reads: [bool; 2],
}

/// What is written into the source, and what was seen to know it.
#[derive(Default)]
struct Edits {
    list: Vec<(usize, String)>,
    tokens: usize,
    /// The name of the tag.
    tag: String,
    open: Vec<Open>,
    bare: Option<Bare>,
    macros: Vec<Macro>,
    /// Ends of the last token, and the last two, as far as they matter.
    end: usize,
    last: Last,
    before: Last,
    /// Within the names that a tag assigns to.
    assigns: bool,
}

#[derive(Clone, Default, PartialEq)]
enum Last {
    #[default]
    Other,
    Open,
    Dot,
    Word(String),
    Constant,
    Close,
}

fn is_keyword(word: &str) -> bool {
    const KEYWORDS: [&str; 11] = [
        "and", "elif", "else", "for", "if", "in", "is", "not", "or", "set", "with",
    ];
    KEYWORDS.contains(&word)
}

impl Edits {
    fn take(&mut self, token: &Token, at: usize, end: usize) -> Result<(), Error> {
        self.tokens += 1;
        let opens = matches!(token, Token::VariableStart | Token::BlockStart);
        if opens {
            self.tokens = 0;
            self.open.clear();
            self.tag.clear();
            self.assigns = false;
            self.bare =
                matches!(token, Token::VariableStart).then_some(Bare { at: end, commas: 0 });
        } else if self.tokens > MAX_TOKENS {
            return Err(Error::new(
                ErrorKind::SyntaxError,
                "an expression is too long",
            ));
        }
        let operand = self.is_operand();
        match token {
            Token::ParenOpen => {
                let groups = !operand && !self.assigns;
                self.opened(at, groups);
            }
            Token::BracketOpen | Token::BraceOpen => self.opened(at, false),
            Token::ParenClose | Token::BracketClose | Token::BraceClose => self.closed(at),
            Token::Comma => match (self.open.last_mut(), &mut self.bare) {
                (Some(open), _) => open.commas += 1,
                (None, Some(bare)) => bare.commas += 1,
                _ => {}
            },
            // A star after these is not an operator but spreads a list into arguments.
            Token::Mul if self.last != Last::Open => self.unfold(at, "*"),
            Token::Div | Token::FloorDiv | Token::Mod if self.may_be_constant() => {
                self.unfold(at, "*");
            }
            Token::Assign if self.tag == "set" && self.open.is_empty() => {
                self.assigns = false;
                self.bare = Some(Bare { at: end, commas: 0 });
            }
            Token::VariableEnd | Token::BlockEnd => self.end_bare(),
            Token::Ident(word) => self.word(word, at, end, operand),
            _ => {}
        }
        if !matches!(token, Token::ParenOpen | Token::ParenClose) {
            if let Some(open) = self.open.last_mut().filter(|open| open.at < at) {
                open.empty = false;
            }
        }
        let last = match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen | Token::Comma => Last::Open,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => Last::Close,
            Token::Dot => Last::Dot,
            Token::Ident(word) => Last::Word((*word).to_owned()),
            Token::Str(_) | Token::String(_) | Token::Int(_) | Token::Int128(_) => Last::Constant,
            Token::Float(_) => Last::Constant,
            _ => Last::Other,
        };
        self.before = std::mem::replace(&mut self.last, last);
        self.end = end;
        Ok(())
    }

    /// Whether the last token ends an operand, so that an operator or a call follows.
    fn is_operand(&self) -> bool {
        match &self.last {
            Last::Word(word) => {
                let of_test = |last: &Last| *last == Last::Word("is".into());
                !is_keyword(word)
                    || self.before == Last::Dot
                    || (word == "in" && of_test(&self.before))
            }
            Last::Constant | Last::Close => true,
            _ => false,
        }
    }

    /// Whether what the last token ends could be computed while compiling.
    fn may_be_constant(&self) -> bool {
        match &self.last {
            Last::Word(word) => matches!(
                word.as_str(),
                "true" | "false" | "none" | "True" | "False" | "None"
            ),
            Last::Constant | Last::Close => true,
            _ => false,
        }
    }

    /// minijinja computes constant expressions while compiling, where nothing is charged and some
    /// results are not Python's. A variable that is one keeps it from it.
    fn unfold(&mut self, at: usize, operator: &str) {
        self.list.push((at, format!("{operator} {ONE} ")));
    }

    fn opened(&mut self, at: usize, groups: bool) {
        if let Some(open) = self.open.last_mut() {
            open.empty = false;
        }
        self.open.push(Open {
            at,
            groups,
            commas: 0,
            empty: true,
        });
    }

    fn closed(&mut self, at: usize) {
        let Some(open) = self.open.pop() else {
            return;
        };
        if open.groups && (open.commas > 0 || open.empty) {
            self.list.push((open.at, TUPLE.to_owned()));
        }
        if self.tag == "macro" && self.open.is_empty() {
            if let Some(own) = self.macros.last_mut().filter(|own| own.end == 0) {
                own.end = at;
                own.has_parameters = !open.empty;
            }
        }
    }

    fn end_bare(&mut self) {
        if let Some(bare) = self.bare.take().filter(|bare| bare.commas > 0) {
            self.list.push((bare.at, format!(" {TUPLE}(")));
            self.list.push((self.end, ")".to_owned()));
        }
    }

    fn word(&mut self, word: &str, at: usize, end: usize, operand: bool) {
        if self.tokens == 1 && self.bare.is_none() {
            self.tag = word.to_owned();
            self.assigns = matches!(word, "for" | "set");
            match word {
                "macro" => self.macros.push(Macro {
                    end: 0,
                    has_parameters: false,
                    reads: [false; 2],
                }),
                "endmacro" => self.end_macro(),
                _ => {}
            }
            return;
        }
        if self.last == Last::Dot {
            return;
        }
        let outside = self.tag == "for" && self.open.is_empty();
        match word {
            "in" if outside && self.assigns => {
                self.assigns = false;
                self.bare = Some(Bare { at: end, commas: 0 });
            }
            "if" | "recursive" if outside => self.end_bare(),
            "and" if operand && self.may_be_constant() => self.unfold(at, "and"),
            VARARGS | KWARGS if self.tag != "macro" => {
                if let Some(own) = self.macros.last_mut() {
                    own.reads[usize::from(word == KWARGS)] = true;
                }
            }
            _ => {}
        }
    }

    fn end_macro(&mut self) {
        let Some(own) = self.macros.pop() else {
            return;
        };
        let mut separator = if own.has_parameters { ", " } else { "" };
        for (name, reads) in [VARARGS, KWARGS].into_iter().zip(own.reads) {
            if reads && own.end > 0 {
                self.list.push((own.end, format!("{separator}{name}=none")));
                separator = ", ";
            }
        }
    }

    fn applied(mut self, text: &str) -> String {
        self.list.sort_by_key(|(at, _)| *at);
        let mut out = String::with_capacity(text.len() + self.list.len() * 16);
        let mut done = 0;
        for (at, new) in &self.list {
            out.push_str(&text[done..*at]);
            out.push_str(new);
            done = *at;
        }
        out.push_str(&text[done..]);
        out
    }
}
