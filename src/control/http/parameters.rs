//! Reads the path and the query of a request.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};

use crate::control::problem::{Failure, Problem};

/// A uid in the path, percent-encoded there.
pub(super) type UidInPath = Result<Path<String>, PathRejection>;

/// The pairs of the query, percent-encoded there.
pub(super) type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

pub(super) fn uid(path: UidInPath) -> Result<String, Failure> {
    path.map(|Path(uid)| uid).map_err(|error| Problem::Malformed.with_detail(error.body_text()))
}

/// The parameters of a request; a name that is not among `known` is refused.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn read(pairs: Pairs, known: &[&str]) -> Result<Self, Failure> {
        let Query(pairs) = pairs.map_err(|error| Problem::Malformed.with_detail(error.body_text()))?;
        if let Some((name, _)) = pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            let name: String = name.chars().take(100).collect();
            let expected = if known.is_empty() { "none".to_owned() } else { known.join(" or ") };
            return Err(Problem::Malformed.with_detail(format!("no parameter is called {name:?}, expected {expected}")));
        }
        Ok(Self(pairs))
    }

    /// Every value of a parameter.
    pub(super) fn all(self, name: &str) -> Vec<String> {
        self.0.into_iter().filter(|(other, _)| other == name).map(|(_, value)| value).collect()
    }

    /// The value of a parameter that may stand there once.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Failure> {
        let mut values = self.0.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(Problem::Malformed.with_detail(format!("expected {name} once"))),
        }
    }

    /// The number of a parameter, from `from` to `to`.
    pub(super) fn number(&self, name: &str, from: usize, to: usize) -> Result<Option<usize>, Failure> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| is_plain && (from..=to).contains(number));
        let refused = || Problem::Malformed.with_detail(format!("{name} is no number from {from} to {to}"));
        number.map(Some).ok_or_else(refused)
    }
}
