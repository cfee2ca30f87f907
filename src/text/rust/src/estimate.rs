//! What the parts of a tokenizer can make of a text at most: the memory of a call, known before it
//! starts.

use serde_json::Value;

/// More bytes than this of one byte are no use of a real tokenizer, only a way to take all memory.
pub const MAX_GROWTH: f64 = 64.0;
/// Longest text that a normalizer may put before every other.
const MAX_PREPENDED: usize = 1024;

/// Bytes that one byte can become: one of ASCII, and another.
#[derive(Clone, Copy)]
pub struct Growth {
    ascii: f64,
    other: f64,
}

/// Bytes that encoding takes, for each byte of a text.
pub struct Estimate {
    growth: Growth,
    /// For each byte of the pre-tokenised text.
    text: f64,
    /// For each byte that can begin a piece.
    piece: f64,
    joins: Joins,
}

/// After what a small letter of ASCII never begins a piece.
#[derive(Clone, Copy, Default)]
struct Joins {
    small: bool,
    large: bool,
    space: bool,
}

impl Joins {
    fn begins_none(self, before: u8, byte: u8) -> bool {
        byte.is_ascii_lowercase()
            && match before {
                b'a'..=b'z' => self.small,
                b'A'..=b'Z' => self.large,
                b' ' => self.space,
                _ => false,
            }
    }
}

impl Estimate {
    /// From the JSON of the parts. `merges_long_words`: long words go through `long_word`, not
    /// through the crate. The problem is a part that makes too much of a text.
    pub fn new(
        normalizer: &Value,
        pre_tokenizer: &Value,
        merges_long_words: bool,
    ) -> Result<Estimate, String> {
        // Measured by the test below: original and result with 16 bytes of alignment for each byte
        // of the result, twice while one becomes the other; then symbols and ids.
        const TEXT: f64 = 72.0;
        // A piece of one byte has strings, alignments and a list entry of its own. An expression
        // that goes through a text takes less for each byte while it does.
        const PIECE: f64 = 340.0;
        // The crate's tokens carry their text.
        const TOKEN: f64 = 64.0;
        let normalized = checked(normalizer, "normalizer")?;
        Ok(Estimate {
            growth: normalized.then(checked(pre_tokenizer, "pre_tokenizer")?),
            text: if merges_long_words {
                TEXT
            } else {
                TEXT + TOKEN
            },
            piece: if splits(pre_tokenizer) || searches(normalizer) {
                PIECE
            } else {
                0.0
            },
            joins: Joins::default(),
        })
    }

    /// Finds out what is never cut apart. `pieces` counts those that a text is cut into.
    pub fn find_joins(&mut self, pieces: impl Fn(&str) -> Option<usize>) {
        let letters = || (b'a'..=b'z').map(char::from);
        let count = letters().count();
        // Each letter after each, in one word.
        let small: String = letters()
            .flat_map(|a| letters().map(move |b| [a, b]))
            .flatten()
            .collect();
        let spaced: String = letters().map(|c| format!(" {c}")).collect();
        let all_one = |mut words: Box<dyn Iterator<Item = String> + '_>| {
            words.all(|word| pieces(&word) == Some(1))
        };
        let large = |a: char| letters().map(move |b| format!("{}{b}", a.to_ascii_uppercase()));
        self.joins = Joins {
            small: pieces(&small) == Some(1),
            large: all_one(Box::new(letters().flat_map(large))),
            space: pieces(&spaced) == Some(count),
        };
    }

    /// Bytes of memory that encoding the text may take.
    pub fn encoding(&self, text: &[u8]) -> usize {
        const ALWAYS: usize = 64 << 10;
        let other = text.iter().filter(|byte| !byte.is_ascii()).count() as f64;
        let ascii = text.len() as f64 - other;
        let grown = ascii * self.growth.ascii + other * self.growth.other;
        let joined = match self.piece > 0.0 {
            true => text
                .windows(2)
                .filter(|pair| self.joins.begins_none(pair[0], pair[1]))
                .count(),
            false => 0,
        };
        let pieces = (text.len() - joined) as f64;
        ALWAYS.saturating_add((grown * self.text + pieces * self.piece) as usize)
    }
}

impl Growth {
    const NONE: Growth = Growth::of(1.0, 1.0);

    const fn of(ascii: f64, other: f64) -> Growth {
        Growth { ascii, other }
    }

    const fn all(bytes: f64) -> Growth {
        Growth::of(bytes, bytes)
    }

    pub fn most(self) -> f64 {
        self.ascii.max(self.other)
    }

    /// Both, one after the other: the second may see other bytes than ASCII where the first saw it.
    fn then(self, next: Growth) -> Growth {
        let of_ascii = if self.ascii > 1.0 {
            next.most()
        } else {
            next.ascii
        };
        Growth::of(self.ascii * of_ascii, self.other * next.most())
    }
}

/// The growth of a part of tokenizer.json, or the problem that it is too large.
pub fn checked(part: &Value, name: &str) -> Result<Growth, String> {
    let growth = growth(part);
    if growth.most() > MAX_GROWTH {
        return Err(format!(
            "its {name} can make {:.0} bytes of one; at most {MAX_GROWTH} are allowed",
            growth.most()
        ));
    }
    Ok(growth)
}

/// The problem with added tokens of so many bytes when the normalizer makes too much of them, for
/// they are looked for in normalised text.
pub fn check_added(normalizer: &Value, bytes: usize) -> Result<(), String> {
    const MOST: f64 = (4 << 20) as f64;
    let all = bytes as f64 * growth(normalizer).most();
    if all > MOST {
        return Err(format!(
            "its normalizer can make {all:.0} bytes of its added tokens; at most {MOST} are allowed"
        ));
    }
    Ok(())
}

/// Bytes that one byte can become in a normalizer, a pre-tokenizer or a decoder.
fn growth(part: &Value) -> Growth {
    let text = |name: &str| part.get(name).and_then(Value::as_str).unwrap_or("");
    match text("type") {
        "Sequence" => ["normalizers", "pretokenizers", "decoders"]
            .iter()
            .filter_map(|name| part.get(name)?.as_array())
            .flatten()
            .map(growth)
            .fold(Growth::NONE, Growth::then),
        "Replace" => {
            let content = text("content").len() as f64;
            match part.pointer("/pattern/String").and_then(Value::as_str) {
                Some(pattern) => Growth::all((content / pattern.len().max(1) as f64).max(1.0)),
                // An expression may match nothing, between any two bytes.
                None => Growth::all(content + 1.0),
            }
        }
        "Prepend" if text("prepend").len() > MAX_PREPENDED => Growth::all(f64::INFINITY),
        "Precompiled" => Growth::all(longest_replacement(text("precompiled_charsmap"))),
        "Metaspace" => Growth::all(text("replacement").len().max(1) as f64),
        "NFC" | "NFD" => Growth::of(1.0, 3.0),
        "NFKC" | "NFKD" => Growth::of(1.0, 11.0),
        "BertNormalizer" => Growth::of(1.0, 8.0),
        "Lowercase" => Growth::of(1.0, 2.0),
        // In a decoder each wrong byte becomes U+FFFD.
        "ByteLevel" | "ByteFallback" => Growth::all(3.0),
        "WordPiece" => Growth::all(2.0),
        _ => Growth::NONE,
    }
}

/// SentencePiece's map of characters: the length of a table, the table, then all replacements, each
/// ended by a zero.
fn longest_replacement(base64: &str) -> f64 {
    let bytes = decoded(base64);
    let Some(size) = bytes.first_chunk::<4>() else {
        return 1.0;
    };
    let table = u32::from_le_bytes(*size) as usize;
    let replacements = bytes.get(table.saturating_add(4)..).unwrap_or_default();
    let longest = replacements.split(|byte| *byte == 0).map(<[u8]>::len).max();
    longest.unwrap_or(1).max(1) as f64
}

/// Base64 without its checks, which the crate makes.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0u32, 0);
    for value in text.bytes().filter_map(digit) {
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

/// Whether the part has a regular expression.
fn searches(part: &Value) -> bool {
    match part {
        Value::Object(map) => map.contains_key("Regex") || map.values().any(searches),
        Value::Array(list) => list.iter().any(searches),
        _ => false,
    }
}

/// Whether the pre-tokenizer cuts a text into pieces.
fn splits(part: &Value) -> bool {
    match part.get("type").and_then(Value::as_str) {
        None => false,
        Some("Metaspace") => part.get("split") != Some(&Value::Bool(false)),
        Some("Sequence") => part
            .get("pretokenizers")
            .and_then(Value::as_array)
            .is_some_and(|parts| parts.iter().any(splits)),
        Some(_) => true,
    }
}
