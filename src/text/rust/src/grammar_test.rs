//! Answers that obey grammars, written by a model that chooses at random.

use std::path::Path;
use std::time::Instant;

use serde_json::{json, Value};

use crate::error::Kind as ErrorKind;
use crate::files::{File, Folder};
use crate::grammar::{Grammar, Grammars, Kind, Matcher, Thought};
use crate::memory;
use crate::tokenizer::Tokenizer;

/// The demo model's.
struct Demo {
    tokenizer: Tokenizer,
    grammars: Grammars,
    end: u32,
}

impl Demo {
    fn new() -> Demo {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../models/demo");
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let (json, config) = (read("tokenizer.json"), read("tokenizer_config.json"));
        let files = vec![
            File {
                name: "tokenizer.json",
                bytes: &json,
            },
            File {
                name: "tokenizer_config.json",
                bytes: &config,
            },
        ];
        let tokenizer = Tokenizer::load(&Folder::new(&folder, files)).unwrap();
        let end = tokenizer.eos.unwrap();
        let grammars = Grammars::new(&tokenizer, tokenizer.vocab_size, &[end]).unwrap();
        Demo {
            tokenizer,
            grammars,
            end,
        }
    }

    fn compile(&self, kind: Kind, text: &str) -> Grammar {
        let grammar = self.grammars.compile(kind, text, &Thought::default());
        grammar.unwrap_or_else(|e| panic!("{text}: {}", e.message))
    }

    fn refusal(&self, kind: Kind, text: &str) -> String {
        let error = self.grammars.compile(kind, text, &Thought::default()).err();
        let error = error.unwrap_or_else(|| panic!("{text} is taken"));
        assert_eq!(error.kind, ErrorKind::Request, "{text}: {}", error.message);
        error.message
    }

    fn allowed(&self, matcher: &mut Matcher) -> Vec<u32> {
        let mut words = vec![u32::MAX; self.tokenizer.vocab_size.div_ceil(32) as usize + 1];
        matcher
            .allowed(&mut words)
            .unwrap_or_else(|e| panic!("{}", e.message));
        (0..words.len() as u32 * 32)
            .filter(|id| words[(id / 32) as usize] >> (id % 32) & 1 == 1)
            .collect()
    }

    /// Of these, one that closes something, or else the shortest. A quote ends a text or begins one:
    /// every other time it is tried first.
    fn closing(&self, allowed: &[u32], quote: bool) -> u32 {
        let order = |id: &&u32| {
            let bytes = self.tokenizer.token_bytes(**id as i32);
            let marks = ["}", "]", ":", "1"];
            let closes = marks.iter().position(|mark| mark.as_bytes() == bytes);
            (!(quote && bytes == b"\""), closes.unwrap_or(9), bytes.len())
        };
        *allowed.iter().min_by_key(order).unwrap()
    }

    /// An answer whose tokens are chosen at random, and which ends where it may after so many.
    fn write(&self, grammar: &Grammar, random: &mut Random, most: usize) -> String {
        let mut matcher = grammar.start().unwrap_or_else(|e| panic!("{}", e.message));
        let mut ids = Vec::new();
        loop {
            let allowed = self.allowed(&mut matcher);
            assert!(!allowed.is_empty());
            for id in &allowed {
                assert!(*id == self.end || !self.tokenizer.is_special(*id as i32));
            }
            let ends = allowed.contains(&self.end);
            let id = match ends && (allowed.len() == 1 || ids.len() >= most) {
                true => self.end,
                false if ids.len() >= most => self.closing(&allowed, ids.len() % 2 == 0),
                false => allowed[random.below(allowed.len())],
            };
            matcher
                .accept(id)
                .unwrap_or_else(|e| panic!("{}", e.message));
            if id == self.end {
                // What follows an end does not matter.
                assert_eq!(self.allowed(&mut matcher), [self.end]);
                matcher
                    .accept(id)
                    .unwrap_or_else(|e| panic!("{}", e.message));
                return self
                    .tokenizer
                    .decode(&ids, true)
                    .unwrap_or_else(|e| panic!("{}", e.message));
            }
            ids.push(id as i32);
            assert!(
                ids.len() < most + 500,
                "no end of {}",
                self.tokenizer.decode(&ids, true).ok().unwrap()
            );
        }
    }
}

struct Random(u64);
impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % most
    }
}

#[test]
fn answers_obey_a_schema() {
    let demo = Demo::new();
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 10},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "kind": {"enum": ["cat", "dog"]},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": false,
        "$defs": {"tag": {"type": "string", "pattern": "^[a-z]{2,5}$"}},
    });
    let grammar = demo.compile(Kind::JsonSchema, &schema.to_string());
    assert!(grammar.bytes() > 0);
    let mut random = Random(1);
    for _ in 0..50 {
        let text = demo.write(&grammar, &mut random, 60);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(
            value["name"].as_str().unwrap().chars().count() <= 10,
            "{text}"
        );
        assert!(
            (0..=150).contains(&value["age"].as_i64().unwrap()),
            "{text}"
        );
        assert!(
            ["cat", "dog"].contains(&value["kind"].as_str().unwrap()),
            "{text}"
        );
        for tag in value
            .get("tags")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let tag = tag.as_str().unwrap();
            assert!((2..=5).contains(&tag.len()), "{text}");
            assert!(tag.bytes().all(|b| b.is_ascii_lowercase()), "{text}");
        }
    }
}

#[test]
fn any_object_is_an_object() {
    let demo = Demo::new();
    let grammar = demo.compile(Kind::JsonSchema, "{\"type\": \"object\"}");
    for seed in 0..20 {
        let text = demo.write(&grammar, &mut Random(seed), 40);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(value.is_object(), "{text}");
    }
}

#[test]
fn a_model_that_writes_only_blanks_comes_to_an_end() {
    let demo = Demo::new();
    let grammar = demo.compile(Kind::JsonSchema, "{\"type\": \"object\"}");
    let mut matcher = grammar.start().ok().unwrap();
    let blank = |id: &u32| {
        let bytes = demo.tokenizer.token_bytes(*id as i32);
        !bytes.is_empty() && bytes.iter().all(|byte| b" \n\r\t".contains(byte))
    };
    let brace = demo
        .allowed(&mut matcher)
        .into_iter()
        .find(|id| demo.tokenizer.token_bytes(*id as i32) == b"{");
    matcher.accept(brace.unwrap()).ok().unwrap();
    let mut count = 0;
    while let Some(id) = demo.allowed(&mut matcher).into_iter().find(blank) {
        matcher.accept(id).ok().unwrap();
        count += 1;
        assert!(count <= 44);
    }
    assert!(count > 0);
}

#[test]
fn whole_answers_match_an_expression() {
    let demo = Demo::new();
    for (regex, answers) in [
        ("[0-9]{3}", None),
        ("^(yes|no)$", Some(vec!["yes", "no"])),
        ("a/b\\$", Some(vec!["a/b$"])),
    ] {
        let grammar = demo.compile(Kind::Regex, regex);
        let mut random = Random(3);
        for _ in 0..10 {
            let text = demo.write(&grammar, &mut random, 10);
            match &answers {
                Some(answers) => assert!(answers.contains(&text.as_str()), "{regex}: {text}"),
                None => assert!(text.len() == 3 && text.parse::<u32>().is_ok(), "{text}"),
            }
        }
    }
}

#[test]
fn rules_are_lark_or_gbnf() {
    let demo = Demo::new();
    for grammar in [
        "start: item (\",\" item)*\nitem: \"a\" | /b{2}/\n",
        "root ::= item (\",\" item)* # items\nitem ::= \"a\" | [b] [b]\n",
    ] {
        let grammar = demo.compile(Kind::Grammar, grammar);
        let mut random = Random(5);
        for _ in 0..10 {
            let text = demo.write(&grammar, &mut random, 12);
            assert!(
                text.split(',').all(|item| item == "a" || item == "bb"),
                "{text}"
            );
        }
    }
}

/// What a model thinks before it answers is its own. Special tokens may stand around it.
#[test]
fn a_grammar_may_begin_behind_a_thought() {
    let demo = Demo::new();
    let special = demo.tokenizer.token(demo.end as i32).unwrap();
    let ids_of = |text: &str| match text == special {
        true => vec![demo.end],
        false => demo
            .tokenizer
            .inner
            .encode(text, false)
            .unwrap()
            .get_ids()
            .to_vec(),
    };
    let takes = |grammar: &Grammar, parts: &[&str]| {
        let mut matcher = grammar.start().ok().unwrap();
        for id in parts.iter().flat_map(|part| ids_of(part)) {
            if !demo.allowed(&mut matcher).contains(&id) {
                return false;
            }
            matcher
                .accept(id)
                .unwrap_or_else(|e| panic!("{}", e.message));
        }
        demo.allowed(&mut matcher).contains(&demo.end)
    };
    for (kind, text) in [
        (Kind::Regex, "[0-9]{3}"),
        (Kind::Grammar, "start: /[0-9]/{3}"),
        (
            Kind::JsonSchema,
            "{\"type\": \"integer\", \"minimum\": 100, \"maximum\": 999}",
        ),
    ] {
        let compile = |open: &str, close: &str| {
            let grammar = demo.grammars.compile(kind, text, &Thought { open, close });
            grammar.unwrap_or_else(|e| panic!("{text}: {}", e.message))
        };
        let thought = "So {it} is 7.\n";
        for close in ["</think>", special.as_str()] {
            let opened = compile("", close);
            assert!(
                takes(&opened, &[thought, close, "\n\n123"]),
                "{text} {close}"
            );
            assert!(
                !takes(&opened, &[thought, close, "\n\n12x"]),
                "{text} {close}"
            );
            let may = compile("<think>", close);
            assert!(
                takes(&may, &["<think>", thought, close, "123"]),
                "{text} {close}"
            );
            assert!(takes(&may, &["123"]), "{text} {close}");
            assert!(!takes(&may, &[thought]), "{text} {close}");
        }
        assert!(!takes(&compile("", "</think>"), &["123"]));
    }
}

#[test]
fn what_cannot_be_obeyed_is_refused() {
    let demo = Demo::new();
    for schema in [
        "[1]",
        "{",
        "false",
        "{\"type\": \"nonsense\"}",
        "{\"type\": \"string\", \"pattern\": \"(\"}",
        "{\"type\": \"integer\", \"minimum\": 2, \"maximum\": 1}",
        "{\"$ref\": \"#/nowhere\"}",
        "{\"type\": \"object\", \"patternProperties\": 3}",
        "{\"not\": {\"type\": \"string\"}}",
        "{\"x-guidance\": {\"lenient\": true}, \"not\": {\"type\": \"string\"}}",
        "{\"x-guidance\": {\"unheard\": true}}",
    ] {
        demo.refusal(Kind::JsonSchema, schema);
    }
    for regex in ["(", "[b-a]", "(?=a)b", "a{3,1}", "\\1"] {
        demo.refusal(Kind::Regex, regex);
    }
    for rules in [
        "",
        "nothing",
        "start: other",
        "start: /(/",
        "root ::= (",
        "a: \"b\"",
    ] {
        demo.refusal(Kind::Grammar, rules);
    }
}

/// Schemas that would take a parser's time or memory: refused, or written within bounds.
#[test]
fn hostile_grammars_are_bounded() {
    let demo = Demo::new();
    let nested = |depth: usize| {
        (0..depth).fold(json!({"type": "string"}), |inner, _| {
            json!({
                "type": "object", "properties": {"a": inner}, "required": ["a"]
            })
        })
    };
    // As long as may be, or longer.
    let wide = |count: usize| {
        json!({"type": "object", "properties": (0..count)
        .map(|i| (format!("property_{i}"), json!({"type": "string", "minLength": i})))
        .collect::<serde_json::Map<_, _>>()})
    };
    let branching = json!({"$ref": "#/$defs/d0", "$defs": (0..60).map(|i| (format!("d{i}"), json!({
        "anyOf": [{"type": "array", "items": {"$ref": format!("#/$defs/d{}", (i + 1) % 60)}},
            {"type": "object", "properties": {"x": {"$ref": format!("#/$defs/d{}", (i + 7) % 60)}}}]
        }))).collect::<serde_json::Map<_, _>>()});
    let all_of = json!({"allOf": (0..40).map(|i| json!({"anyOf": [
        {"properties": {format!("a{i}"): {"type": "string"}}},
        {"properties": {format!("b{i}"): {"type": "number"}}}]})).collect::<Vec<_>>()});
    let cases = vec![
        (Kind::JsonSchema, branching.to_string()),
        (Kind::JsonSchema, nested(60).to_string()),
        (Kind::JsonSchema, wide(2500).to_string()),
        (Kind::JsonSchema, wide(5000).to_string()),
        (Kind::JsonSchema, all_of.to_string()),
        (
            Kind::JsonSchema,
            json!({"type": "array", "minItems": 1_000_000_000}).to_string(),
        ),
        (
            Kind::JsonSchema,
            json!({"type": "string", "minLength": 1_000_000_000}).to_string(),
        ),
        (
            Kind::JsonSchema,
            json!({"type": "string", "pattern": "^(((a{1,99}){1,99}){1,99}){1,99}$"}).to_string(),
        ),
        (
            Kind::JsonSchema,
            json!({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}).to_string(),
        ),
        (Kind::JsonSchema, "[".repeat(100_000)),
        (
            Kind::JsonSchema,
            json!({"enum": (0..8_000).map(|i| format!("choice {i}")).collect::<Vec<_>>()})
                .to_string(),
        ),
        (Kind::Regex, "(a|aa)*b".repeat(200)),
        (Kind::Regex, "(.*x){40}".to_owned()),
        (Kind::Regex, "(".repeat(50_000)),
        (Kind::Regex, "[\\p{L}]{1000}".to_owned()),
        (Kind::Grammar, "start: start start | \"a\"".to_owned()),
        (
            Kind::Grammar,
            "start: a{1000000}\na: \"a\" | \"b\"".to_owned(),
        ),
        (
            Kind::Grammar,
            (0..9_000)
                .map(|i| format!("r{i}: r{}\n", i + 1))
                .collect::<String>(),
        ),
        (
            Kind::Grammar,
            format!("root ::= {}", "(".repeat(60) + "\"a\"" + &")*".repeat(60)),
        ),
    ];
    for (kind, text) in cases {
        let shown: String = text.chars().take(60).collect();
        println!("{shown}");
        let begin = Instant::now();
        let (peak, (made, written)) = memory::peak_of(|| {
            let made = demo.grammars.compile(kind, &text, &Thought::default());
            let taken = made.is_ok();
            let mut written = 0;
            if let Ok(grammar) = made {
                let mut matcher = grammar.start().ok().unwrap();
                let mut random = Random(9);
                let mut words = vec![0; demo.tokenizer.vocab_size.div_ceil(32) as usize];
                while written < 300 && matcher.allowed(&mut words).is_ok() {
                    let ids: Vec<u32> = (0..words.len() as u32 * 32)
                        .filter(|id| words[(id / 32) as usize] >> (id % 32) & 1 == 1)
                        .collect();
                    if matcher.accept(ids[random.below(ids.len())]).is_err() {
                        break;
                    }
                    written += 1;
                }
            }
            (taken, written)
        });
        println!(
            "{shown}: {made}, {written} tokens, {:?}, {} KiB",
            begin.elapsed(),
            peak >> 10
        );
        assert!(begin.elapsed().as_secs() < 20, "{shown}");
        assert!(peak < 64 << 20, "{shown}: {peak} bytes");
    }
}
