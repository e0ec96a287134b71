//! What went wrong lately, as the API tells it: the text of the last log lines that are errors.
//!
//! Invariant: memory is bounded by [`MOST`] and [`MOST_BYTES`]; the oldest go first.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// Texts that are kept.
const MOST: usize = 500;
/// Bytes that they have together.
const MOST_BYTES: usize = 50 << 10;

static RECENT: Recent = Recent(Mutex::new(Texts { texts: VecDeque::new(), bytes: 0 }));

struct Recent(Mutex<Texts>);

struct Texts {
    texts: VecDeque<String>,
    bytes: usize,
}

/// Something went wrong.
pub(super) fn push(text: &str) {
    RECENT.push(text);
}

/// The answer of `/daemon/events`.
pub fn events() -> Value {
    RECENT.events()
}

impl Recent {
    fn push(&self, text: &str) {
        let text = &text[..text.floor_char_boundary(MOST_BYTES)];
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while recent.texts.len() >= MOST || recent.bytes + text.len() > MOST_BYTES {
            let Some(oldest) = recent.texts.pop_front() else { break };
            recent.bytes -= oldest.len();
        }
        recent.bytes += text.len();
        recent.texts.push_back(text.to_owned());
    }

    fn events(&self) -> Value {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "max_errors": MOST,
            "total_errors": recent.texts.len(),
            "max_size": MOST_BYTES,
            "total_size": recent.bytes,
            "errors": recent.texts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_errors_are_kept_within_bounds() {
        let recent = Recent(Mutex::new(Texts { texts: VecDeque::new(), bytes: 0 }));
        assert_eq!(
            recent.events(),
            json!({"max_errors": 500, "total_errors": 0, "max_size": 51200, "total_size": 0, "errors": []})
        );
        (0..600).for_each(|number| recent.push(&format!("error {number:04}")));
        let events = recent.events();
        assert_eq!((&events["total_errors"], &events["total_size"]), (&json!(500), &json!(5000)));
        assert_eq!(
            (&events["errors"][0], &events["errors"][499]),
            (&json!("error 0100"), &json!("error 0599"))
        );
        recent.push(&"é".repeat(MOST_BYTES));
        let events = recent.events();
        assert_eq!((&events["total_errors"], &events["total_size"]), (&json!(1), &json!(MOST_BYTES)));
    }
}
