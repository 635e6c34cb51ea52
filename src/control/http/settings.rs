//! The settings in force, without secrets.

use axum::extract::{Extension, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::access::Right;
use super::parameters::{Pairs, Parameters};
use super::reply::Reply;
use crate::config::SettingInForce;
use crate::control::problem::Failure;
use crate::control::tokens::Caller;

/// The settings in force.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Settings {
    /// Each setting, in the order of the documentation.
    settings: Vec<Setting>,
}

/// A setting in force.
#[derive(Debug, Serialize, ToSchema)]
struct Setting {
    key: &'static str,
    /// Heading of its group.
    group: &'static str,
    /// As a flag takes it; `(hidden)` for a secret that is set.
    value: String,
    /// The default, in words where it depends on the machine.
    default: String,
    /// Whether the value is another one than the default.
    changed: bool,
    /// Whether a reload can change it, or only a restart.
    live: bool,
    /// What it does.
    help: &'static str,
}

impl From<&SettingInForce> for Setting {
    fn from(setting: &SettingInForce) -> Self {
        let SettingInForce { key, group, value, default, is_changed, is_live, help } = setting;
        let (value, default) = (value.clone(), default.clone());
        Self { key, group, value, default, changed: *is_changed, live: *is_live, help }
    }
}

/// Returns the settings in force, after the last reload. No secret is among them.
#[utoipa::path(get, path = "/v1/settings", tag = "admin",
    responses((status = 200, description = "The settings", body = Settings)))]
pub(super) async fn settings(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    pairs: Pairs,
) -> Result<Reply, Failure> {
    // They name files of the machine, and addresses of services.
    caller.require(Right::Admin)?;
    Parameters::read(pairs, &[])?;
    Ok(Reply::json(&Settings { settings: api.settings().in_force.iter().map(Setting::from).collect() }))
}
