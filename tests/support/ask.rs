//! Requests to the control listener, and what is expected of the answers.

use pombo::Listen;
use serde_json::Value;

use super::client::Client;
use super::http::{Request, Response};
use super::node::Node;

/// A request with its body.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    request: Request,
    body: Vec<u8>,
}

impl Ask {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let request = Request::new(&format!("{method} {target} HTTP/1.1")).with("Host", "localhost");
        Self { request, body: Vec::new() }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    pub(crate) fn delete(target: &str) -> Self {
        Self::new("DELETE", target)
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.with(name, value);
        self
    }

    pub(crate) fn replacing(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.replacing(name, value);
        self
    }

    pub(crate) fn body(mut self, media_type: &str, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.with("Content-Type", media_type)
    }

    pub(crate) fn text(self, message: &str) -> Self {
        self.body("text/plain", message)
    }

    pub(crate) fn json(self, value: &Value) -> Self {
        self.body("application/json", value.to_string())
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.with("Authorization", &format!("Bearer {token}"))
    }

    /// Sends it; `None` of a body is no body.
    #[track_caller]
    pub(crate) fn send(&self, client: &mut Client) {
        let request = match self.body.is_empty() {
            true => self.request.clone(),
            false => self.request.clone().with("Content-Length", &self.body.len().to_string()),
        };
        client.send_bytes(&[request.bytes(), self.body.clone()].concat());
    }

    /// Sends it, and takes the answer.
    #[track_caller]
    pub(crate) fn over(&self, client: &mut Client) -> Response {
        self.send(client);
        client.receive_response()
    }

    /// Sends it over a connection of its own.
    #[track_caller]
    pub(crate) fn to(&self, node: &Node) -> Response {
        self.over(&mut node.dial_control())
    }
}

impl Node {
    #[track_caller]
    pub(crate) fn control_listen(&self) -> &Listen {
        self.control_addresses().control.as_ref().expect("the test has a control listener")
    }

    /// Connects to the control listener.
    #[track_caller]
    pub(crate) fn dial_control(&self) -> Client {
        Client::dial(self.control_listen()).named("control")
    }
}

impl Response {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Takes an answer that the request was done with.
    #[track_caller]
    pub(crate) fn expect(&self, value: &Value) {
        assert_eq!((self.status, self.header("content-type")), (200, Some("application/json")), "{self:?}");
        assert_eq!(self.json(), *value);
    }

    /// Takes a problem with this name, and `words` in its detail.
    #[track_caller]
    pub(crate) fn expect_problem(&self, problem: pombo::Problem, words: &str) {
        assert_eq!(self.status, problem.status(), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let told = self.json();
        assert_eq!(told["type"], format!("urn:problem-type:pombo:{}", problem.name()), "{self:?}");
        assert_eq!((&told["title"], &told["status"]), (&problem.title().into(), &self.status.into()), "{self:?}");
        let detail = told["detail"].as_str().expect("a problem has its detail");
        assert!(detail.contains(words), "expected {words:?} in {detail:?}");
    }
}
