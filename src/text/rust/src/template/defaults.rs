//! Macros whose defaults are made of their other parameters, which minijinja looks for outside.

use minijinja::machinery::{tokenize, Token, WhitespaceConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::Error;

/// A parameter of a macro.
struct Parameter<'a> {
    name: &'a str,
    /// Where its default begins and ends, the = included.
    default: Option<(usize, usize)>,
    /// Names that the default has.
    names: Vec<&'a str>,
}

/// The source, in which `{% macro m(a, b=a) %}` is
/// `{% macro m(a, b) %}{% set b = b if b is defined else (a) %}`.
pub fn with_moved_defaults(text: &str, whitespace: WhitespaceConfig) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    let (mut in_macro, mut first, mut depth) = (false, false, 0usize);
    let mut parameters: Vec<Parameter> = Vec::new();
    for token in tokenize(text, false, SyntaxConfig, whitespace) {
        let (token, span) = token?;
        let (at, end) = (span.start_offset as usize, span.end_offset as usize);
        match &token {
            Token::BlockStart => first = true,
            Token::Ident("macro") if first => {
                (in_macro, first, depth) = (true, false, 0);
                parameters.clear();
            }
            Token::BlockEnd if in_macro => {
                in_macro = false;
                let moved = moved(&parameters);
                for (from, to) in moved.iter().filter_map(|parameter| parameter.default) {
                    out.push_str(&text[done..from]);
                    done = to;
                }
                out.push_str(&text[done..at]);
                for parameter in moved {
                    let name = parameter.name;
                    let default = parameter
                        .default
                        .map_or("", |(from, to)| &text[from + 1..to]);
                    out += &format!(
                        "%}}{{% set {name} = {name} if {name} is defined else ({default}) "
                    );
                }
                done = at;
            }
            _ if !in_macro => first = false,
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        if in_macro {
            seen(&mut parameters, &token, depth, at, end);
        }
    }
    out.push_str(&text[done..]);
    Ok(out)
}

/// Takes a token of a macro's tag.
fn seen<'a>(
    parameters: &mut Vec<Parameter<'a>>,
    token: &Token<'a>,
    depth: usize,
    at: usize,
    end: usize,
) {
    let last = parameters.last_mut();
    match (token, last) {
        (Token::Assign, Some(last)) if depth == 1 && last.default.is_none() => {
            last.default = Some((at, end));
        }
        (Token::Comma, _) if depth == 1 => parameters.push(Parameter {
            name: "",
            default: None,
            names: Vec::new(),
        }),
        (Token::ParenOpen, None) => parameters.push(Parameter {
            name: "",
            default: None,
            names: Vec::new(),
        }),
        (Token::ParenClose, _) if depth == 0 => {}
        (token, Some(last)) if depth > 0 => {
            if let Token::Ident(word) = token {
                match last.default {
                    None => last.name = word,
                    Some(_) => last.names.push(word),
                }
            }
            if let Some((_, to)) = &mut last.default {
                *to = end;
            }
        }
        _ => {}
    }
}

/// The parameters that must be set within the macro: those whose defaults name a parameter.
fn moved<'a, 'b>(parameters: &'b [Parameter<'a>]) -> Vec<&'b Parameter<'a>> {
    let is_own = |name: &&str| parameters.iter().any(|known| known.name == *name);
    let refers = |parameter: &&Parameter| parameter.names.iter().any(is_own);
    parameters.iter().filter(refers).collect()
}
