//! In which shapes a template shows what messages say: as one text, as a list of parts, or either.
//! A template that goes through parts finds none in a text and leaves the message out, so each is
//! tried once, by a word that must come out again.

use serde_json::{json, Value};

/// Shapes of content that come out whole, for one role.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shapes {
    /// {"content": "text"}
    pub text: bool,
    /// {"content": [{"type": "text", "text": "text"}]}
    pub part: bool,
    /// The same, with more than one part
    pub parts: bool,
    /// {"type": "thinking", "thinking": "text"} among the parts
    pub thinking: bool,
}

/// The roles that templates tell apart, in the order of the C interface.
pub const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

const WORD: &str = "moesaicprobe";
/// A member of a part that no template names: it comes out where a list is only written out.
const UNNAMED: &str = "moesaicunnamed";

/// Tries a template. `render` gives the text for a list of messages, None where it refuses them.
pub fn probe(mut render: impl FnMut(Value) -> Option<String>) -> [Shapes; ROLES.len()] {
    let mut shapes = [Shapes::default(); ROLES.len()];
    // The user's first: the other roles' messages stand beside one.
    for role in [1, 0, 2, 3] {
        let filler = |role: usize, text: &str| match shapes[role].part && !shapes[role].text {
            true => json!([part(text)]),
            false => json!(text),
        };
        let mut shows = |content: Value, words: usize| {
            let messages = conversation(role, content, &filler);
            render(messages).is_some_and(|text| {
                let shown = |word: usize| text.contains(&format!("{WORD}{word}."));
                (0..words).all(shown) && !text.contains(UNNAMED)
            })
        };
        let text = shows(json!(word(0)), 1);
        let one = shows(json!([part(&word(0))]), 1);
        let parts = one && shows(json!([part(&word(0)), part(&word(1))]), 2);
        let thought = json!({"type": "thinking", "thinking": word(0)});
        let thinking =
            ROLES[role] == "assistant" && parts && shows(json!([thought, part(&word(1))]), 2);
        shapes[role] = Shapes {
            text,
            part: one,
            parts,
            thinking,
        };
    }
    shapes
}

fn word(number: usize) -> String {
    format!("{WORD}{number}.")
}

fn part(text: &str) -> Value {
    json!({"type": "text", "text": text, UNNAMED: UNNAMED})
}

/// A conversation that templates take, in which a message of the role has that content.
fn conversation(role: usize, content: Value, filler: &dyn Fn(usize, &str) -> Value) -> Value {
    let user = json!({"role": "user", "content": filler(1, "x")});
    let message = json!({"role": ROLES[role], "content": content});
    match ROLES[role] {
        "system" => json!([message, user]),
        "assistant" => json!([user, message]),
        "tool" => {
            // Nine letters and digits, which some templates ask of an id.
            let id = "call00000";
            let function = json!({"name": "f", "arguments": {}});
            let call = json!({"id": id, "type": "function", "function": function});
            let asks = json!({"role": "assistant", "content": filler(2, ""), "tool_calls": [call]});
            let result =
                json!({"role": "tool", "name": "f", "tool_call_id": id, "content": content});
            json!([user, asks, result])
        }
        _ => json!([message]),
    }
}
