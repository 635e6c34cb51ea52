//! A scenario of a comparison: its command line, and the run that this makes.

use clap::Parser;

use super::super::arguments::Scenario;
use super::super::{BenchError, Report, ScenarioArgs, measure_as};
use super::peer::{Peer, PeerCommand};
use super::{Column, Row};

/// A scenario as it was asked for.
pub(super) struct Line {
    pub(super) text: String,
    /// Arguments that those of the text override.
    pub(super) defaults: Vec<String>,
    /// Index of the server that the others are compared with.
    pub(super) baseline: usize,
}

#[derive(Parser)]
#[command(no_binary_name = true, args_override_self = true, disable_help_flag = true)]
struct Words {
    #[command(flatten)]
    arguments: ScenarioArgs,
}

impl Line {
    pub(super) fn arguments(&self, server: &str, pid: Option<u32>) -> Result<ScenarioArgs, BenchError> {
        let mut words = self.text.split_whitespace().map(str::to_owned);
        let mut all: Vec<String> = words.next().into_iter().collect();
        all.push(server.to_owned());
        all.extend(self.defaults.iter().cloned());
        all.extend(words);
        all.extend(pid.into_iter().flat_map(|pid| ["--pid".to_owned(), pid.to_string()]));
        let parsed = Words::try_parse_from(all).map_err(|error| {
            let why = error.to_string();
            let first = why.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            BenchError::Arguments(format!("--scenario is {:?}: {first}", self.text))
        })?;
        if matches!(parsed.arguments.scenario, Scenario::Soak(_)) {
            return Err(BenchError::Arguments("--scenario is \"soak\", which is for one server at a time".into()));
        }
        Ok(parsed.arguments)
    }

    pub(super) fn is_connect(&self) -> bool {
        self.text.trim_start().starts_with("connect")
    }

    pub(super) fn measure(&self, title: &str, peer: &Peer) -> Result<Report, BenchError> {
        measure_as(title, &self.arguments(&peer.address.to_string(), Some(peer.pid()))?)
    }

    pub(super) fn row(&self, servers: &[PeerCommand]) -> Row {
        let columns = servers.iter().map(|server| Column {
            server: server.name.clone(),
            rounds: Vec::new(),
            curves: None,
            median: None,
            verdict: None,
            bottlenecks: 0,
            failures: Vec::new(),
        });
        let baseline = servers[self.baseline].name.clone();
        Row { scenario: self.text.clone(), baseline, columns: columns.collect() }
    }
}
