//! Compiling a template and running it with every operation accounted for.
//!
//! minijinja counts instructions, but one instruction can double a string, and writing template
//! text is free. So the compiled instructions are rewritten: operators that make new values first
//! are functions that charge the budget, operations whose time depends on their operands look at the
//! clock first, and all text is written through the formatter. The same place gives operators
//! Python's meaning.

use std::collections::BTreeMap;

use minijinja::machinery::{
    make_string_output, parse, CodeGenerator, Instruction, Instructions, Vm, WhitespaceConfig,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Rest;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, Value};

use super::budget::{self, charge};
use super::rewrite::{self, rewritten};
use super::{builtins, macros, methods, operators, order, python, slices};

/// Names that no template can write.
const CONCAT: &str = "+concat";
const CATCHING: &str = "+catching";
const SLICE: &str = "+slice";
const TICK: &str = "+tick";

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
        let source: Box<str> = rewritten(text, WHITESPACE)?.into();
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
    operators::add_to(&mut env);
    order::add_to(&mut env);
    env.add_function(CATCHING, macros::catching);
    env.add_function(SLICE, slices::slice);
    env.add_global(rewrite::ONE, 1);
    env.add_function(rewrite::TUPLE, operators::tuple);
    env.add_filter(rewrite::SAME, |value: Value| value);
    env.add_function(TICK, |_nothing: Rest<Value>| budget::tick());
    env
}

/// What one instruction becomes, its jump target still that of the old code.
fn expand<'s>(instruction: &Instruction<'s>) -> Vec<Instruction<'s>> {
    let checked = |function: &'static str| {
        vec![
            Instruction::BuildList(Some(2)),
            Instruction::CallFunction(function, Some(1)),
            Instruction::UnpackList(2),
            instruction.clone(),
        ]
    };
    let call = |function: &'static str, count| Instruction::CallFunction(function, Some(count));
    let calculated = |function| {
        let mut code = checked(function);
        code.push(call(operators::RESULT, 1));
        code
    };
    match instruction {
        Instruction::EmitRaw(text) => {
            vec![
                Instruction::LoadConst(Value::from(*text)),
                Instruction::Emit,
            ]
        }
        Instruction::StringConcat => vec![call(CONCAT, 2)],
        Instruction::Add => calculated(operators::ADD),
        Instruction::Mul => calculated(operators::MULTIPLY),
        Instruction::Sub => vec![call(operators::SUBTRACT, 2)],
        Instruction::Div => vec![call(operators::DIVIDE, 2)],
        Instruction::IntDiv => vec![call(operators::FLOOR_DIVIDE, 2)],
        Instruction::Rem => vec![call(operators::REMAINDER, 2)],
        Instruction::Pow => vec![call(operators::POWER, 2)],
        Instruction::Neg => vec![call(operators::NEGATE, 1)],
        Instruction::Slice => vec![call(SLICE, 4)],
        Instruction::In => vec![call(order::CONTAINS, 2)],
        Instruction::Eq => vec![call(order::EQUAL, 2)],
        Instruction::Ne => vec![call(order::UNEQUAL, 2)],
        Instruction::Lt => vec![call(order::LESS, 2)],
        Instruction::Lte => vec![call(order::LESS_OR_EQUAL, 2)],
        Instruction::Gt => vec![call(order::GREATER, 2)],
        Instruction::Gte => vec![call(order::GREATER_OR_EQUAL, 2)],
        Instruction::CompareAndPreserve(comparison) => vec![
            Instruction::BuildList(Some(2)),
            call(order::CHAINED[*comparison as usize], 1),
            Instruction::UnpackList(2),
        ],
        Instruction::GetItem => vec![call(order::ITEM, 2)],
        Instruction::PushLoop(_) => vec![call(order::ITERATED, 1), instruction.clone()],
        Instruction::BuildMacro(..) => vec![instruction.clone(), call(CATCHING, 1)],
        Instruction::PerformTest(..) => vec![
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
