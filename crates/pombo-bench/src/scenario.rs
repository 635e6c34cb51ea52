//! Makes a run from the arguments: each scenario's traffic, and its parameters for the report.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::BenchError;
use super::arguments::{
    BroadcastArgs, CommonArgs, ConnectArgs, FlowArgs, IN_FLIGHT_BYTES_MAX, LoadArgs, MixedArgs, SoakArgs, UnicastArgs,
};
use super::inside::Inside;
use super::progress::Progress;
use super::report::{Parameters, Report};
use super::run::{Length, Run};
use super::soak::Watch;
use super::target::Target;
use super::traffic::{Broadcast, Load, Mixed, Unicast, Visits};
use super::wire::{Addresses, Kind, Writer};

/// Longest login reply or error text that is read.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// Most messages in flight at a fixed rate: with more, the server is hopelessly behind.
const IN_FLIGHT_MAX: u64 = 1 << 20;

pub(super) fn connect(args: &ConnectArgs, target: Target, progress: Progress) -> Result<Report, BenchError> {
    let mut run = Run::begin(&args.common, target, args.connections, REPLY_BYTES_MAX, args.hold, progress)?;
    run.hold(args.hold)?;
    let parameters = Parameters::of(&args.common, args.connections);
    run.finish("connect", parameters, None)
}

pub(super) fn unicast(args: &UnicastArgs, mut target: Target, progress: Progress) -> Result<Report, BenchError> {
    // Drained once the run is over.
    let inside = args.in_process.map(|shards| Inside::start(shards, &mut target)).transpose()?;
    if let Some((inside, placement)) = inside.as_ref().zip(args.placement) {
        target.uids = inside.uids(&target, args.connections, placement)?;
    }
    let load = args.flow.load(args.connections, args.connections, &args.load, &target);
    let parameters = Parameters::of(&args.common, args.connections).with_load(&args.load).with_flow(&args.flow);
    let parameters = Parameters { in_process: args.in_process, placement: args.placement, ..parameters };
    drive("unicast", &args.common, &args.load, target, progress, parameters, load)
}

pub(super) fn broadcast(args: &BroadcastArgs, target: Target, progress: Progress) -> Result<Report, BenchError> {
    let load = Broadcast::new(args.connections, args.window, args.load.writer());
    let parameters = Parameters::of(&args.common, args.connections).with_load(&args.load);
    let parameters = Parameters { window: Some(args.window), ..parameters };
    drive("broadcast", &args.common, &args.load, target, progress, parameters, load)
}

pub(super) fn mixed(args: &MixedArgs, target: Target, progress: Progress) -> Result<Report, BenchError> {
    let load = args.traffic(&target, Visits { visitors: 0, stay: Duration::ZERO });
    drive("mixed", &args.common, &args.load, target, progress, args.parameters(0), load)
}

pub(super) fn soak(args: &SoakArgs, target: Target, progress: Progress) -> Result<Report, BenchError> {
    let mixed = &args.mixed;
    let load = mixed.traffic(&target, Visits { visitors: args.visitors, stay: args.stay });
    let parameters = mixed.parameters(args.visitors);
    let length = Length { seconds: args.seconds(), ..mixed.load.length() };
    let payload_max = mixed.load.payload_max();
    let mut run = Run::begin(&mixed.common, target, parameters.connections, payload_max, length.whole(), progress)?;
    run.watch(Watch::new(args.visitors, args.every, args.growth_max.as_u64()), mixed.common.json);
    let measured = run.measure(length, load)?;
    run.finish("soak", parameters, Some(measured))
}

fn drive<L: Load>(
    scenario: &'static str,
    common: &CommonArgs,
    args: &LoadArgs,
    target: Target,
    progress: Progress,
    parameters: Parameters,
    load: L,
) -> Result<Report, BenchError> {
    let length = args.length();
    let mut run = Run::begin(common, target, parameters.connections, args.payload_max(), length.whole(), progress)?;
    let measured = run.measure(length, load)?;
    run.finish(scenario, parameters, Some(measured))
}

impl LoadArgs {
    fn length(&self) -> Length {
        Length { warmup: self.warmup, seconds: self.seconds(), messages: self.messages }
    }

    fn payload_max(&self) -> usize {
        REPLY_BYTES_MAX.max(self.size as usize)
    }

    fn writer(&self) -> Writer {
        // Runs that follow each other, or share a server, differ in their process and the time they began.
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos()) >> 8;
        let run = (nanos ^ std::process::id().wrapping_mul(0x9e37)) as u16;
        let kind = if self.binary { Kind::Binary } else { Kind::Text };
        Writer::new(kind, self.size as usize, run)
    }
}

impl FlowArgs {
    /// Unicasts among the first `connections` of `all`.
    fn load(&self, connections: u32, all: u32, load: &LoadArgs, target: &Target) -> Unicast {
        let addresses = Addresses::new((0..all).map(|index| target.uid(index)));
        let unicast = Unicast::new(connections, self.window, self.targets(), self.fan_out(), addresses, load.writer());
        let in_flight_max = IN_FLIGHT_MAX.min(IN_FLIGHT_BYTES_MAX / u64::from(load.size));
        match self.rate {
            Some(rate) => unicast.with_rate(rate, in_flight_max),
            None => unicast,
        }
    }
}

impl MixedArgs {
    fn traffic(&self, target: &Target, visits: Visits) -> Mixed {
        let staying = self.active + self.idle;
        let unicast = self.flow.load(self.active, staying + visits.visitors, &self.load, target);
        // Both stamp their messages with the number of the same run.
        let broadcast = Broadcast::new(staying, 1, unicast.writer().clone());
        Mixed::new(unicast, broadcast, self.broadcasts, visits)
    }

    fn parameters(&self, visitors: u32) -> Parameters {
        let all = self.active + self.idle + visitors;
        Parameters {
            active: Some(self.active),
            idle: Some(self.idle),
            visitors: (visitors > 0).then_some(visitors),
            broadcasts_per_second: Some(self.broadcasts),
            ..Parameters::of(&self.common, all).with_load(&self.load).with_flow(&self.flow)
        }
    }
}

impl Parameters {
    fn of(common: &CommonArgs, connections: u32) -> Self {
        Self { connections, connecting: common.connecting, ..Self::default() }
    }

    fn with_load(self, load: &LoadArgs) -> Self {
        let kind = if load.binary { "binary" } else { "text" };
        Self { size: Some(load.size as usize), kind: Some(kind), ..self }
    }

    fn with_flow(self, flow: &FlowArgs) -> Self {
        let window = flow.rate.is_none().then_some(flow.window);
        let fan_out = Some(flow.fan_out()).filter(|fan_out| *fan_out > 1);
        Self { window, rate: flow.rate, targets: Some(flow.targets()), fan_out, ..self }
    }
}
