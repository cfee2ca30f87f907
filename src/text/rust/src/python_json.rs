//! JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it, because chat templates were
//! written and models trained with that spelling.

use serde_json::Value;

/// Where spaces and line breaks go.
pub struct Style {
    pub indent: Option<usize>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

impl Style {
    pub fn new(indent: Option<usize>) -> Self {
        Self {
            indent,
            item_separator: if indent.is_some() { "," } else { ", " }.to_owned(),
            key_separator: ": ".to_owned(),
            sort_keys: false,
        }
    }
}

/// `value` as JSON text in `style`.
pub fn dump(value: &Value, style: &Style) -> String {
    let mut out = String::new();
    write(value, style, 0, &mut out);
    out
}

fn line_break(style: &Style, depth: usize, out: &mut String) {
    if let Some(indent) = style.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent * depth));
    }
}

fn write(value: &Value, style: &Style, depth: usize, out: &mut String) {
    match value {
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.item_separator);
                }
                line_break(style, depth + 1, out);
                write(item, style, depth + 1, out);
            }
            line_break(style, depth, out);
            out.push(']');
        }
        Value::Object(fields) if fields.is_empty() => out.push_str("{}"),
        Value::Object(fields) => {
            let mut entries: Vec<_> = fields.iter().collect();
            if style.sort_keys {
                entries.sort_by(|a, b| a.0.cmp(b.0));
            }
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.item_separator);
                }
                line_break(style, depth + 1, out);
                write_string(key, out);
                out.push_str(&style.key_separator);
                write(item, style, depth + 1, out);
            }
            line_break(style, depth, out);
            out.push('}');
        }
        Value::String(text) => write_string(text, out),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Null => out.push_str("null"),
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spells_like_python() {
        let value: Value =
            serde_json::from_str(r#"{"b": [1, 2.5, "é\n", true], "a": {}, "c": null}"#).unwrap();
        assert_eq!(
            dump(&value, &Style::new(None)),
            r#"{"b": [1, 2.5, "é\n", true], "a": {}, "c": null}"#
        );
        assert_eq!(
            dump(&value, &Style::new(Some(2))),
            "{\n  \"b\": [\n    1,\n    2.5,\n    \"é\\n\",\n    true\n  ],\n  \"a\": {},\n  \"c\": null\n}"
        );
    }
}
