//! The source of a template, rewritten where minijinja reads it otherwise than Jinja2, in ways that
//! a template can also write.

use minijinja::machinery::{tokenize, Token, WhitespaceConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};

use super::defaults::with_moved_defaults;
use super::macros::{KWARGS, VARARGS};
use super::tags::rewritten_tags;

/// A variable, a function and a filter for the source text, so names that a template could write but
/// does not.
pub const ONE: &str = "moesaic_one";
pub const TUPLE: &str = "moesaic_tuple";
/// A filter that changes nothing.
pub const SAME: &str = "moesaic_same";

/// Tokens of one tag. Compiling folds constants at every level of an expression anew, which takes
/// quadratic time.
const MAX_TOKENS: usize = 10_000;

/// Jinja2's source as minijinja is to read it.
pub fn rewritten(text: &str, whitespace: WhitespaceConfig) -> Result<String, Error> {
    // Jinja2 has one line end, whatever the file has.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let text = with_moved_defaults(&rewritten_tags(&text)?, whitespace)?;
    let mut edits = Edits::default();
    for token in tokenize(&text, false, SyntaxConfig, whitespace) {
        let (token, span) = token?;
        edits.take(&token, span.start_offset as usize, span.end_offset as usize)?;
    }
    Ok(edits.applied(&text))
}

/// An open parenthesis.
struct Open {
    at: usize,
    /// It groups, and does not call.
    groups: bool,
    commas: usize,
    empty: bool,
    /// What it has or gives is not the same each time.
    varies: bool,
}

/// A sign before an operand.
struct Sign {
    /// Where it ends, and how many brackets are open there.
    end: usize,
    depth: usize,
    /// An attribute, an index or a call follows the operand.
    postfix: bool,
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
    /// From where to where it is written over, and what with.
    list: Vec<(usize, usize, String)>,
    tokens: usize,
    /// The name of the tag.
    tag: String,
    open: Vec<Open>,
    bare: Option<Bare>,
    signs: Vec<Sign>,
    macros: Vec<Macro>,
    /// Whether what the last bracket closed varies.
    closed_varies: bool,
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
    Close {
        varies: bool,
    },
}

fn is_keyword(word: &str) -> bool {
    const KEYWORDS: [&str; 11] = [
        "and", "elif", "else", "for", "if", "in", "is", "not", "or", "set", "with",
    ];
    KEYWORDS.contains(&word)
}

fn is_constant(word: &str) -> bool {
    matches!(word, "true" | "false" | "none" | "True" | "False" | "None")
}

impl Edits {
    fn take(&mut self, token: &Token, at: usize, end: usize) -> Result<(), Error> {
        self.tokens += 1;
        let opens = matches!(token, Token::VariableStart | Token::BlockStart);
        if opens {
            self.tokens = 0;
            self.open.clear();
            self.signs.clear();
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
        let opens_tag = self.tokens == 1 && self.bare.is_none();
        self.end_signs(token, operand);
        match token {
            Token::ParenOpen => {
                let groups = !operand && !self.assigns;
                self.opened(at, groups, operand);
            }
            Token::BracketOpen | Token::BraceOpen => self.opened(at, false, operand),
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
            Token::Minus | Token::Plus if !operand && !opens_tag => {
                // Jinja2 has a sign that changes nothing; two that change it are one.
                if matches!(token, Token::Plus) {
                    self.list.push((at, end, "- -".to_owned()));
                }
                self.signs.push(Sign {
                    end,
                    depth: self.open.len(),
                    postfix: false,
                });
            }
            Token::Eq
            | Token::Ne
            | Token::Lt
            | Token::Lte
            | Token::Gt
            | Token::Gte
            | Token::Tilde
            | Token::Pow
                if self.may_be_constant() =>
            {
                self.keep(at);
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
            Token::ParenClose | Token::BracketClose | Token::BraceClose => Last::Close {
                varies: std::mem::take(&mut self.closed_varies),
            },
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
            Last::Constant | Last::Close { .. } => true,
            _ => false,
        }
    }

    /// Writes brackets around what a sign is for, where minijinja would take less: at the end of the
    /// operand with its attributes, indices and calls.
    fn end_signs(&mut self, token: &Token, operand: bool) {
        let goes_on = matches!(token, Token::Dot | Token::BracketOpen | Token::ParenOpen);
        while let Some(sign) = self
            .signs
            .last_mut()
            .filter(|sign| sign.depth == self.open.len())
        {
            if operand && goes_on {
                sign.postfix = true;
            }
            if !operand || goes_on {
                break;
            }
            let (end, postfix) = (sign.end, sign.postfix);
            self.signs.pop();
            if let Some(outer) = self
                .signs
                .last_mut()
                .filter(|sign| sign.depth == self.open.len())
            {
                outer.postfix |= postfix;
            }
            if postfix {
                self.insert(end, "(");
                self.insert(self.end, ")");
            }
        }
    }

    /// Whether what the last token ends could be computed while compiling.
    fn may_be_constant(&self) -> bool {
        match &self.last {
            Last::Word(word) => is_constant(word),
            Last::Constant | Last::Close { varies: false } => true,
            _ => false,
        }
    }

    /// minijinja computes constant expressions while compiling, where nothing is charged and some
    /// results are not Python's. A variable that is one keeps it from it.
    fn unfold(&mut self, at: usize, operator: &str) {
        self.insert(at, &format!("{operator} {ONE} "));
    }

    /// The same for an operator whose left operand may be of any type.
    fn keep(&mut self, at: usize) {
        self.insert(at, &format!("|{SAME} "));
    }

    fn insert(&mut self, at: usize, text: &str) {
        self.list.push((at, at, text.to_owned()));
    }

    fn opened(&mut self, at: usize, groups: bool, varies: bool) {
        if let Some(open) = self.open.last_mut() {
            open.empty = false;
        }
        self.open.push(Open {
            at,
            groups,
            commas: 0,
            empty: true,
            varies,
        });
    }

    fn closed(&mut self, at: usize) {
        let Some(open) = self.open.pop() else {
            return;
        };
        let is_tuple = open.groups && (open.commas > 0 || open.empty);
        if is_tuple {
            self.insert(open.at, TUPLE);
        }
        self.closed_varies = open.varies || is_tuple;
        if let Some(outer) = self.open.last_mut() {
            outer.varies |= self.closed_varies;
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
            self.insert(bare.at, &format!(" {TUPLE}("));
            self.insert(self.end, ")");
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
        if let Some(open) = self.open.last_mut().filter(|_| !is_constant(word)) {
            open.varies |= !is_keyword(word);
        }
        let outside = self.tag == "for" && self.open.is_empty();
        match word {
            "in" if outside && self.assigns => {
                self.assigns = false;
                self.bare = Some(Bare { at: end, commas: 0 });
            }
            "if" | "recursive" if outside => self.end_bare(),
            "and" if operand && self.may_be_constant() => self.unfold(at, "and"),
            "in" | "not" if operand && self.may_be_constant() => self.keep(at),
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
                self.insert(own.end, &format!("{separator}{name}=none"));
                separator = ", ";
            }
        }
    }

    fn applied(mut self, text: &str) -> String {
        self.list.sort_by_key(|(at, _, _)| *at);
        let mut out = String::with_capacity(text.len() + self.list.len() * 16);
        let mut done = 0;
        for (at, end, new) in &self.list {
            out.push_str(&text[done..*at]);
            out.push_str(new);
            done = *end;
        }
        out.push_str(&text[done..]);
        out
    }
}
