//! No filter, method, function, test or operator panics, whatever it is given: a panic would be an
//! internal error of a request that is only odd.

use std::panic::{catch_unwind, AssertUnwindSafe};

use std::path::Path;

use minijinja::{context, Environment, Value};

use super::budget;
use super::program::{environment, Program};
use super::Template;
use crate::error::Kind;
use crate::files::{File, Folder};

/// What a template can have of each kind, with the numbers at the ends of their types.
const VALUES: [&str; 25] = [
    "(1, 'a')",
    "()",
    "('a<b' | safe)",
    "''",
    "'a'",
    "'äb\\n c'",
    "'%s {} {0!r:>5}'",
    "[]",
    "[1]",
    "[[1, 'b'], {'a': 1}, none]",
    "{}",
    "{'a': [1], 'b': none}",
    "0",
    "-1",
    "3",
    "9223372036854775807",
    "(-9223372036854775807 - 1)",
    "10**38",
    "1e308",
    "-0.5",
    "none",
    "true",
    "missing",
    "range(3)",
    "namespace(a=1)",
];
/// The same for arguments, fewer since there are pairs of them.
const ARGUMENTS: [&str; 13] = [
    "''",
    "'a'",
    "'äb'",
    "[]",
    "[1, 'a']",
    "{'a': 1}",
    "0",
    "-1",
    "2",
    "9223372036854775807",
    "(-9223372036854775807 - 1)",
    "1e308",
    "none",
];
const FILTERS: [&str; 57] = [
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "urlencode",
    "zip",
    "wordcount",
    "truncate",
    "center",
    "filesizeformat",
    "striptags",
    "wordwrap",
    "xmlattr",
];
const METHODS: [&str; 50] = [
    "append",
    "capitalize",
    "casefold",
    "center",
    "copy",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "extend",
    "find",
    "format",
    "get",
    "index",
    "insert",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "items",
    "join",
    "keys",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "pop",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const FUNCTIONS: [&str; 8] = [
    "range",
    "dict",
    "namespace",
    "cycler",
    "joiner",
    "raise_exception",
    "strftime_now",
    "lipsum",
];
const TESTS: [&str; 30] = [
    "boolean",
    "callable",
    "containing",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "startingwith",
    "string",
    "upper",
];
const OPERATORS: [&str; 18] = [
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "~",
    "==",
    "!=",
    "<",
    ">=",
    "in",
    "not in",
    "and",
    "or",
    "if true else",
    "is sameas",
];

fn panics(env: &Environment<'static>, expression: &str) -> bool {
    let source = format!("{{{{ {expression} }}}}");
    catch_unwind(AssertUnwindSafe(|| {
        budget::start(1000, u64::MAX);
        if let Ok(program) = Program::compile(&source) {
            let _ = program.run(env, context! { x => 1 });
        }
    }))
    .is_err()
}

/// One call of each shape: no argument, one, and each pair.
fn calls(call: impl Fn(&str) -> String) -> Vec<String> {
    let mut all = vec![call("")];
    for first in ARGUMENTS {
        all.push(call(first));
        all.extend(
            ARGUMENTS
                .iter()
                .map(|second| call(&format!("{first}, {second}"))),
        );
    }
    all
}

fn check(expressions: impl IntoIterator<Item = String>) {
    let env = environment();
    let found: Vec<String> = expressions
        .into_iter()
        .filter(|expression| panics(&env, expression))
        .collect();
    assert!(
        found.is_empty(),
        "{} panic: {:#?}",
        found.len(),
        &found[..found.len().min(40)]
    );
}

#[test]
fn filters() {
    for value in VALUES {
        check(FILTERS.iter().flat_map(|name| {
            calls(|arguments| format!("({value}) | {name}({arguments}) | string"))
        }));
    }
}

#[test]
fn methods() {
    for value in VALUES {
        check(
            METHODS
                .iter()
                .flat_map(|name| calls(|arguments| format!("({value}).{name}({arguments})"))),
        );
    }
}

#[test]
fn functions() {
    check(FUNCTIONS.iter().flat_map(|name| {
        let all = calls(|arguments| format!("{name}({arguments})"));
        all.into_iter()
            .flat_map(|call| [format!("{call} | list"), call])
    }));
}

#[test]
fn tests() {
    check(VALUES.iter().flat_map(|value| {
        TESTS
            .iter()
            .flat_map(move |name| calls(|arguments| format!("({value}) is {name}({arguments})")))
    }));
}

#[test]
fn operators_and_items() {
    check(VALUES.iter().flat_map(|left| {
        VALUES.iter().flat_map(move |right| {
            let operators = OPERATORS.iter();
            let mut all: Vec<String> = operators
                .map(|operator| format!("({left}) {operator} ({right})"))
                .collect();
            all.push(format!("({left})[{right}]"));
            all.push(format!("({left})[{right}:]"));
            all.push(format!("({left})[:{right}]"));
            all.push(format!("({left})[::{right}]"));
            all.push(format!("({left})[{right}::-1]"));
            all.push(format!("-({left})"));
            // Not known before it runs.
            all.push(format!("(x and ({left})) ** ({right})"));
            all.push(format!("(x and ({left})) // ({right})"));
            all
        })
    }));
}

#[test]
fn a_panic_is_the_conversations_refusal() {
    let files = vec![File {
        name: "chat_template.jinja",
        bytes: b"{% if crash %}{{ fails() }}{% endif %}x",
    }];
    let folder = Folder::new(Path::new(""), files);
    let mut template = Template::load(&folder, None).unwrap().unwrap();
    template
        .env
        .add_function("fails", || -> Value { panic!("on purpose") });
    assert_eq!(template.render("{}", u64::MAX).unwrap(), "x");
    let refusal = template.render(r#"{"crash": true}"#, u64::MAX).unwrap_err();
    assert_eq!(refusal.kind, Kind::Request);
    assert_eq!(template.render("{}", u64::MAX).unwrap(), "x");
}
