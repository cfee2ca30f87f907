//! Finding a model's chat template.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::TokenizerConfig;
use crate::error::{Error, Result};
use crate::files::{self, MAX_TEMPLATE_BYTES};

/// A template's text, another for conversations with tools where the model has one, and the file
/// to name when they are wrong.
pub struct Found {
    pub text: String,
    pub with_tools: Option<String>,
    pub file: PathBuf,
}

/// The template of --chat-template (a file's path or Jinja text) when not empty, else
/// chat_template.jinja with additional_chat_templates beside it, else chat_template.json or tokenizer_config.json. None when there is none.
pub fn find(folder: &Path, replacement: &str, config: &TokenizerConfig) -> Result<Option<Found>> {
    if !replacement.is_empty() {
        return replaced(replacement).map(Some);
    }
    let file = folder.join("chat_template.jinja");
    if let Some(text) = files::read_text(&file, MAX_TEMPLATE_BYTES)? {
        let other = folder.join("additional_chat_templates/tool_use.jinja");
        return Ok(Some(Found {
            text,
            with_tools: files::read_text(&other, MAX_TEMPLATE_BYTES)?,
            file,
        }));
    }
    let file = folder.join("chat_template.json");
    if let Some(map) = files::read_object(&file)? {
        if let Some(value) = map.get("chat_template") {
            return configured(value, file);
        }
    }
    match config.map.get("chat_template") {
        Some(value) => configured(value, folder.join("tokenizer_config.json")),
        None => Ok(None),
    }
}

/// Jinja text has braces or more than one line; anything else is a path.
fn replaced(replacement: &str) -> Result<Found> {
    let path = Path::new(replacement);
    let inline = replacement.contains('\n') || replacement.contains('{');
    if !inline || (replacement.len() < 4096 && path.is_file()) {
        let text = files::read_text(path, MAX_TEMPLATE_BYTES)?.ok_or_else(|| {
            Error::missing_file(format!(
                "chat template {replacement} does not exist; give a file, or Jinja text with {{{{ }}}}"
            ))
        })?;
        return Ok(Found {
            text,
            with_tools: None,
            file: path.to_owned(),
        });
    }
    Ok(Found {
        text: replacement.to_owned(),
        with_tools: None,
        file: PathBuf::from("--chat-template"),
    })
}

/// A string, or a list of {name, template} of which "default" is taken, and "tool_use" for
/// conversations with tools.
fn configured(value: &Value, file: PathBuf) -> Result<Option<Found>> {
    let bad = |problem: &str| Error::model_file(&file, format!("its chat_template {problem}"));
    let named: Vec<(&str, &str)> = match value {
        Value::Null => return Ok(None),
        Value::String(text) => vec![("default", text)],
        Value::Array(list) => list
            .iter()
            .map(|entry| {
                Some((
                    entry.get("name")?.as_str()?,
                    entry.get("template")?.as_str()?,
                ))
            })
            .collect::<Option<_>>()
            .ok_or_else(|| bad("must list objects with a name and a template"))?,
        Value::Object(map) => map
            .iter()
            .map(|(name, text)| Some((name.as_str(), text.as_str()?)))
            .collect::<Option<_>>()
            .ok_or_else(|| bad("must map names to templates"))?,
        _ => return Err(bad("must be text or a list of named templates")),
    };
    let get = |name: &str| named.iter().find(|(n, _)| *n == name).map(|(_, t)| *t);
    let text = match (get("default"), named.as_slice()) {
        (Some(text), _) => text,
        (None, [(_, only)]) => *only,
        (None, []) => return Ok(None),
        (None, _) => return Err(bad("has no entry named \"default\"")),
    };
    for text in named.iter().map(|(_, text)| text) {
        if text.len() as u64 > MAX_TEMPLATE_BYTES {
            return Err(bad("is over 1 MiB"));
        }
    }
    Ok(Some(Found {
        text: text.to_owned(),
        with_tools: get("tool_use").map(str::to_owned),
        file,
    }))
}
