//! The pages of the documentation to which the console links, as they were when the program was built.
//!
//! They are public, like the console's page, and go out as plain text: a browser runs nothing of them.

use axum::extract::Path;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};

use crate::control::problem::{Failure, Problem};

/// Where they are.
pub(super) const PATH: &str = "/docs/";

const PAGES: [(&str, &str); 4] = [
    ("metrics.md", include_str!("../../../docs/metrics.md")),
    ("push.md", include_str!("../../../docs/push.md")),
    ("settings.md", include_str!("../../../docs/settings.md")),
    ("watching.md", include_str!("../../../docs/watching.md")),
];

/// Shows a page.
pub(super) async fn page(Path(name): Path<String>) -> Result<Response, Failure> {
    let Some((_, text)) = PAGES.iter().find(|(known, _)| *known == name) else {
        let names = PAGES.map(|(known, _)| known).join(", ");
        return Err(Problem::NotFound.with_detail(format!("expected one of {names}")));
    };
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'"),
    ];
    Ok((headers, *text).into_response())
}
