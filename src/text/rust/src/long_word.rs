//! BPE of words too long for the `tokenizers` crate, whose tokens carry their text and which cannot
//! be stopped: a text without spaces, or any text of a SentencePiece model, is one word.
//!
//! The same merges in the same order: always the pair of lowest rank, the leftmost first. Each merge
//! removes a symbol, so a word of n characters takes O(n log n).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::cancel::Cancel;
use crate::error::Result;
use crate::tokenizer_json::BpeOutline;

/// Words up to this many bytes go through the crate.
pub const MIN_BYTES: usize = 4096;
/// Merges between looks at the cancel flag.
const MERGES_PER_CHECK: usize = 1 << 16;
/// No symbol.
const NONE: u32 = u32::MAX;

/// What merging needs of a BPE model.
pub struct LongWords {
    /// Rank and result of each mergeable pair.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Ids of the single characters.
    characters: HashMap<char, u32>,
    /// Ids of the byte tokens, when the model has all of them and falls back to them.
    bytes: Option<Box<[u32; 256]>>,
    unknown: Option<u32>,
    fuse_unknown: bool,
}

struct Symbol {
    id: u32,
    previous: u32,
    next: u32,
}

impl LongWords {
    /// None for a model with rules of its own for the start or end of words, or with chance.
    pub fn new(outline: BpeOutline) -> Option<LongWords> {
        if !outline.plain {
            return None;
        }
        let ranked = outline.merges.iter().zip(0..);
        Some(LongWords {
            merges: ranked
                .map(|((left, right, result), rank)| ((*left, *right), (rank, *result)))
                .collect(),
            characters: outline.characters,
            bytes: outline.bytes,
            unknown: outline.unknown,
            fuse_unknown: outline.fuse_unknown,
        })
    }

    pub fn encode(&self, word: &str, cancel: Cancel, ids: &mut Vec<u32>) -> Result<()> {
        let mut symbols = self.symbols(word);
        self.merge(&mut symbols, cancel)?;
        let mut at = if symbols.is_empty() { NONE } else { 0 };
        while at != NONE {
            let symbol = &symbols[at as usize];
            ids.push(symbol.id);
            at = symbol.next;
        }
        Ok(())
    }

    /// The word's characters as ids; unknown ones as bytes, else as the unknown token, else not.
    fn symbols(&self, word: &str) -> Vec<Symbol> {
        let mut ids: Vec<u32> = Vec::with_capacity(word.len());
        let mut after_unknown = false;
        for c in word.chars() {
            if let Some(id) = self.characters.get(&c) {
                ids.push(*id);
                after_unknown = false;
            } else if let Some(bytes) = &self.bytes {
                let mut buffer = [0; 4];
                let encoded = c.encode_utf8(&mut buffer).bytes();
                ids.extend(encoded.map(|byte| bytes[usize::from(byte)]));
            } else if let Some(unknown) = self.unknown {
                if !(after_unknown && self.fuse_unknown) {
                    ids.push(unknown);
                }
                after_unknown = true;
            }
        }
        let count = ids.len() as u32;
        ids.into_iter()
            .zip(0..)
            .map(|(id, at)| Symbol {
                id,
                previous: if at == 0 { NONE } else { at - 1 },
                next: if at + 1 == count { NONE } else { at + 1 },
            })
            .collect()
    }

    fn merge(&self, symbols: &mut [Symbol], cancel: Cancel) -> Result<()> {
        let candidate = |symbols: &[Symbol], at: u32| {
            let left = &symbols[at as usize];
            let right = symbols.get(left.next as usize)?;
            let (rank, result) = self.merges.get(&(left.id, right.id))?;
            Some(Reverse((*rank, at, *result)))
        };
        let all = 0..symbols.len() as u32;
        let mut queue: BinaryHeap<_> = all.filter_map(|at| candidate(symbols, at)).collect();
        let mut count = 0;
        while let Some(Reverse((_, at, result))) = queue.pop() {
            count += 1;
            if count % MERGES_PER_CHECK == 0 {
                cancel.check()?;
            }
            // An entry may be older than the symbols beside it, or its own may be gone.
            let (id, right) = (symbols[at as usize].id, symbols[at as usize].next);
            let still = id != NONE
                && right != NONE
                && self
                    .merges
                    .get(&(id, symbols[right as usize].id))
                    .is_some_and(|(_, now)| *now == result);
            if !still {
                continue;
            }
            let next = symbols[right as usize].next;
            symbols[right as usize].id = NONE;
            let merged = &mut symbols[at as usize];
            merged.id = result;
            merged.next = next;
            let previous = merged.previous;
            if next != NONE {
                symbols[next as usize].previous = at;
            }
            if previous != NONE {
                queue.extend(candidate(symbols, previous));
            }
            queue.extend(candidate(symbols, at));
        }
        Ok(())
    }
}
