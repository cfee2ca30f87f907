//! Finding a model's chat template.

use std::path::PathBuf;

use serde_json::Value;

use crate::config::TokenizerConfig;
use crate::error::{Error, Result};
use crate::files::{self, File, Folder};

/// Largest chat template.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// A template's text or why there is none, another for conversations with tools where the model has
/// one, and the file to name when they are wrong.
pub struct Found {
    pub text: std::result::Result<String, String>,
    pub with_tools: Option<String>,
    pub file: PathBuf,
}

/// The template of `replacement` when given, else chat_template.jinja with
/// additional_chat_templates beside it, else chat_template.json or tokenizer_config.json. None when
/// there is none.
pub fn find(
    folder: &Folder,
    replacement: Option<File>,
    config: &TokenizerConfig,
) -> Result<Option<Found>> {
    if let Some(given) = replacement {
        let file = PathBuf::from(given.name);
        return Ok(Some(Found {
            text: Ok(files::text(&file, given.bytes)?.to_owned()),
            with_tools: None,
            file,
        }));
    }
    if let Some(text) = folder.text("chat_template.jinja")? {
        let other = folder.text("additional_chat_templates/tool_use.jinja")?;
        return Ok(Some(Found {
            text: Ok(text.to_owned()),
            with_tools: other.map(str::to_owned),
            file: folder.path("chat_template.jinja"),
        }));
    }
    if let Some(map) = folder.object("chat_template.json")? {
        if let Some(value) = map.get("chat_template") {
            return configured(value, folder.path("chat_template.json"));
        }
    }
    match config.map.get("chat_template") {
        Some(value) => configured(value, folder.path("tokenizer_config.json")),
        None => Ok(None),
    }
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
        (Some(text), _) => Ok(text.to_owned()),
        (None, [(_, only)]) => Ok((*only).to_owned()),
        (None, []) => return Ok(None),
        (None, _) => Err("its chat_template has no entry named \"default\"".to_owned()),
    };
    for text in named.iter().map(|(_, text)| text) {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(bad("is over 1 MiB"));
        }
    }
    Ok(Some(Found {
        text,
        with_tools: get("tool_use").map(str::to_owned),
        file,
    }))
}
