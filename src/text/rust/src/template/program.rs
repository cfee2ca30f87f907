//! Compiling a template and running it with every operation accounted for.
//!
//! minijinja counts instructions, but one instruction can double a string, and writing template
//! text is free. So the compiled instructions are rewritten: operators that make new values first
//! show their operands to a function that charges the budget, operations whose time depends on
//! their operands look at the clock first, and all text is written through the formatter. The same
//! place gives `~` Python's str.

use std::collections::BTreeMap;

use minijinja::machinery::{
    make_string_output, parse, tokenize, CodeGenerator, Instruction, Instructions, Token, Vm,
    WhitespaceConfig,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, FormatStyle, UndefinedBehavior, Value};

use super::budget::{self, charge};
use super::{builtins, methods, python, slices};

/// Names that no template can write.
const CONCAT: &str = "+concat";
const CHECK_ADD: &str = "+add";
const CHECK_MUL: &str = "+mul";
const CHECK_IN: &str = "+in";
const SLICE: &str = "+slice";
const TICK: &str = "+tick";

const REMAINDER: &str = "+remainder";
const FLOOR_DIVIDE: &str = "+floor_divide";
/// A variable for the source text, so a name that a template could write but does not.
const ONE: &str = "moesaic_one";

/// Tokens of one tag. Compiling folds constants at every level of an expression anew, which takes
/// quadratic time.
const MAX_TOKENS: usize = 10_000;

/// transformers' options.
const WHITESPACE: WhitespaceConfig = WhitespaceConfig {
    keep_trailing_newline: false,
    lstrip_blocks: true,
    trim_blocks: true,
};

type Blocks = BTreeMap<&'static str, Instructions<'static>>;

/// A compiled template. The instructions borrow from `_source`, which is dropped after them.
pub struct Program {
    instructions: Instructions<'static>,
    blocks: Blocks,
    _source: Box<str>,
}

impl Program {
    /// Compiles with the options of transformers: trim_blocks and lstrip_blocks.
    pub fn compile(text: &str) -> Result<Program, Error> {
        // Jinja2 has one line end, whatever the file has.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let source: Box<str> = unfolded(&without_generation_tags(&text))?.into();
        // SAFETY: the box's text stays where it is, unchanged, until the Program is dropped, and
        // the fields that borrow from it are private and dropped before it.
        let text: &'static str = unsafe { &*std::ptr::from_ref::<str>(&source) };
        let tree = parse(text, "chat template", SyntaxConfig, WHITESPACE)?;
        let mut generator = CodeGenerator::new("chat template", text);
        generator.compile_stmt(&tree);
        let (instructions, blocks) = generator.finish();
        Ok(Program {
            instructions: rewrite(&instructions),
            blocks: blocks
                .iter()
                .map(|(name, code)| (*name, rewrite(code)))
                .collect(),
            _source: source,
        })
    }

    /// Runs on the current thread, whose budget must have been started.
    pub fn run(&self, env: &Environment<'static>, context: Value) -> Result<String, Error> {
        let mut text = String::new();
        let mut output = make_string_output(&mut text);
        Vm::new(env).eval(
            &self.instructions,
            context,
            &self.blocks,
            &mut output,
            AutoEscape::None,
        )?;
        Ok(text)
    }
}

/// An environment with transformers' filters and limits; it holds no templates and no loader.
pub fn environment() -> Environment<'static> {
    const MAX_DEPTH: usize = 200;
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_fuel(Some(budget::STEPS));
    env.set_recursion_limit(MAX_DEPTH);
    env.set_unknown_method_callback(methods::call);
    env.set_formatter(|out, _state, value| {
        let write_failed = |e: std::fmt::Error| budget::error(e.to_string());
        budget::tick()?;
        match value.as_str() {
            Some(text) => {
                budget::charge_output(text.len())?;
                out.write_str(text).map_err(write_failed)
            }
            None => {
                let text = python::str_of(value)?;
                budget::charge_output(text.len())?;
                out.write_str(&text).map_err(write_failed)
            }
        }
    });
    builtins::add_to(&mut env);
    env.add_function(CONCAT, |left: Value, right: Value| {
        let mut text = python::str_of(&left)?;
        python::write_str(&mut text, &right)?;
        charge(text.len())?;
        Ok::<_, Error>(text)
    });
    env.add_function(CHECK_ADD, |operands: Value| check(operands, sum_size));
    env.add_function(CHECK_MUL, |operands: Value| check(operands, product_size));
    env.add_function(CHECK_IN, |operands: Value| check(operands, search_size));
    env.add_function(SLICE, slices::slice);
    env.add_function(REMAINDER, remainder);
    env.add_function(FLOOR_DIVIDE, floor_divide);
    env.add_global(ONE, 1);
    env.add_function(TICK, |_nothing: Rest<Value>| budget::tick());
    env
}

/// Charges for an operator's result and gives the operands back in the order that UnpackList
/// wants them.
fn check(
    operands: Value,
    result_size: fn(&[Value]) -> Result<usize, Error>,
) -> Result<Value, Error> {
    let operands: Vec<Value> = operands.try_iter()?.collect();
    charge(result_size(&operands)?)?;
    Ok(operands.into_iter().rev().collect())
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn limited_list(items: usize) -> Result<usize, Error> {
    if items > budget::MAX_ITEMS {
        return Err(budget::refuse("the chat template makes too long a list"));
    }
    Ok(0)
}

fn sum_size(operands: &[Value]) -> Result<usize, Error> {
    if operands.iter().all(is_list) {
        let lengths = operands.iter().map(|list| list.len().unwrap_or(0));
        return limited_list(lengths.fold(0, usize::saturating_add));
    }
    let texts = operands.iter().filter_map(Value::as_str);
    Ok(texts.map(str::len).sum())
}

fn product_size(operands: &[Value]) -> Result<usize, Error> {
    let factor = operands
        .iter()
        .filter_map(Value::as_usize)
        .next()
        .unwrap_or(1);
    for operand in operands {
        if let Some(text) = operand.as_str() {
            return Ok(text.len().saturating_mul(factor));
        }
        if is_list(operand) {
            // An empty list is gone through as often, too.
            return limited_list(operand.len().unwrap_or(0).max(1).saturating_mul(factor));
        }
    }
    Ok(0)
}

/// Nothing is made, but time goes by.
fn search_size(operands: &[Value]) -> Result<usize, Error> {
    const BYTES_PER_CHARGE: usize = 16;
    Ok(operands.iter().map(budget::size).sum::<usize>() / BYTES_PER_CHARGE)
}

/// What `is divisibleby` asks.
pub fn is_divisible(number: Value, by: Value) -> Result<bool, Error> {
    Ok(match numbers(&number, &by)? {
        Numbers::Whole(a, b) => a.checked_rem(b).unwrap_or(0) == 0,
        Numbers::Real(a, b) => a % b == 0.0,
    })
}

enum Numbers {
    Whole(i128, i128),
    Real(f64, f64),
}

fn numbers(left: &Value, right: &Value) -> Result<Numbers, Error> {
    let whole = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        _ if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    };
    let numbers = match (whole(left), whole(right)) {
        (Some(left), Some(right)) => Numbers::Whole(left, right),
        _ => Numbers::Real(f64::try_from(left.clone())?, f64::try_from(right.clone())?),
    };
    match numbers {
        Numbers::Whole(_, 0) => Err(budget::error("division by zero")),
        Numbers::Real(_, 0.0) => Err(budget::error("division by zero")),
        numbers => Ok(numbers),
    }
}

fn integer(number: Option<i128>) -> Result<Value, Error> {
    let number = number.ok_or_else(|| budget::error("a number is too large"))?;
    Ok(i64::try_from(number).map_or_else(|_| Value::from(number), Value::from))
}

/// Python's %: the remainder has the divisor's sign, and a string is a format.
fn remainder(left: Value, right: Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        let args = match is_list(&right) {
            true => right.try_iter()?.collect(),
            false => vec![right],
        };
        return builtins::formatted(FormatStyle::Printf, format, &args).map(Value::from);
    }
    match numbers(&left, &right)? {
        Numbers::Whole(a, b) => {
            let rest = a.checked_rem(b);
            let fits = |rest: i128| rest == 0 || (rest < 0) == (b < 0);
            integer(rest.map(|rest| if fits(rest) { rest } else { rest + b }))
        }
        Numbers::Real(a, b) => Ok(Value::from(a - (a / b).floor() * b)),
    }
}

/// Python's //, rounded down.
fn floor_divide(left: Value, right: Value) -> Result<Value, Error> {
    match numbers(&left, &right)? {
        Numbers::Whole(a, b) => {
            let inexact = a.checked_rem(b).is_some_and(|rest| rest != 0);
            let down = i128::from(inexact && (a < 0) != (b < 0));
            integer(a.checked_div(b).map(|quotient| quotient - down))
        }
        Numbers::Real(a, b) => Ok(Value::from((a / b).floor())),
    }
}

/// What one instruction becomes, its jump target still that of the old code.
fn expand<'s>(instruction: &Instruction<'s>) -> Vec<Instruction<'s>> {
    let checked = |count, function: &'static str| {
        vec![
            Instruction::BuildList(Some(count)),
            Instruction::CallFunction(function, Some(1)),
            Instruction::UnpackList(count),
            instruction.clone(),
        ]
    };
    match instruction {
        Instruction::EmitRaw(text) => {
            vec![
                Instruction::LoadConst(Value::from(*text)),
                Instruction::Emit,
            ]
        }
        Instruction::StringConcat => vec![Instruction::CallFunction(CONCAT, Some(2))],
        Instruction::Rem => vec![Instruction::CallFunction(REMAINDER, Some(2))],
        Instruction::IntDiv => vec![Instruction::CallFunction(FLOOR_DIVIDE, Some(2))],
        Instruction::Add => checked(2, CHECK_ADD),
        Instruction::Mul => checked(2, CHECK_MUL),
        Instruction::Slice => vec![Instruction::CallFunction(SLICE, Some(4))],
        Instruction::In => checked(2, CHECK_IN),
        Instruction::Eq
        | Instruction::Ne
        | Instruction::Lt
        | Instruction::Lte
        | Instruction::Gt
        | Instruction::Gte
        | Instruction::CompareAndPreserve(_)
        | Instruction::PushLoop(_)
        | Instruction::GetItem
        | Instruction::PerformTest(..) => vec![
            Instruction::CallFunction(TICK, Some(0)),
            Instruction::DiscardTop,
            instruction.clone(),
        ],
        other => vec![other.clone()],
    }
}

fn rewrite<'s>(old: &Instructions<'s>) -> Instructions<'s> {
    let count = old.len() as u32;
    let expanded: Vec<_> = (0..count)
        .filter_map(|at| old.get(at))
        .map(expand)
        .collect();
    let mut places = Vec::with_capacity(expanded.len() + 1);
    let mut place = 0u32;
    for group in &expanded {
        places.push(place);
        place += group.len() as u32;
    }
    places.push(place);
    let moved = |target: &mut u32| *target = places[*target as usize];
    let mut new = Instructions::new(old.name(), old.source());
    for (at, group) in expanded.into_iter().enumerate() {
        let line = old.get_line(at as u32).unwrap_or(0) as u16;
        for mut instruction in group {
            match &mut instruction {
                Instruction::Iterate(target)
                | Instruction::Jump(target)
                | Instruction::JumpIfFalse(target)
                | Instruction::JumpIfFalseOrPop(target)
                | Instruction::JumpIfTrueOrPop(target)
                | Instruction::BuildMacro(_, target, _) => moved(target),
                _ => {}
            }
            new.add_with_line(instruction, line);
        }
    }
    new
}

/// minijinja computes constant expressions while compiling, where nothing is charged, and a
/// product can make much of little. So each factor is first multiplied by a variable that is one.
fn unfolded(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    let mut after_operand = false;
    let mut tokens = 0;
    for token in tokenize(text, false, SyntaxConfig, WHITESPACE) {
        let (token, span) = token?;
        tokens += 1;
        if matches!(token, Token::VariableStart | Token::BlockStart) {
            tokens = 0;
        } else if tokens > MAX_TOKENS {
            return Err(Error::new(
                ErrorKind::SyntaxError,
                "an expression is too long",
            ));
        }
        // A star after these is not an operator but spreads a list into arguments.
        if matches!(token, Token::Mul) && after_operand {
            let at = span.start_offset as usize;
            out.push_str(&text[done..at]);
            out.push_str("* ");
            out.push_str(ONE);
            out.push(' ');
            done = at;
        }
        after_operand = !matches!(token, Token::ParenOpen | Token::Comma);
    }
    out.push_str(&text[done..]);
    Ok(out)
}

/// transformers' own `{% generation %}` only marks text for training; here it is `{% if true %}`,
/// which leaves the same text.
fn without_generation_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let inside = tag.trim_start_matches(['-', '+']);
        let sign = &tag[..tag.len() - inside.len()];
        let word = inside.trim_start();
        let (new, after) = if let Some(after) = word.strip_prefix("generation") {
            (" if true ", after)
        } else if let Some(after) = word.strip_prefix("endgeneration") {
            (" endif ", after)
        } else {
            rest = tag;
            continue;
        };
        let close = after.trim_start();
        if close.starts_with("%}") || close.starts_with("-%}") || close.starts_with("+%}") {
            out.push_str(sign);
            out.push_str(new);
            rest = close;
        } else {
            rest = tag;
        }
    }
    out.push_str(rest);
    out
}
