//! The course of a run: connect, warm up, measure, drain, close; and the readings at each point.
//!
//! It owns nothing longer than a run. All waiting happens in the generator's turns.

use std::time::{Duration, Instant};

use super::BenchError;
use super::arguments::CommonArgs;
use super::generator::{Generator, Idle};
use super::latency::{Latency, latency_curve};
use super::process::{self, KernelMemory, Process, Schedule, Spent, Usage};
use super::progress::Progress;
use super::report::{Cpu, GeneratorCost, Logins, Messages, Parameters, Report, ServerCost, micros_per};
use super::soak::{Soak, Watch};
use super::target::Target;
use super::traffic::Load;

/// Time for connecting, settling and draining in a run that sets no deadline.
const DEADLINE_SPARE: Duration = Duration::from_secs(120);

/// Longest wait for memory to settle.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// After the last message that is owed, nothing more may come for this long.
const QUIET: Duration = Duration::from_millis(100);

/// Longest time between two looks at the clock.
const LOOK: Duration = Duration::from_millis(50);

/// If the generator's own lateness is at least this share of the median latency, the generator is the bottleneck.
const LATE: f64 = 0.5;

/// Fewest connections of which memory is told per connection: with fewer, what the server takes by itself, a pool or the
/// allocator's next page, outweighs theirs.
const MEMORY_CONNECTIONS_MIN: u32 = 1000;

/// A thread that is busy for at least this share of the time is the bottleneck.
const BOTTLENECK: f64 = 0.9;

/// How long a load is put on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Length {
    pub(super) warmup: Duration,
    pub(super) seconds: Duration,
    /// In place of the seconds.
    pub(super) messages: Option<u64>,
}

impl Length {
    pub(super) fn whole(&self) -> Duration {
        self.warmup + self.seconds
    }
}

/// A run under way, all its connections logged in.
pub(super) struct Run {
    generator: Generator,
    server: String,
    uid_prefix: String,
    patience: Duration,
    process: Option<Process>,
    logins: Logins,
    login_cost: GeneratorCost,
    /// Before the first connection, and with all logged in, at the end of what they are held idle for.
    memory: Option<[Memory; 2]>,
    /// From before the first connection to the last login.
    login_switches: (u64, u64),
    progress: Progress,
    /// Of a soak, and whether its lines go where no JSON is.
    watch: Option<(Watch, bool)>,
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
pub(super) struct Measured {
    messages: Messages,
    tally: super::Tally,
    cost: Option<ServerCost>,
    generator: GeneratorCost,
    soak: Option<Soak>,
}

/// A moment at which a time to be measured begins or ends.
struct Moment {
    at: Instant,
    usage: Option<Usage>,
    own: Schedule,
    /// Segments with data that this machine has sent, and the generator's part of them.
    segments: Option<u64>,
    own_segments: u64,
}

impl Moment {
    /// Reads the clocks. A server that has ended by now has no usage; its connections tell the rest.
    fn now(process: Option<&Process>, generator: &Generator) -> Self {
        let usage = process.and_then(|process| process.usage().ok());
        // Segments to a server on another machine have another size, and that machine counts the server's own.
        let segments = generator.address().ip().is_loopback().then(process::data_segments).flatten();
        let own_segments = generator.segments;
        Self { at: Instant::now(), usage, own: process::own_schedule(), segments, own_segments }
    }

    /// What the generator used from `before` on, which saw `count` deliveries or logins.
    fn own_cost(&self, before: &Moment, count: u64) -> GeneratorCost {
        let seconds = self.seconds_since(before);
        let running = self.own.running.saturating_sub(before.own.running);
        let busy = running.as_secs_f64() / seconds;
        let waiting = self.own.waiting.saturating_sub(before.own.waiting).as_secs_f64() / seconds;
        // If a thread of the server is as busy, the server is the bottleneck.
        let server = self.server_cost(before).map_or(0.0, |spent| spent.busiest_thread.as_secs_f64() / seconds);
        let bottleneck = busy + waiting >= BOTTLENECK && server < BOTTLENECK;
        GeneratorCost { cpu_us: micros_per(running, count), busy, waiting, bottleneck }
    }

    fn server_cost(&self, before: &Moment) -> Option<Spent> {
        Some(self.usage.as_ref()?.since(before.usage.as_ref()?))
    }

    /// Segments that other processes on this machine have sent since `before`: the server's, if no other program is busy.
    fn server_segments(&self, before: &Moment) -> Option<u64> {
        let all = self.segments?.checked_sub(before.segments?)?;
        all.checked_sub(self.own_segments - before.own_segments).filter(|segments| *segments > 0)
    }

    fn seconds_since(&self, before: &Moment) -> f64 {
        (self.at - before.at).as_secs_f64().max(1e-9)
    }
}

impl Run {
    /// Opens and logs in all connections; `length` is how long the run will take from there.
    pub(super) fn begin(
        args: &CommonArgs,
        target: Target,
        connections: u32,
        payload_max: usize,
        length: Duration,
        mut progress: Progress,
    ) -> Result<Self, BenchError> {
        let process = match args.pid {
            Some(pid) => Some(Process::open(pid)?),
            None => target.is_inside.then(Process::around_this_thread).transpose()?,
        };
        let (address, uid_prefix) = (target.address, target.uid_prefix.clone());
        let deadline = args.deadline.unwrap_or(length + DEADLINE_SPARE);
        let mut generator =
            Generator::new(target, connections, payload_max, deadline).map_err(|source| BenchError::Poll { source })?;
        let memory_before = process.as_ref().map(Memory::settled).transpose()?;
        let before = Moment::now(process.as_ref(), &generator);
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
        generator.is_established = true;
        let after = Moment::now(process.as_ref(), &generator);
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
            uid_prefix,
            patience: args.patience,
            process,
            logins,
            login_cost: after.own_cost(&before, connections.into()),
            memory: memory_before.zip(memory_idle).map(|(before, idle)| [before, idle]),
            login_switches: (spent.voluntary_switches, spent.involuntary_switches),
            progress,
            watch: None,
            failures: Vec::new(),
        })
    }

    /// Keeps the connections for `time`, answering pings; what they take counts as of its end.
    pub(super) fn hold(&mut self, time: Duration) -> Result<(), BenchError> {
        if time.is_zero() {
            return Ok(());
        }
        let end = Instant::now() + time;
        while Instant::now() < end && self.generator.lost.is_none() {
            self.generator.turn(&mut Idle, LOOK.min(end.saturating_duration_since(Instant::now())))?;
            let left = end.saturating_duration_since(Instant::now()).as_secs_f64();
            self.progress.say(1.0 - left / time.as_secs_f64(), || format!("idle for {left:.0} s more"));
        }
        if let (Some(process), Some([_, idle])) = (&self.process, &mut self.memory) {
            *idle = Memory::settled(process)?;
        }
        Ok(())
    }

    /// Writes a line down every now and then; `apart` from the results on the standard output.
    pub(super) fn watch(&mut self, watch: Watch, apart: bool) {
        self.watch = Some((watch, apart));
    }

    /// Puts `load` on the connections: warm-up, what is measured, and what is still under way then.
    pub(super) fn measure<L: Load>(&mut self, length: Length, mut load: L) -> Result<Measured, BenchError> {
        self.warm_up(length, &mut load)?;
        let before = Moment::now(self.process.as_ref(), &self.generator);
        let (delivered_before, receives_before) = (load.tally().delivered, self.generator.receives);
        load.resume(self.generator.now());
        if !length.warmup.is_zero() {
            // Receives the messages that waited while the clocks were read: that time must not count as latency.
            self.generator.turn(&mut load, LOOK)?;
        }
        load.mark(length.messages);
        self.progress.begin(before.at, delivered_before);
        self.go_on(before.at, length, &mut load)?;
        let after = Moment::now(self.process.as_ref(), &self.generator);
        let delivered = load.tally().delivered - delivered_before;
        let receives = self.generator.receives - receives_before;
        if load.is_overrun() {
            let behind = load.in_flight();
            self.failures.push(format!("the rate cannot be kept: {behind} messages are on their way"));
        }
        let late = load.lateness().map(Latency::of);
        let soak = self.end_watch(&mut load);
        self.drain(&mut load)?;

        let memory_after = self.process.and_then(|process| process.private_bytes().ok());
        let cost = after.server_cost(&before).zip(self.memory).map(|(spent, memory)| ServerCost {
            cpu_per_delivery: Some(Cpu::per(&spent, delivered)),
            cores: Some(spent.cpu.as_secs_f64() / after.seconds_since(&before)),
            private_bytes_after: memory_after,
            ..self.cost_of_connections(memory, (spent.voluntary_switches, spent.involuntary_switches))
        });
        let stray = load.stray().map(|text| format!("{text:?} arrived, which is none of the messages sent"));
        self.failures.extend(stray);
        let mut outcome = load.close();
        outcome.tally.closed = self.generator.lost.as_ref().map_or(0, |(_, count)| *count);
        let mut generator = after.own_cost(&before, delivered);
        let latency = Latency::of(&outcome.latency);
        if let Some(late) = &late {
            // The generator polls without sleep to keep its schedule, so it is always busy.
            generator.bottleneck = late.p50_us > latency.p50_us * LATE;
        }
        let seconds = after.seconds_since(&before);
        let messages = Messages {
            seconds,
            delivered,
            delivered_per_second: delivered as f64 / seconds,
            latency,
            late,
            broadcasts: outcome.broadcasts.as_ref().map(Latency::of),
            to_last_receiver: outcome.to_last.as_ref().map(Latency::of),
            delivered_per_read: delivered as f64 / receives.max(1) as f64,
            delivered_per_segment: after.server_segments(&before).map(|segments| delivered as f64 / segments as f64),
            latency_curve: latency_curve(&outcome.latency),
            broadcasts_curve: outcome.broadcasts.as_ref().map(latency_curve).unwrap_or_default(),
            over_time: Vec::new(),
        };
        Ok(Measured { messages, tally: outcome.tally, cost, generator, soak })
    }

    fn warm_up<L: Load>(&mut self, length: Length, load: &mut L) -> Result<(), BenchError> {
        let now = self.generator.now();
        self.generator.last_arrival = now;
        load.start(now, self.generator.due());
        let start = Instant::now();
        let warm = start + length.warmup;
        while Instant::now() < warm && !self.is_broken() && !load.is_overrun() {
            self.generator.turn(load, LOOK.min(warm.saturating_duration_since(Instant::now())))?;
            let (now, tally) = (Instant::now(), load.tally());
            let share = (now - start).as_secs_f64() / length.whole().as_secs_f64().max(1e-9);
            self.progress.look(now, tally.delivered, tally.faults(), share);
        }
        Ok(())
    }

    /// Keeps the load on for as long as is measured, or until something breaks.
    fn go_on<L: Load>(&mut self, start: Instant, length: Length, load: &mut L) -> Result<(), BenchError> {
        if let Some((watch, _)) = &mut self.watch {
            watch.begin(load.tally().delivered, self.process.as_ref());
            load.resume(self.generator.now());
        }
        let end = start + length.seconds;
        while !self.is_broken() && !load.is_overrun() {
            let wait = match length.messages {
                Some(_) if load.is_exhausted() && load.in_flight() == 0 => break,
                Some(_) => LOOK,
                None => end.saturating_duration_since(Instant::now()).min(LOOK),
            };
            if wait.is_zero() {
                break;
            }
            self.generator.turn(load, wait)?;
            let (now, tally) = (Instant::now(), load.tally());
            let share = match length.messages {
                // Deliveries of a broadcast are many.
                Some(messages) => tally.sent as f64 / messages as f64,
                None => (length.warmup + (now - start)).as_secs_f64() / length.whole().as_secs_f64().max(1e-9),
            };
            self.progress.look(now, tally.delivered, tally.faults(), share);
            if self.watch.as_ref().is_some_and(|(watch, _)| watch.is_due(now)) {
                self.write_line(load);
                load.resume(self.generator.now());
            }
        }
        Ok(())
    }

    #[cold]
    fn write_line<L: Load>(&mut self, load: &mut L) {
        let Some((watch, apart)) = &mut self.watch else { return };
        let mut tally = load.tally();
        tally.closed = self.generator.lost.as_ref().map_or(0, |(_, count)| *count);
        let line = watch.write(&load.lap(), tally, load.visits(), self.process.as_ref());
        self.progress.print(&line, *apart);
    }

    /// Writes the last line of a soak, unless one was just written.
    fn end_watch<L: Load>(&mut self, load: &mut L) -> Option<Soak> {
        if self.watch.as_ref().is_some_and(|(watch, _)| watch.has_news()) {
            self.write_line(load);
        }
        let (soak, failures) = self.watch.take()?.0.end();
        self.failures.extend(failures);
        Some(soak)
    }

    /// Returns whether the run must stop: a connection ended, or nothing has arrived for too long.
    fn is_broken(&self) -> bool {
        self.generator.lost.is_some() || since(&self.generator) > self.patience
    }

    /// Waits for the messages in flight, and then a while for messages that were never sent.
    fn drain<L: Load>(&mut self, load: &mut L) -> Result<(), BenchError> {
        load.stop();
        while (load.in_flight() > 0 || self.generator.is_moving()) && since(&self.generator) <= self.patience {
            self.generator.turn(load, LOOK)?;
        }
        if load.in_flight() > 0 && self.generator.lost.is_none() {
            let left = load.in_flight();
            self.failures.push(format!("nothing arrived for {:?} with {left} messages in flight", self.patience));
        }
        if self.generator.is_moving() && self.generator.lost.is_none() {
            self.failures.push(format!(
                "connections that left were not closed, or could not log in again, for {:?}",
                self.patience
            ));
        }
        let end = Instant::now() + self.patience;
        let quiet_from = Instant::now();
        while quiet_from.elapsed() < QUIET || (since(&self.generator) < QUIET && Instant::now() < end) {
            self.generator.turn(load, QUIET / 4)?;
        }
        Ok(())
    }

    fn cost_of_connections(&self, [before, idle]: [Memory; 2], switches: (u64, u64)) -> ServerCost {
        let connections = self.generator.connections();
        let each = |before: u64, idle: u64| (idle as f64 - before as f64) / f64::from(connections);
        let are_enough = connections >= MEMORY_CONNECTIONS_MIN;
        let kernel = before.kernel.zip(idle.kernel).filter(|_| are_enough);
        ServerCost {
            cpu_per_delivery: None,
            cores: None,
            voluntary_switches: switches.0,
            involuntary_switches: switches.1,
            private_bytes_before: before.private_bytes,
            private_bytes_idle: idle.private_bytes,
            private_bytes_per_connection: are_enough.then(|| each(before.private_bytes, idle.private_bytes)),
            kernel_slab_bytes_per_connection: kernel.map(|(before, idle)| each(before.slab_bytes, idle.slab_bytes)),
            kernel_tcp_bytes_per_connection: kernel.map(|(before, idle)| each(before.tcp_bytes, idle.tcp_bytes)),
            private_bytes_after: None,
        }
    }

    /// Closes the connections, and writes the report.
    pub(super) fn finish(
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
        let (mut messages, tally, server_cost, generator, soak) = match measured {
            Some(Measured { messages, tally, cost, generator, soak }) => {
                (Some(messages), Some(tally), cost, generator, soak)
            }
            None => (None, None, idle_cost, self.login_cost, None),
        };
        if let Some(messages) = &mut messages {
            messages.over_time = over_time;
        }
        if let Some(tally) = tally.as_ref().filter(|tally| tally.faults() > 0) {
            self.failures.push(tally.faults_text());
        }
        Ok(Report {
            scenario,
            server: self.server,
            uid_prefix: self.uid_prefix,
            parameters,
            logins: self.logins,
            tally,
            messages,
            server_cost,
            generator,
            soak,
            failures: self.failures,
        })
    }
}

/// Time since something arrived.
fn since(generator: &Generator) -> Duration {
    Duration::from_nanos(generator.now().saturating_sub(generator.last_arrival))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says whether the generator was the bottleneck of a second in which it ran and waited for so many milliseconds, and
    /// the server's busiest thread ran for so many.
    #[track_caller]
    fn check_bottleneck([running, waiting]: [u64; 2], server: Option<u64>, expected: bool) {
        let millis = Duration::from_millis;
        let start = Instant::now();
        let at = |share: u64| Moment {
            at: start + millis(1000 * share),
            usage: server.map(|server| Usage::of_one_thread(millis(server * share))),
            own: Schedule { running: millis(running * share), waiting: millis(waiting * share) },
            segments: Some(500 + 100 * share),
            own_segments: 40 * share,
        };
        let cost = at(1).own_cost(&at(0), 1000);
        assert_eq!(cost.bottleneck, expected, "{cost:?}");
        assert_eq!(cost.cpu_us, running as f64);
        assert_eq!(at(1).server_segments(&at(0)), Some(60));
    }

    #[test]
    fn the_generator_is_the_bottleneck_if_the_server_is_not() {
        check_bottleneck([950, 0], None, true);
        check_bottleneck([500, 450], None, true);
        check_bottleneck([800, 0], None, false);
        check_bottleneck([950, 0], Some(500), true);
        check_bottleneck([950, 0], Some(950), false);
        check_bottleneck([300, 0], Some(300), false);
    }

    #[test]
    fn segments_of_the_server_are_those_of_others() {
        let at = |segments, own_segments| Moment {
            at: Instant::now(),
            usage: None,
            own: Schedule::default(),
            segments,
            own_segments,
        };
        assert_eq!(at(Some(30), 10).server_segments(&at(Some(10), 5)), Some(15));
        assert_eq!(at(Some(15), 10).server_segments(&at(Some(10), 5)), None, "no data but ours");
        assert_eq!(at(None, 10).server_segments(&at(Some(10), 5)), None);
    }
}
