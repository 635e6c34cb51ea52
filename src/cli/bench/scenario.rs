//! The course of a run: connect, warm up, measure, drain, close; and what is read at each point.
//!
//! It owns nothing longer than a run. All waiting happens in the generator's turns.

use std::time::{Duration, Instant};

use super::generator::{Generator, Idle, Target};
use super::process::{self, KernelMemory, Process, Schedule, Usage};
use super::progress::Progress;
use super::report::{
    Cpu, GeneratorCost, Latency, Logins, Messages, Parameters, Report, ServerCost, latency_curve, micros_per,
};
use super::traffic::{Broadcast, Load, Unicast};
use super::wire::{Addresses, Kind, Writer};
use super::{BenchError, BroadcastArgs, CommonArgs, ConnectArgs, LoadArgs, UnicastArgs};

/// Time for connecting, settling and draining in a run that sets no deadline.
const DEADLINE_SPARE: Duration = Duration::from_secs(120);

/// Longest that memory is waited for to settle.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// After the last message that is owed, nothing more may come for this long.
const QUIET: Duration = Duration::from_millis(100);

/// Longest time between two looks at the clock.
const LOOK: Duration = Duration::from_millis(50);

/// Share of the median latency from which on the generator's own lateness is taken for the bottleneck.
const LATE: f64 = 0.5;

/// Longest login reply or error text that is read.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// Messages on their way at a fixed rate: beyond, the server is hopelessly behind.
const IN_FLIGHT_MAX: u64 = 1 << 20;

/// Share of the time from which on the generator is taken for the bottleneck.
const BOTTLENECK: f64 = 0.95;

pub(super) fn connect(args: &ConnectArgs, target: Target, progress: Progress) -> Result<Report, BenchError> {
    let mut run = Run::begin(&args.common, target, args.connections, REPLY_BYTES_MAX, args.hold, progress)?;
    run.hold(args.hold)?;
    let parameters = Parameters {
        connections: args.connections,
        connecting: args.common.connecting,
        window: None,
        size: None,
        kind: None,
        targets: None,
        rate: None,
    };
    run.finish("connect", parameters, None)
}

pub(super) fn unicast(args: &UnicastArgs, target: Target, progress: Progress) -> Result<Report, BenchError> {
    let addresses = Addresses::new((0..args.connections).map(|index| target.uid(index)));
    let mut load = Unicast::new(args.connections, args.window, args.targets, addresses, args.load.writer());
    let mut parameters = args.load.parameters(&args.common, args.connections, args.window);
    if let Some(rate) = args.rate {
        load = load.with_rate(rate, IN_FLIGHT_MAX.min(super::IN_FLIGHT_BYTES_MAX / u64::from(args.load.size)));
        (parameters.window, parameters.rate) = (None, Some(rate));
    }
    parameters.targets = Some(args.targets);
    drive("unicast", &args.common, &args.load, target, progress, parameters, load)
}

pub(super) fn broadcast(args: &BroadcastArgs, target: Target, progress: Progress) -> Result<Report, BenchError> {
    let load = Broadcast::new(args.connections, args.window, args.load.writer());
    let parameters = args.load.parameters(&args.common, args.connections, args.window);
    drive("broadcast", &args.common, &args.load, target, progress, parameters, load)
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
    let payload_max = REPLY_BYTES_MAX.max(args.size as usize);
    let mut run =
        Run::begin(common, target, parameters.connections, payload_max, args.warmup + args.seconds, progress)?;
    let measured = run.measure(args, load)?;
    run.finish(scenario, parameters, Some(measured))
}

impl LoadArgs {
    fn kind(&self) -> Kind {
        if self.binary { Kind::Binary } else { Kind::Text }
    }

    fn writer(&self) -> Writer {
        // Runs that follow each other, or share a server, differ in their process and the time they began.
        let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos() >> 8);
        let run = (nanos ^ std::process::id().wrapping_mul(0x9e37)) as u16;
        Writer::new(self.kind(), self.size as usize, run)
    }

    fn parameters(&self, common: &CommonArgs, connections: u32, window: u32) -> Parameters {
        Parameters {
            connections,
            connecting: common.connecting,
            window: Some(window),
            size: Some(self.size as usize),
            kind: Some(if self.binary { "binary" } else { "text" }),
            targets: None,
            rate: None,
        }
    }
}

/// A run under way, all its connections logged in.
struct Run {
    generator: Generator,
    server: String,
    patience: Duration,
    process: Option<Process>,
    logins: Logins,
    login_cost: GeneratorCost,
    /// Before the first connection, and with all logged in.
    memory: Option<[Memory; 2]>,
    /// From before the first connection to the last login.
    login_switches: (u64, u64),
    progress: Progress,
    failures: Vec<String>,
}

/// Memory at one moment.
#[derive(Clone, Copy)]
struct Memory {
    private_bytes: u64,
    kernel: Option<KernelMemory>,
}

impl Memory {
    /// Waits for it to settle, and reads it.
    fn settled(process: &Process) -> Result<Self, process::ProcessError> {
        Ok(Self { private_bytes: process.settled_private_bytes(SETTLE_MAX)?, kernel: process::kernel_memory() })
    }
}

/// What [`Run::measure`] found.
struct Measured {
    messages: Messages,
    tally: super::Tally,
    cost: Option<ServerCost>,
    generator: GeneratorCost,
}

/// A moment at which a time to be measured begins or ends.
struct Moment {
    at: Instant,
    usage: Option<Usage>,
    own: Schedule,
}

impl Moment {
    /// Reads the clocks. A server that has ended by now has no usage; its connections tell the rest.
    fn now(process: Option<&Process>) -> Self {
        let usage = process.and_then(|process| process.usage().ok());
        Self { at: Instant::now(), usage, own: process::own_schedule() }
    }

    /// What the generator used from `before` on, which saw `count` deliveries or logins.
    fn own_cost(&self, before: &Moment, count: u64) -> GeneratorCost {
        let seconds = (self.at - before.at).as_secs_f64().max(1e-9);
        let running = self.own.running.saturating_sub(before.own.running);
        let busy = running.as_secs_f64() / seconds;
        let waiting = self.own.waiting.saturating_sub(before.own.waiting).as_secs_f64() / seconds;
        GeneratorCost { cpu_us: micros_per(running, count), busy, waiting, bottleneck: busy + waiting >= BOTTLENECK }
    }

    fn server_cost(&self, before: &Moment) -> Option<process::Spent> {
        Some(self.usage?.since(&before.usage?))
    }
}

impl Run {
    /// Opens and logs in all connections; `length` is how long the run will take from there.
    fn begin(
        args: &CommonArgs,
        target: Target,
        connections: u32,
        payload_max: usize,
        length: Duration,
        mut progress: Progress,
    ) -> Result<Self, BenchError> {
        let process = args.pid.map(Process::open).transpose()?;
        let address = target.address;
        let deadline = args.deadline.unwrap_or(length + DEADLINE_SPARE);
        let mut generator =
            Generator::new(target, connections, payload_max, deadline).map_err(|source| BenchError::Poll { source })?;
        let memory_before = process.as_ref().map(Memory::settled).transpose()?;
        let before = Moment::now(process.as_ref());
        generator.last_arrival = generator.now();
        while generator.connections() < connections || generator.logging_in > 0 {
            while generator.connections() < connections && generator.logging_in < args.connecting {
                generator.connect_next()?;
            }
            generator.turn(&mut Idle, LOOK)?;
            let logged_in = generator.connections() - generator.logging_in;
            progress.say(f64::from(logged_in) / f64::from(connections), || format!("{logged_in} logged in"));
            if since(&generator) > args.patience {
                return Err(BenchError::Silent { address, patience: args.patience, logged_in, connections });
            }
        }
        let after = Moment::now(process.as_ref());
        let memory_idle = process.as_ref().map(Memory::settled).transpose()?;
        let spent = after.server_cost(&before).unwrap_or_default();
        let seconds = (after.at - before.at).as_secs_f64();
        let logins = Logins {
            seconds,
            per_second: f64::from(connections) / seconds,
            latency: Latency::of(&generator.login_latency),
            server_cpu_us: process.map(|_| Cpu::per(&spent, connections.into())),
        };
        Ok(Self {
            generator,
            server: address.to_string(),
            patience: args.patience,
            process,
            logins,
            login_cost: after.own_cost(&before, connections.into()),
            memory: memory_before.zip(memory_idle).map(|(before, idle)| [before, idle]),
            login_switches: (spent.voluntary_switches, spent.involuntary_switches),
            progress,
            failures: Vec::new(),
        })
    }

    /// Keeps the connections for `time`, answering pings.
    fn hold(&mut self, time: Duration) -> Result<(), BenchError> {
        let end = Instant::now() + time;
        while Instant::now() < end && self.generator.lost.is_none() {
            self.generator.turn(&mut Idle, LOOK.min(end.saturating_duration_since(Instant::now())))?;
            let left = end.saturating_duration_since(Instant::now()).as_secs_f64();
            self.progress.say(1.0 - left / time.as_secs_f64(), || format!("idle for {left:.0} s more"));
        }
        Ok(())
    }

    /// Puts `load` on the connections: warm-up, what is measured, and what is still under way then.
    fn measure<L: Load>(&mut self, args: &LoadArgs, mut load: L) -> Result<Measured, BenchError> {
        self.generator.last_arrival = self.generator.now();
        let now = self.generator.now();
        load.start(now, self.generator.due());
        let whole = (args.warmup + args.seconds).as_secs_f64().max(1e-9);
        let start = Instant::now();
        let warm = start + args.warmup;
        while Instant::now() < warm && !self.is_broken() && !load.is_overrun() {
            self.generator.turn(&mut load, LOOK.min(warm.saturating_duration_since(Instant::now())))?;
            let (now, tally) = (Instant::now(), load.tally());
            self.progress.look(now, tally.delivered, tally.faults(), (now - start).as_secs_f64() / whole);
        }
        let before = Moment::now(self.process.as_ref());
        let (delivered_before, receives_before) = (load.tally().delivered, self.generator.receives);
        let now = self.generator.now();
        load.resume(now);
        if !args.warmup.is_zero() {
            // Takes in what had to wait while the clocks were read: that is nobody's latency.
            self.generator.turn(&mut load, LOOK)?;
        }
        load.mark(args.messages);
        self.progress.begin(before.at, delivered_before);
        let end = before.at + args.seconds;
        while !self.is_broken() && !load.is_overrun() {
            let wait = match args.messages {
                Some(_) if load.is_exhausted() && load.in_flight() == 0 => break,
                Some(_) => LOOK,
                None => end.saturating_duration_since(Instant::now()).min(LOOK),
            };
            if wait.is_zero() {
                break;
            }
            self.generator.turn(&mut load, wait)?;
            let (now, tally) = (Instant::now(), load.tally());
            let share = match args.messages {
                // Deliveries of a broadcast are many.
                Some(messages) => tally.sent as f64 / messages as f64,
                None => (now - start).as_secs_f64() / whole,
            };
            self.progress.look(now, tally.delivered, tally.faults(), share);
        }
        let after = Moment::now(self.process.as_ref());
        let delivered = load.tally().delivered - delivered_before;
        let receives = self.generator.receives - receives_before;
        if load.is_overrun() {
            let behind = load.in_flight();
            self.failures.push(format!("the rate cannot be kept: {behind} messages are on their way"));
        }
        let late = load.lateness().map(Latency::of);
        self.drain(&mut load)?;

        let memory_after = self.process.and_then(|process| process.private_bytes().ok());
        let cost = after.server_cost(&before).zip(self.memory).map(|(spent, memory)| ServerCost {
            cpu_per_delivery: Some(Cpu::per(&spent, delivered)),
            cores: Some(spent.cpu.as_secs_f64() / (after.at - before.at).as_secs_f64().max(1e-9)),
            private_bytes_after: memory_after,
            ..self.cost_of_connections(memory, (spent.voluntary_switches, spent.involuntary_switches))
        });
        let stray = load.stray().map(|text| format!("{text:?} arrived, which is none of the messages sent"));
        self.failures.extend(stray);
        let mut outcome = load.close();
        outcome.tally.closed = self.generator.lost.as_ref().map_or(0, |(_, count)| *count);
        let seconds = (after.at - before.at).as_secs_f64();
        let mut generator = after.own_cost(&before, delivered);
        let latency = Latency::of(&outcome.latency);
        if let Some(late) = &late {
            // It polls without sleep to keep its schedule, so being busy means nothing.
            generator.bottleneck = late.p50_us > latency.p50_us * LATE;
        }
        let messages = Messages {
            seconds,
            delivered,
            delivered_per_second: delivered as f64 / seconds.max(1e-9),
            latency,
            late,
            to_last_receiver: outcome.to_last.as_ref().map(Latency::of),
            delivered_per_read: delivered as f64 / receives.max(1) as f64,
            latency_curve: latency_curve(&outcome.latency),
            over_time: Vec::new(),
        };
        Ok(Measured { messages, tally: outcome.tally, cost, generator })
    }

    /// Whether a connection ended, or nothing has come for too long: it makes no sense to go on.
    fn is_broken(&self) -> bool {
        self.generator.lost.is_some() || since(&self.generator) > self.patience
    }

    /// Waits for what is still in flight, and then for what nobody sent.
    fn drain<L: Load>(&mut self, load: &mut L) -> Result<(), BenchError> {
        load.stop();
        while load.in_flight() > 0 && since(&self.generator) <= self.patience {
            self.generator.turn(load, LOOK)?;
        }
        if load.in_flight() > 0 && self.generator.lost.is_none() {
            let left = load.in_flight();
            self.failures.push(format!("nothing arrived for {:?} with {left} messages in flight", self.patience));
        }
        let end = Instant::now() + self.patience;
        let quiet_from = Instant::now();
        while quiet_from.elapsed() < QUIET || (since(&self.generator) < QUIET && Instant::now() < end) {
            self.generator.turn(load, QUIET / 4)?;
        }
        Ok(())
    }

    fn cost_of_connections(&self, [before, idle]: [Memory; 2], switches: (u64, u64)) -> ServerCost {
        let each = |before: u64, idle: u64| (idle as f64 - before as f64) / f64::from(self.generator.connections());
        let kernel = before.kernel.zip(idle.kernel);
        ServerCost {
            cpu_per_delivery: None,
            cores: None,
            voluntary_switches: switches.0,
            involuntary_switches: switches.1,
            private_bytes_before: before.private_bytes,
            private_bytes_idle: idle.private_bytes,
            private_bytes_per_connection: each(before.private_bytes, idle.private_bytes),
            kernel_slab_bytes_per_connection: kernel.map(|(before, idle)| each(before.slab_bytes, idle.slab_bytes)),
            kernel_tcp_bytes_per_connection: kernel.map(|(before, idle)| each(before.tcp_bytes, idle.tcp_bytes)),
            private_bytes_after: None,
        }
    }

    /// Closes the connections, and writes the report.
    fn finish(
        mut self,
        scenario: &'static str,
        parameters: Parameters,
        measured: Option<Measured>,
    ) -> Result<Report, BenchError> {
        let idle_cost = self.memory.map(|memory| self.cost_of_connections(memory, self.login_switches));
        if let Some((first, count)) = self.generator.lost.take() {
            let others = if count > 1 { format!(", and those of {} others", count - 1) } else { String::new() };
            self.failures.push(format!("{first}{others}"));
        }
        self.generator.close()?;
        let over_time = self.progress.end();
        let (mut messages, tally, server_cost, generator) = match measured {
            Some(Measured { messages, tally, cost, generator }) => (Some(messages), Some(tally), cost, generator),
            None => (None, None, idle_cost, self.login_cost),
        };
        if let Some(messages) = &mut messages {
            messages.over_time = over_time;
        }
        if let Some(tally) = tally.as_ref().filter(|tally| tally.faults() > 0) {
            self.failures.push(tally.faults_text());
        }
        let (logins, server, failures) = (self.logins, self.server, self.failures);
        Ok(Report { scenario, server, parameters, logins, tally, messages, server_cost, generator, failures })
    }
}

/// Time since something arrived.
fn since(generator: &Generator) -> Duration {
    Duration::from_nanos(generator.now().saturating_sub(generator.last_arrival))
}
