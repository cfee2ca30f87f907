//! GBNF, the grammars of llama.cpp (its grammars/README.md), as Lark.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

/// Groups in groups that are followed.
const MOST_DEPTH: usize = 64;

/// Whether a grammar is GBNF rather than Lark.
pub fn looks_like(text: &str) -> bool {
    text.contains("::=")
}

pub fn to_lark(text: &str) -> Result<String, String> {
    let mut reader = Reader {
        text,
        at: 0,
        depth: 0,
        names: HashMap::new(),
        defined: HashSet::new(),
    };
    let mut out = String::new();
    reader.skip(true);
    while reader.at < text.len() {
        let name = reader.name()?;
        reader.skip(false);
        if !reader.take("::=") {
            return Err(reader.wrong("expected ::="));
        }
        reader.skip(true);
        if !reader.defined.insert(name) {
            return Err(reader.wrong(&format!("rule {name} is there twice")));
        }
        let name = reader.rule(name);
        let body = reader.choices()?;
        let _ = writeln!(out, "{name}: {body}");
        reader.skip(true);
    }
    if !reader.defined.contains("root") {
        return Err("the grammar has no rule named root".to_owned());
    }
    if let Some(name) = reader
        .names
        .keys()
        .find(|name| !reader.defined.contains(*name))
    {
        return Err(format!("the grammar has no rule named {name}"));
    }
    Ok(out)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// Of rules, in Lark.
    names: HashMap<&'a str, String>,
    defined: HashSet<&'a str>,
}

impl<'a> Reader<'a> {
    fn wrong(&self, what: &str) -> String {
        let line = self.text[..self.at].matches('\n').count() + 1;
        format!("line {line} of the grammar: {what}")
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn take(&mut self, mark: &str) -> bool {
        let found = self.rest().starts_with(mark);
        if found {
            self.at += mark.len();
        }
        found
    }

    /// Passes blanks and comments, and with `lines` the ends of lines.
    fn skip(&mut self, lines: bool) {
        loop {
            let rest = self.rest();
            let blank = |c: char| c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'));
            if let Some(c) = rest.chars().next().filter(|c| blank(*c)) {
                self.at += c.len_utf8();
            } else if rest.starts_with('#') {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else {
                return;
            }
        }
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let rest = self.rest();
        let of_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let size = rest.find(|c| !of_name(c)).unwrap_or(rest.len());
        if size == 0 {
            return Err(self.wrong("expected the name of a rule"));
        }
        self.at += size;
        Ok(&rest[..size])
    }

    /// The name of a rule in Lark, where case tells rules from terminals.
    fn rule(&mut self, name: &'a str) -> String {
        let number = self.names.len();
        let known = self.names.entry(name).or_insert_with(|| match name {
            "root" => "start".to_owned(),
            _ => format!("r{number}"),
        });
        known.clone()
    }

    fn choices(&mut self) -> Result<String, String> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(self.wrong("groups are too deep"));
        }
        let mut out = self.sequence()?;
        // A choice may go on in the next line.
        loop {
            let before = self.at;
            self.skip(true);
            if !self.take("|") {
                self.at = if self.depth == 1 { before } else { self.at };
                break;
            }
            self.skip(true);
            out.push_str(" | ");
            out.push_str(&self.sequence()?);
        }
        self.depth -= 1;
        Ok(out)
    }

    fn sequence(&mut self) -> Result<String, String> {
        let mut parts = Vec::new();
        loop {
            self.skip(self.depth > 1);
            let Some(c) = self.rest().chars().next() else {
                break;
            };
            let part = match c {
                '|' | ')' | '\n' | '\r' => break,
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.at += 1;
                    "/(?s:.)/".to_owned()
                }
                '(' => {
                    self.at += 1;
                    self.skip(true);
                    let inner = self.choices()?;
                    self.skip(true);
                    if !self.take(")") {
                        return Err(self.wrong("expected )"));
                    }
                    format!("({inner})")
                }
                _ => {
                    let name = self.name()?;
                    self.rule(name)
                }
            };
            parts.push(part + &self.repetition()?);
        }
        if parts.is_empty() {
            return Ok("\"\"".to_owned());
        }
        Ok(parts.join(" "))
    }

    fn repetition(&mut self) -> Result<String, String> {
        self.skip(self.depth > 1);
        let rest = self.rest();
        if rest.starts_with(['*', '+', '?']) {
            self.at += 1;
            return Ok(rest[..1].to_owned());
        }
        if !self.take("{") {
            return Ok(String::new());
        }
        let end = self.rest().find('}');
        let inside = end.map_or("", |end| &self.rest()[..end]);
        let numbers = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        let (low, high) = inside.split_once(',').unwrap_or((inside, inside));
        let (low, high) = (low.trim(), high.trim());
        if low.is_empty() || !numbers(low) || !numbers(high) {
            return Err(self.wrong("expected {n}, {n,} or {n,m}"));
        }
        self.at += inside.len() + 1;
        Ok(match inside.contains(',') {
            true => format!("{{{low},{high}}}"),
            false => format!("{{{low}}}"),
        })
    }

    /// The character after a backslash, the same in texts and in classes.
    fn escaped(&mut self) -> Result<char, String> {
        let Some(c) = self.rest().chars().next() else {
            return Err(self.wrong("nothing after a backslash"));
        };
        self.at += c.len_utf8();
        let digits = match c {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '"' | '\\' | '[' | ']' | '-' | '^' | '/' => return Ok(c),
            _ => return Err(self.wrong("an escape that GBNF does not have")),
        };
        let code = self.rest().get(..digits);
        let code = code.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let Some(found) = code.and_then(char::from_u32) else {
            return Err(self.wrong("an escape that is no character"));
        };
        self.at += digits;
        Ok(found)
    }

    fn literal(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(c) = self.rest().chars().next() else {
                return Err(self.wrong("a text without an end"));
            };
            self.at += c.len_utf8();
            match c {
                '"' => break,
                '\\' => text.push(self.escaped()?),
                _ => text.push(c),
            }
        }
        serde_json::to_string(&text).map_err(|e| e.to_string())
    }

    fn class(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut out = String::from("/[");
        if self.take("^") {
            out.push('^');
        }
        let mut empty = true;
        loop {
            let Some(c) = self.rest().chars().next() else {
                return Err(self.wrong("a class without an end"));
            };
            self.at += c.len_utf8();
            match c {
                ']' if !empty => break,
                ']' => return Err(self.wrong("an empty class")),
                '-' if !empty && !self.rest().starts_with(']') => out.push('-'),
                '\\' => {
                    let c = self.escaped()?;
                    push_in_class(c, &mut out);
                }
                _ => push_in_class(c, &mut out),
            }
            empty = false;
        }
        out.push_str("]/");
        Ok(out)
    }
}

fn push_in_class(c: char, out: &mut String) {
    let _ = write!(out, "\\x{{{:X}}}", c as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lark(text: &str) -> String {
        to_lark(text).unwrap()
    }

    #[test]
    fn rules_become_rules() {
        assert_eq!(
            lark("root ::= \"yes\" | no-way\nno-way ::= \"n\" \"\\\"o\"+ # or so\n"),
            "start: \"yes\" | r1\nr1: \"n\" \"\\\"o\"+\n"
        );
        assert_eq!(
            lark("root ::= ( \"a\"\n  | [b-d^\\]]{2,3} )* .\n"),
            "start: (\"a\" | /[\\x{62}-\\x{64}\\x{5E}\\x{5D}]/{2,3})* /(?s:.)/\n"
        );
        assert_eq!(lark("root ::= [^\\x41-]\n"), "start: /[^\\x{41}\\x{2D}]/\n");
        assert_eq!(
            lark("root ::=\n  \"a\" |\n  \"b\"\n"),
            "start: \"a\" | \"b\"\n"
        );
        assert_eq!(
            lark("root ::= \"a\" {2} \"b\"{3,} | "),
            "start: \"a\"{2} \"b\"{3,} | \"\"\n"
        );
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line() {
        for (text, problem) in [
            ("x ::= \"a\"", "the grammar has no rule named root"),
            ("root ::= other", "the grammar has no rule named other"),
            (
                "root ::= \"a\"\nroot ::= \"b\"",
                "line 2 of the grammar: rule root is there twice",
            ),
            ("root = \"a\"", "line 1 of the grammar: expected ::="),
            (
                "root ::= \"a\"\nb ::= [",
                "line 2 of the grammar: a class without an end",
            ),
            (
                "root ::= \"a",
                "line 1 of the grammar: a text without an end",
            ),
            ("root ::= (\"a\"", "line 1 of the grammar: expected )"),
            (
                "root ::= \"\\q\"",
                "line 1 of the grammar: an escape that GBNF does not have",
            ),
            (
                "root ::= \"\\uD800\"",
                "line 1 of the grammar: an escape that is no character",
            ),
            (
                "root ::= \"a\"{x}",
                "line 1 of the grammar: expected {n}, {n,} or {n,m}",
            ),
            ("root ::= []", "line 1 of the grammar: an empty class"),
            (
                "root ::= !",
                "line 1 of the grammar: expected the name of a rule",
            ),
        ] {
            assert_eq!(to_lark(text).unwrap_err(), problem, "{text}");
        }
        assert!(to_lark(&("root ::= ".to_owned() + &"(".repeat(100))).is_err());
    }
}
