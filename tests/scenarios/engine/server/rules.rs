//! Which requests are answered otherwise.

use crate::schema::{Distortion, Kind, Rule};

/// The rules of a server, and how many requests each has seen.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<(Rule, u64)>);

impl Rules {
    /// Rules that have seen nothing.
    pub fn new(rules: &[Rule]) -> Self {
        Self(rules.iter().map(|rule| (rule.clone(), 0)).collect())
    }

    /// What the first rule that fits a request of this kind does to its answer. Rules before it have seen the request
    /// too.
    pub fn pick(&mut self, kind: Kind) -> Option<Distortion> {
        for (rule, seen) in &mut self.0 {
            if rule.kind != Kind::Any && rule.kind != kind {
                continue;
            }
            *seen += 1;
            let Some(number) = seen.checked_sub(rule.after).filter(|number| *number > 0) else { continue };
            let is_over = rule.times.is_some_and(|times| number > times);
            let is_turn = rule.every.is_none_or(|every| number % every == 0);
            if !is_over && is_turn {
                return Some(rule.then.clone());
            }
        }
        None
    }
}
