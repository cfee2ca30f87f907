//! What encoding takes, against what was estimated.

use crate::cancel::Cancel;
use crate::encode::{self, TextOnly};
use crate::estimate::{check_added, checked};
use crate::files::{File, Folder};
use crate::memory;
use crate::tokenizer::Tokenizer;
use serde_json::{json, Value};
use std::path::Path;

fn tokenizer_of(file: &Value) -> Tokenizer {
    let bytes = serde_json::to_vec(file).unwrap();
    let files = vec![File {
        name: "tokenizer.json",
        bytes: &bytes,
    }];
    Tokenizer::load(&Folder::new(Path::new(""), files)).unwrap_or_else(|e| panic!("{}", e.message))
}

/// A tokenizer whose tokens are single characters, the worst there is.
fn tokenizer(model: &str, normalizer: Value, pre_tokenizer: Value) -> Tokenizer {
    let characters = "abchelowrdtisxunpvyAB'1?! \n\u{2581}\u{120}\u{10a}\u{e9}";
    let vocab: Vec<(String, f64)> = std::iter::once("<unk>".to_owned())
        .chain(characters.chars().map(String::from))
        .map(|token| (token, -1.0))
        .collect();
    let ids: serde_json::Map<String, Value> = vocab
        .iter()
        .zip(0..)
        .map(|((token, _), id)| (token.clone(), json!(id)))
        .collect();
    let model = match model {
        "Unigram" => json!({"type": "Unigram", "unk_id": 0, "vocab": vocab}),
        "WordLevel" => json!({"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}),
        _ => json!({"type": "BPE", "vocab": ids, "merges": [], "unk_token": "<unk>"}),
    };
    tokenizer_of(&json!({
        "model": model, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer
    }))
}

#[test]
fn encoding_stays_within_its_estimate() {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true,
        "trim_offsets": false});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}",
        "prepend_scheme": "always", "split": true});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let texts = [
        "a",
        " ",
        "\n",
        "a b ",
        "1a",
        "1",
        "?a",
        "\u{e9}",
        "\u{301}",
        "e\u{301}",
        "\u{fdfa}",
        "\u{1d160}",
        "\u{1f600}",
        "\u{4e2d}",
        "hello world, this is a text. ",
        "ab ",
        " abc",
        "Aa",
        " Aa",
        "aB",
        "a'sa",
        "counterproductively ",
        "a\n\n1 ?",
    ];
    let parts = [
        (json!(null), json!(null)),
        (json!({"type": "NFC"}), byte_level.clone()),
        (json!({"type": "NFKD"}), json!(null)),
        (json!({"type": "NFKD"}), json!({"type": "Whitespace"})),
        (json!({"type": "Lowercase"}), metaspace),
        (
            json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"}, replace]}),
            json!(null),
        ),
        (
            json!(null),
            json!({"type": "Sequence", "pretokenizers": [digits, byte_level]}),
        ),
        (
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true}),
            json!({"type": "BertPreTokenizer"}),
        ),
    ];
    for model in ["BPE", "Unigram", "WordLevel"] {
        for (normalizer, pre_tokenizer) in &parts {
            let tokenizer = tokenizer(model, normalizer.clone(), pre_tokenizer.clone());
            for piece in texts {
                let text = piece.repeat(60_000 / piece.len());
                let estimate = tokenizer.estimate.encoding(text.as_bytes());
                let (taken, ids) = memory::peak_of(|| {
                    encode::encode(&tokenizer, &text, true, &TextOnly::None, Cancel(None))
                });
                assert!(ids.is_ok());
                let ratio = taken as f64 / estimate as f64;
                println!(
                    "{model:10} {piece:30?} {:6.1} a byte of {:6.1}  {normalizer} {pre_tokenizer}",
                    taken as f64 / text.len() as f64,
                    estimate as f64 / text.len() as f64
                );
                assert!(
                    ratio <= 1.0,
                    "{model} {piece:?} {ratio} {normalizer} {pre_tokenizer}"
                );
            }
        }
    }
}

#[test]
fn parts_that_make_too_much_of_a_text_are_refused() {
    let replace = |pattern: Value, content: usize| json!({"type": "Replace", "pattern": pattern, "content": "x".repeat(content)});
    let good = [
        json!(null),
        replace(json!({"String": "ab"}), 128),
        replace(json!({"Regex": "a*"}), 63),
        json!({"type": "Prepend", "prepend": "x".repeat(1024)}),
    ];
    let bad = [
        replace(json!({"String": "ab"}), 130),
        replace(json!({"String": ""}), 65),
        replace(json!({"Regex": "a*"}), 64),
        json!({"type": "Prepend", "prepend": "x".repeat(1025)}),
        json!({"type": "Sequence", "normalizers": [
            replace(json!({"String": "a"}), 9), replace(json!({"String": "x"}), 9)]}),
        // A table of no bytes, then one replacement of 96.
        json!({"type": "Precompiled",
            "precompiled_charsmap": format!("AAAAAHh4{}AA==", "eHh4".repeat(31))}),
    ];
    assert!(check_added(&json!({"type": "NFKC"}), 300_000).is_ok());
    assert!(check_added(&json!({"type": "NFKC"}), 400_000).is_err());
    for part in good {
        assert!(checked(&part, "part").is_ok(), "{part}");
    }
    for part in bad {
        assert!(checked(&part, "part").is_err(), "{part}");
    }
}

/// Of a byte-level tokenizer in the manner of GPT-2, for each byte of a text.
fn byte_level_estimate(text: &str) -> f64 {
    let pre_tokenizer = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true,
        "trim_offsets": false});
    let tokenizer = tokenizer("BPE", json!(null), pre_tokenizer);
    let text = text.repeat(1_000_000 / text.len());
    tokenizer.estimate.encoding(text.as_bytes()) as f64 / text.len() as f64
}

#[test]
fn words_are_estimated_by_their_number() {
    let prose = "The river carries the boats to the sea, and the sea carries them home again. ";
    let (prose, digits) = (byte_level_estimate(prose), byte_level_estimate("12 345 "));
    assert!(prose < 300.0, "{prose}");
    assert!(digits > 400.0, "{digits}");
}
