//! Chat templates in Jinja, as transformers renders them, under budgets of steps, depth and output.

use crate::python_json::{dump, Style};
use crate::tokenizer::config_token;
use crate::{Problem, GUARD_END, GUARD_START};
use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, Error, ErrorKind, Value as JinjaValue};
use serde_json::{Map, Value};
use std::io::Write;

/// Instructions of one rendering; a conversation of a thousand messages takes some 100,000.
const MAX_STEPS: u64 = 5_000_000;
const MAX_DEPTH: usize = 64;
const MAX_OUTPUT: usize = 32 << 20;
/// Marks the message of raise_exception among other errors.
const RAISED: &str = "raise_exception: ";

pub struct ChatTemplate {
    environment: Environment<'static>,
    has_tool_template: bool,
    /// Texts of the model's special tokens, longest first.
    special: Vec<String>,
    /// bos_token, eos_token and their like, as templates see them.
    tokens: Map<String, Value>,
}

/// Counts what is written and stops at the cap.
struct Capped {
    text: Vec<u8>,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.text.len() + bytes.len() > MAX_OUTPUT {
            return Err(std::io::Error::other("the rendered text is too long"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("{RAISED}{message}"),
    ))
}

fn strftime_now(format: String) -> Result<String, Error> {
    let mut text = String::new();
    // An unknown directive is an error of the formatter, not a panic.
    std::fmt::Write::write_fmt(
        &mut text,
        format_args!("{}", chrono::Local::now().format(&format)),
    )
    .map_err(|_| Error::new(ErrorKind::InvalidOperation, "strftime_now: bad format"))?;
    Ok(text)
}

/// transformers' `tojson`: json.dumps without escaping for HTML.
fn tojson(
    value: JinjaValue,
    positional: Rest<JinjaValue>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    let indent: Option<usize> = kwargs.get("indent")?;
    let sort_keys: Option<bool> = kwargs.get("sort_keys")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    kwargs.assert_all_used()?;
    let positional_indent = positional
        .first()
        .and_then(|first| usize::try_from(first.clone()).ok());
    let mut style = Style::new(indent.or(positional_indent));
    style.sort_keys = sort_keys.unwrap_or(false);
    if let Some([item, key]) = separators.as_deref() {
        style.item_separator.clone_from(item);
        style.key_separator.clone_from(key);
    }
    let json = serde_json::to_value(&value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let text = dump(&json, &style);
    if ensure_ascii != Some(true) {
        return Ok(text);
    }
    let mut ascii = String::new();
    for unit in text.chars() {
        if unit.is_ascii() {
            ascii.push(unit);
        } else {
            for code in unit.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{code:04x}"));
            }
        }
    }
    Ok(ascii)
}

/// transformers marks the assistant's part with a tag of its own, which changes no text.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let tag = &rest[start..start + length + 2];
        let body = &tag[2..tag.len() - 2];
        let name = body.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        out.push_str(&rest[..start]);
        match name {
            "generation" => out.push_str(&tag.replacen(name, "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen(name, "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

fn new_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    environment
}

/// Texts of tokens marked special in tokenizer.json and tokenizer_config.json, longest first.
fn special_tokens(json: &Value, config: &Value) -> Vec<String> {
    let mut list: Vec<String> = json["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .chain(
            config["added_tokens_decoder"]
                .as_object()
                .into_iter()
                .flat_map(|tokens| tokens.values()),
        )
        .filter(|token| token["special"] == true)
        .filter_map(|token| token["content"].as_str())
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .collect();
    list.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
    list.dedup();
    list
}

fn parse(name: &str, bytes: &[u8]) -> Result<Value, Problem> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|e| Problem::File(format!("{name} is not JSON: {e}")))
}

impl ChatTemplate {
    /// None when neither `source` nor the config has a template.
    pub fn new(source: &str, config: &[u8], json: &[u8]) -> Result<Option<Self>, Problem> {
        let config = parse("tokenizer_config.json", config)?;
        let json = parse("tokenizer.json", json)?;
        let mut environment = new_environment();
        let mut found = false;
        let mut has_tool_template = false;
        let mut add = |name: &'static str, text: &str| {
            environment
                .add_template_owned(name, without_generation_tags(text))
                .map_err(|e| Problem::File(format!("the chat template has an error: {e:#}")))
        };
        if !source.is_empty() {
            add("default", source)?;
            found = true;
        } else if let Some(text) = config["chat_template"].as_str() {
            add("default", text)?;
            found = true;
        } else {
            for entry in config["chat_template"].as_array().into_iter().flatten() {
                match (entry["name"].as_str(), entry["template"].as_str()) {
                    (Some("default"), Some(text)) => {
                        add("default", text)?;
                        found = true;
                    }
                    (Some("tool_use"), Some(text)) => {
                        add("tool_use", text)?;
                        has_tool_template = true;
                    }
                    _ => {}
                }
            }
        }
        if !found {
            return Ok(None);
        }
        let mut tokens = Map::new();
        for name in [
            "bos_token",
            "eos_token",
            "unk_token",
            "pad_token",
            "sep_token",
            "cls_token",
            "mask_token",
        ] {
            if let Some(text) = config_token(&config, name) {
                tokens.insert(name.to_owned(), Value::String(text));
            }
        }
        Ok(Some(Self {
            environment,
            has_tool_template,
            special: special_tokens(&json, &config),
            tokens,
        }))
    }

    /// Renders a context of messages, tools and whatever else the template asks for.
    pub fn render(&self, json: &[u8]) -> Result<String, Problem> {
        let mut given: Value = serde_json::from_slice(json)
            .map_err(|e| Problem::Request(format!("the conversation is not JSON: {e}")))?;
        let fields = given
            .as_object_mut()
            .ok_or_else(|| Problem::Request("the conversation is not an object".to_owned()))?;
        for part in ["messages", "tools", "documents"] {
            if let Some(value) = fields.get_mut(part) {
                self.guard(value, part == "messages");
            }
        }
        let mut context = self.tokens.clone();
        context.append(fields);
        context
            .entry("add_generation_prompt")
            .or_insert(Value::Bool(false));
        let with_tools = context.get("tools").is_some_and(|tools| !tools.is_null());
        let name = if with_tools && self.has_tool_template {
            "tool_use"
        } else {
            "default"
        };
        let template = self
            .environment
            .get_template(name)
            .map_err(|e| Problem::Request(e.to_string()))?;
        let mut out = Capped { text: Vec::new() };
        template
            .render_captured_to(JinjaValue::from_serialize(&context), &mut out)
            .map_err(|e| Problem::Request(describe(&e)))?;
        String::from_utf8(out.text)
            .map_err(|_| Problem::Request("the template made invalid text".to_owned()))
    }

    /// Puts marks around special-token texts in every string a client wrote. A message's role is left
    /// alone: templates compare it.
    fn guard(&self, value: &mut Value, in_messages: bool) {
        match value {
            Value::String(text) => {
                if let Some(guarded) = self.guarded(text) {
                    *text = guarded;
                }
            }
            Value::Array(items) => items
                .iter_mut()
                .for_each(|item| self.guard(item, in_messages)),
            Value::Object(fields) => {
                for (key, item) in fields.iter_mut() {
                    if !(in_messages && key == "role") {
                        self.guard(item, in_messages);
                    }
                }
            }
            _ => {}
        }
    }

    fn guarded(&self, text: &str) -> Option<String> {
        let marks = [GUARD_START, GUARD_END];
        let clean = if text.contains(marks) {
            text.replace(marks, "\u{FFFD}")
        } else {
            text.to_owned()
        };
        if !self.special.iter().any(|token| clean.contains(token)) {
            return text.contains(marks).then_some(clean);
        }
        let mut out = String::with_capacity(clean.len() + 16);
        let mut rest = clean.as_str();
        while !rest.is_empty() {
            // The first special token from here on, the longest one where several start together.
            let next = self
                .special
                .iter()
                .filter_map(|token| rest.find(token.as_str()).map(|at| (at, token)))
                .min_by_key(|(at, token)| (*at, std::cmp::Reverse(token.len())));
            let Some((at, token)) = next else {
                break;
            };
            out.push_str(&rest[..at]);
            out.push(GUARD_START);
            out.push_str(token);
            out.push(GUARD_END);
            rest = &rest[at + token.len()..];
        }
        out.push_str(rest);
        Some(out)
    }
}

/// A rendering error for the client: what the template says, or which budget ran out.
fn describe(error: &Error) -> String {
    let detail = error.detail().unwrap_or_default();
    if let Some(message) = detail.strip_prefix(RAISED) {
        return format!("the chat template refuses the conversation: {message}");
    }
    match error.kind() {
        ErrorKind::OutOfFuel => "the chat template takes too many steps".to_owned(),
        ErrorKind::WriteFailure => "the rendered conversation is too long".to_owned(),
        kind => format!("the chat template cannot render the conversation: {kind} {detail}"),
    }
}
