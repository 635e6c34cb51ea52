//! The description of the API, made from the code that is the API.

use std::sync::LazyLock;

use axum::http::header::HeaderValue;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::outcome::{BatchMessage, List};
use super::reply::Reply;
use super::{batch, health, history, push, settings, stats, uids};
use crate::control::problem::Details;

#[derive(OpenApi)]
#[openapi(
    info(title = "pombo", description = "Push to users of a node, ask who is online, and close sessions.",
         license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")),
    paths(push::one, push::list, push::broadcast, batch::batch, uids::sessions, uids::page, uids::counts, stats::stats,
          history::history, uids::close, settings::settings, description, health::live, health::ready),
    components(schemas(Details, BatchMessage, List)),
    tags((name = "push", description = "Sending messages; the right `push`"),
         (name = "query", description = "Asking who is online; the right `query`"),
         (name = "admin", description = "Closing sessions, and the settings; the right `admin`"),
         (name = "health", description = "Probes for load balancers and supervisors; without a token")),
    modifiers(&Shared),
)]
struct Api;

/// What all operations have in common.
struct Shared;

impl Modify for Shared {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Needed where the node has tokens"))
            .build();
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
        for (path, item) in &mut api.paths.paths {
            let operations = [&mut item.get, &mut item.post, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                match path.starts_with("/v1/") {
                    true => add_problems(operation),
                    // Probes bring no token, and get a line of text that says what is wrong.
                    false => operation.security = Some(Vec::new()),
                }
            }
        }
    }
}

fn add_problems(operation: &mut Operation) {
    operation.security =
        Some(vec![SecurityRequirement::default(), SecurityRequirement::new("token", Vec::<String>::new())]);
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let problem = ResponseBuilder::new()
        .description("Why it was not done, or may not have been")
        .content("application/problem+json", content)
        .build();
    operation.responses.responses.insert("default".to_owned(), problem.into());
}

/// Names every path with its methods, on one line: the answer to a request for another path.
pub(super) static PATHS: LazyLock<String> = LazyLock::new(|| {
    let mut all = vec!["GET /metrics".to_owned()];
    for (path, item) in &Api::openapi().paths.paths {
        let methods = [("GET", &item.get), ("POST", &item.post), ("DELETE", &item.delete)];
        all.extend(
            methods.iter().filter(|(_, operation)| operation.is_some()).map(|(name, _)| format!("{name} {path}")),
        );
    }
    all.join(", ")
});

/// The description, which never changes while the node runs.
static DESCRIPTION: LazyLock<Reply> = LazyLock::new(|| {
    let mut reply = Reply::json(&Api::openapi());
    reply.content_type = HeaderValue::from_static("application/json");
    reply
});

/// Describes the API.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "query",
    responses((status = 200, description = "This description", body = serde_json::Value)))]
pub(super) async fn description() -> Reply {
    DESCRIPTION.clone()
}
