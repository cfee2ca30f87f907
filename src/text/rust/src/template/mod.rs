//! Chat templates: Jinja2 as transformers renders it, on minijinja.

mod budget;
mod builtins;
mod clock;
mod content;
mod defaults;
mod entities;
mod format;
mod macros;
mod methods;
mod numbers;
mod operators;
mod order;
mod ordering_filters;
#[cfg(test)]
mod panics_test;
mod program;
mod provenance;
mod python;
mod rewrite;
mod sequence;
mod slices;
mod source;
mod strings;
mod tags;
mod text;
mod text_filters;

use minijinja::{Environment, Error as JinjaError, ErrorKind, Value};
use serde_json::Map;

use crate::config::TokenizerConfig;
use crate::error::{Error, Kind, Result};
use crate::files::{File, Folder};
use crate::guard;
use crate::tokenizer_json;
pub use budget::memory_of;
use content::Shapes;
use program::Program;
use provenance::SpecialTexts;

/// Stack of a rendering's thread.
const STACK_BYTES: usize = 512 << 20;
/// Address space of it: the stack, and what the C library maps for a new thread's allocations.
pub const ADDRESSES: usize = STACK_BYTES + (128 << 20);

pub struct Template {
    env: Environment<'static>,
    /// For conversations without tools and, where the model has another for those, with them. What
    /// is wrong with one is said to those who need it: completions need none.
    program: std::result::Result<Program, String>,
    with_tools: Option<std::result::Result<Program, String>>,
    /// bos_token and the like, which a template sees as variables.
    variables: Map<String, serde_json::Value>,
    special_texts: SpecialTexts,
    /// As it was found.
    text: String,
    shapes: [Shapes; content::ROLES.len()],
}

impl Template {
    /// The template of `replacement` when given, else the folder's; None when it has none.
    pub fn load(folder: &Folder, replacement: Option<File>) -> Result<Option<Template>> {
        let config = TokenizerConfig::load(folder)?;
        let replaced = replacement.is_some();
        let Some(found) = source::find(folder, replacement, &config)? else {
            return Ok(None);
        };
        // Clients read of it too, and need not know where the model lies.
        let name = found.file.file_name().unwrap_or_default().display();
        let compile = |text: std::result::Result<String, String>| {
            let program = match text {
                Ok(text) => match on_large_stack(|| Program::compile(&text))? {
                    Some(compiled) => compiled.map_err(|e| format!("is not a template: {e}")),
                    None => Err("is a template that the engine fails on".into()),
                },
                Err(problem) => Err(problem),
            };
            let problem = |problem| Error::model_file(&found.file, problem);
            match program.map_err(problem) {
                Err(error) if replaced => Err(error),
                program => Ok(program.map_err(|e| format!("{name}: {}", e.message))),
            }
        };
        let text = found.text.clone().unwrap_or_default();
        let mut template = Template {
            env: program::environment(),
            program: compile(found.text)?,
            with_tools: found.with_tools.map(|text| compile(Ok(text))).transpose()?,
            variables: variables(&config),
            special_texts: SpecialTexts::new(special_texts(folder, config)?),
            text,
            shapes: Default::default(),
        };
        template.shapes = template.probe()?;
        Ok(Some(template))
    }

    /// What is wrong with the model's template, for chats with tools or without.
    pub fn problem(&self) -> Option<&str> {
        let programs = [Some(&self.program), self.with_tools.as_ref()];
        let problems = programs.into_iter().flatten();
        problems
            .filter_map(|program| program.as_ref().err())
            .map(String::as_str)
            .next()
    }

    /// How the template shows the content of the messages of a role of `content::ROLES`.
    pub fn shapes(&self, role: usize) -> Shapes {
        self.shapes.get(role).copied().unwrap_or_default()
    }

    fn probe(&self) -> Result<[Shapes; content::ROLES.len()]> {
        const MEMORY: u64 = 64 << 20;
        let Some(program) = self.program.as_ref().ok().or(self.with_tools_if_whole()) else {
            return Ok(Default::default());
        };
        let shapes = on_large_stack(|| {
            budget::start(0, MEMORY);
            let mut endless = false;
            content::probe(|messages| {
                let context = Map::from_iter([("messages".to_owned(), messages)]);
                let text = (!endless).then(|| program.run(&self.env, self.values(&context)))?;
                endless = matches!(&text, Err(e) if e.kind() == ErrorKind::OutOfFuel);
                text.ok()
            })
        });
        Ok(shapes?.unwrap_or_default())
    }

    fn with_tools_if_whole(&self) -> Option<&Program> {
        self.with_tools.as_ref()?.as_ref().ok()
    }

    /// The template of conversations without tools, as it was found.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text of a conversation, with guard marks around special tokens of the user's, rendered
    /// in at most so many bytes of memory.
    pub fn render(&self, context: &str, memory: u64) -> Result<String> {
        let context: Map<String, serde_json::Value> = serde_json::from_str(context)
            .map_err(|e| Error::request(format!("the conversation is not a JSON object: {e}")))?;
        let bytes = context_size(&context);
        let plain = self.render_once(&context, bytes, memory)?;
        let Some(marked) = self.special_texts.mark_context(&context) else {
            return Ok(if guard::may_hold_marks(&plain) {
                guard::mark(&plain, &[])
            } else {
                plain
            });
        };
        // A template that refuses the marked conversation alone says nothing about its own tokens.
        let places = match self.render_once(&marked, bytes, memory) {
            Ok(marked) => self.special_texts.places_of_user(&plain, &marked),
            Err(error) if error.kind != Kind::Request => return Err(error),
            Err(_) => self.special_texts.all_places(&plain),
        };
        Ok(guard::mark(&plain, &places))
    }

    /// Renders within the budgets.
    fn render_once(
        &self,
        context: &Map<String, serde_json::Value>,
        context_bytes: usize,
        memory: u64,
    ) -> Result<String> {
        let rendered = on_large_stack(|| {
            budget::start(context_bytes, memory);
            self.run(context)
        });
        rendered?.unwrap_or_else(|| {
            Err(Error::request(
                "the chat template's engine fails on this conversation",
            ))
        })
    }

    fn run(&self, context: &Map<String, serde_json::Value>) -> Result<String> {
        let has_tools = context.get("tools").is_some_and(|tools| !tools.is_null());
        let program = match &self.with_tools {
            Some(program) if has_tools => program,
            _ => &self.program,
        };
        let refused = |problem: &String| {
            let advice = "give another with --chat-template";
            Error::request(format!(
                "this model's chat template cannot be used; {advice}: {problem}"
            ))
        };
        let program = program.as_ref().map_err(refused)?;
        program
            .run(&self.env, self.values(context))
            .map_err(request_error)
    }

    /// What the template sees.
    fn values(&self, context: &Map<String, serde_json::Value>) -> Value {
        let missing = |name: &&String| !context.contains_key(*name);
        let defaults = self.variables.iter().filter(|(name, _)| missing(name));
        let values = context.iter().chain(defaults);
        values
            .map(|(name, value)| (name.as_str(), numbers::value_of(value)))
            .collect()
    }
}

/// Runs on a thread of its own, for a budget of its own and for its stack: expressions are nested
/// as deep as a template is long, and values as deep as its steps go. Only touched pages cost. None
/// when the work panics.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<Option<T>> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("template".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|_| no_thread())?;
        Ok(thread.join().ok())
    })
}

/// Whether there are no threads at all, or only no room for a large stack: the system says the same.
fn no_thread() -> Error {
    let small = std::thread::Builder::new().stack_size(64 << 10);
    match small.spawn(|| ()).map(std::thread::JoinHandle::join) {
        Ok(_) => Error::memory("there is no address space for the chat template's thread"),
        Err(_) => Error::thread("cannot start a thread for the chat template"),
    }
}

/// A budget's or raise_exception's own message, or minijinja's with the line.
fn request_error(error: JinjaError) -> Error {
    if let Some(refusal) = budget::refusal() {
        return refusal;
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return Error::request("the chat template takes too many steps for this conversation");
    }
    let detail = error.detail().unwrap_or("it fails").to_owned();
    let line = error
        .line()
        .map_or(String::new(), |line| format!(" (line {line})"));
    Error::request(format!(
        "the chat template cannot render this conversation: {}: {detail}{line}",
        error.kind()
    ))
}

/// Bytes of all texts of the conversation, which its budgets follow.
fn context_size(context: &Map<String, serde_json::Value>) -> usize {
    fn size(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::String(text) => text.len(),
            serde_json::Value::Array(items) => items.iter().map(size).sum(),
            serde_json::Value::Object(map) => map.iter().map(|(k, v)| k.len() + size(v)).sum(),
            _ => 8,
        }
    }
    context
        .iter()
        .map(|(name, value)| name.len() + size(value))
        .sum()
}

/// What every template sees besides the conversation; the conversation's own win.
fn variables(config: &TokenizerConfig) -> Map<String, serde_json::Value> {
    let mut variables = Map::new();
    for (name, text) in &config.special {
        variables.insert((*name).to_owned(), text.as_str().into());
    }
    if !config.additional.is_empty() {
        let texts = config.additional.as_slice();
        variables.insert("additional_special_tokens".into(), texts.into());
    }
    for name in ["tools", "documents"] {
        variables.insert(name.into(), serde_json::Value::Null);
    }
    variables.insert("add_generation_prompt".into(), false.into());
    variables
}

/// The texts of all special tokens: tokenizer.json's, and what tokenizer_config.json adds.
fn special_texts(folder: &Folder, config: TokenizerConfig) -> Result<Vec<String>> {
    let path = folder.path("tokenizer.json");
    let mut texts = match folder.bytes("tokenizer.json") {
        Some(bytes) => tokenizer_json::special_texts(&path, bytes)?,
        None => Vec::new(),
    };
    texts.extend(config.special.into_iter().map(|(_, text)| text));
    texts.extend(config.additional);
    let declared = config.declared.into_iter().filter(|token| token.special);
    texts.extend(declared.map(|token| token.content));
    Ok(texts)
}
