//! Chat templates.

mod source;

use std::path::Path;

use minijinja::{Environment, Value};
use serde_json::Map;

use crate::config::TokenizerConfig;
use crate::error::{Error, Result};

pub struct Template {
    env: Environment<'static>,
    special: Vec<(&'static str, String)>,
}

impl Template {
    pub fn load(folder: &Path, replacement: &str) -> Result<Option<Template>> {
        let config = TokenizerConfig::load(folder)?;
        let Some(found) = source::find(folder, replacement, &config)? else {
            return Ok(None);
        };
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.set_fuel(Some(5_000_000));
        env.add_template_owned("chat", found.text)
            .map_err(|e| Error::model_file(&found.file, e.to_string()))?;
        Ok(Some(Template {
            env,
            special: config.special,
        }))
    }

    pub fn render(&self, context: &str) -> Result<String> {
        let mut map: Map<String, serde_json::Value> = serde_json::from_str(context)
            .map_err(|e| Error::request(format!("the chat context is not JSON: {e}")))?;
        for (name, text) in &self.special {
            map.entry(*name).or_insert_with(|| text.as_str().into());
        }
        let template = self
            .env
            .get_template("chat")
            .map_err(|e| Error::internal(e.to_string()))?;
        template
            .render(Value::from_serialize(&map))
            .map_err(|e| Error::request(e.to_string()))
    }
}
