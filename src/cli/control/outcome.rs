//! The outcome of a message, from a node's answer.

use serde_json::Value;

use super::{End, sessions};

/// The outcome of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This many sessions took it.
    Taken(u64),
    Offline,
    /// For this reason.
    Shed(String),
    /// The message was not sent, or the outcome is unknown, for this reason.
    Failed(String),
}

impl Outcome {
    /// Finds the outcome in an answer to a push, to a broadcast, or to a line of a batch; ignores unknown fields.
    pub(super) fn of(answer: &Value) -> Option<Self> {
        let text = |name| answer.get(name).and_then(Value::as_str);
        let count = answer.get("sessions").and_then(Value::as_u64);
        match (text("outcome"), count) {
            (Some("delivered"), Some(count)) => Some(Self::Taken(count)),
            (Some("offline"), _) | (None, Some(0)) => Some(Self::Offline),
            (None, Some(count)) => Some(Self::Taken(count)),
            (Some("shed"), _) => Some(Self::Shed(text("reason").unwrap_or("no reason told").to_owned())),
            (Some(other), _) => {
                let problem = answer.get("problem");
                let words = ["detail", "title"].iter().find_map(|name| problem?.get(name)?.as_str());
                Some(Self::Failed(words.unwrap_or(other).to_owned()))
            }
            (None, None) => None,
        }
    }

    /// Returns the outcome of the command.
    pub(super) fn end(&self) -> End {
        match self {
            Self::Taken(_) => End::Done,
            Self::Offline => End::Offline,
            Self::Shed(_) => End::Shed,
            Self::Failed(_) => End::Failed,
        }
    }

    /// Describes the outcome for the sender of a message to `who`.
    pub(super) fn told(&self, who: &str) -> String {
        match self {
            Self::Taken(count) => format!("taken by {}", sessions(*count)),
            Self::Offline => format!("{who} is offline"),
            Self::Shed(reason) => format!("not taken: {reason}"),
            Self::Failed(why) => format!("not sent: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, expected: Option<Outcome>) {
        let answer = serde_json::from_str(answer).expect("JSON");
        assert_eq!(Outcome::of(&answer), expected, "{answer}");
    }

    #[test]
    fn finds_what_became_of_a_message() {
        check(r#"{"uid":"a","outcome":"delivered","sessions":2,"more":1}"#, Some(Outcome::Taken(2)));
        check(r#"{"uid":"a","outcome":"offline"}"#, Some(Outcome::Offline));
        check(r#"{"uid":"a","outcome":"shed","reason":"outbox-full"}"#, Some(Outcome::Shed("outbox-full".to_owned())));
        check(r#"{"outcome":"refused","problem":{"detail":"x","title":"y"}}"#, Some(Outcome::Failed("x".to_owned())));
        check(r#"{"outcome":"unknown","problem":{"title":"y"}}"#, Some(Outcome::Failed("y".to_owned())));
        check(r#"{"outcome":"something new"}"#, Some(Outcome::Failed("something new".to_owned())));
        check(r#"{"sessions":3}"#, Some(Outcome::Taken(3)));
        check(r#"{"sessions":0}"#, Some(Outcome::Offline));
        for answer in ["{}", "[]", "null", "3", r#"{"outcome":3}"#, r#"{"sessions":"3"}"#] {
            check(answer, None);
        }
    }
}
