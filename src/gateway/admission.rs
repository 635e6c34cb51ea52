//! Who is let in, by address and by rate: what each address holds of the node, and when the next login's turn is.
//!
//! Shared by the gateway's threads, under locks that are held for a look-up and never across a wait. A session's end
//! takes none of them: it only decrements the counts that its permit points to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::refusal::Reason;
use crate::config::AdmissionSettings;
use crate::shard::{Admission, Permit, Share};

/// Most addresses without a session whose login rate is remembered; past it all of those are forgotten.
const REMEMBERED_MAX: usize = 1 << 18;

/// Addresses from which on those that need not be known any more are looked for.
const CLEAN_FROM: usize = 1024;

const MINUTE: Duration = Duration::from_secs(60);

/// How much of a second's logins may come at once, before they are spread.
const BURST: Duration = Duration::from_millis(100);

/// What decides who is let in.
pub(crate) struct Gate {
    admission: Admission,
    addresses: Mutex<Addresses>,
    turns: Mutex<Option<Instant>>,
}

/// Why somebody is not let in, and when to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) reason: Reason,
    pub(crate) retry_after: Duration,
}

impl Gate {
    pub(crate) fn new(admission: Admission) -> Self {
        Self { admission, addresses: Mutex::default(), turns: Mutex::default() }
    }

    /// Takes a place on the node if fewer than `connections_max` are taken.
    pub(crate) fn admit(&self, connections_max: usize) -> Option<Permit> {
        self.admission.admit(connections_max)
    }

    /// Counts a connection just accepted against its address; says whether it has room for it.
    ///
    /// So silent ones are bounded, too. Whom a trusted proxy brings is not known yet, and counted with its login.
    pub(crate) fn admit_early(
        &self,
        address: Option<IpAddr>,
        permit: &mut Permit,
        settings: &AdmissionSettings,
        now: Instant,
    ) -> bool {
        match (address, settings.address_sessions_max) {
            (Some(address), Some(sessions_max)) if !settings.trusts(Some(address)) => {
                self.with(address, now, |known| known.share.admit(permit, sessions_max.get()))
            }
            _ => true,
        }
    }

    /// Counts a login against its address, and its connection unless it was; a Unix socket has none.
    pub(crate) fn admit_from(
        &self,
        address: Option<IpAddr>,
        permit: &mut Permit,
        settings: &AdmissionSettings,
        now: Instant,
    ) -> Result<(), Denied> {
        let (sessions_max, per_minute) = (settings.address_sessions_max, settings.address_logins_per_minute);
        match address {
            Some(address) if sessions_max.is_some() || per_minute.is_some() => {
                self.with(address, now, |known| known.admit(permit, sessions_max, per_minute, now))
            }
            _ => Ok(()),
        }
    }

    /// Does something with what is known of an address.
    fn with<T>(&self, address: IpAddr, now: Instant, act: impl FnOnce(&mut Address) -> T) -> T {
        let mut addresses = locked(&self.addresses);
        addresses.clean(now, REMEMBERED_MAX);
        let unknown = || Address { share: self.admission.share(), paid_until: now };
        act(addresses.known.entry(network(address)).or_insert_with(unknown))
    }

    /// Draws the turn of a login; it may wait until then, which is not after `latest`.
    ///
    /// # Errors
    /// When too many wait already.
    pub(crate) fn turn(&self, settings: &AdmissionSettings, now: Instant, latest: Instant) -> Result<Instant, Denied> {
        let Some(per_second) = settings.logins_per_second else { return Ok(now) };
        let mut next = locked(&self.turns);
        let burst_from = now.checked_sub(BURST).unwrap_or(now);
        let turn = next.unwrap_or(now).max(burst_from);
        if turn > latest.max(now) {
            return Err(Denied { reason: Reason::Busy, retry_after: turn - now });
        }
        *next = Some(turn + Duration::from_secs(1) / count(per_second));
        Ok(turn.max(now))
    }
}

/// What is known of addresses.
#[derive(Default)]
struct Addresses {
    known: HashMap<u128, Address, ahash::RandomState>,
    /// How many there may be before the next cleaning.
    clean_from: usize,
}

/// What is known of one address, or of a /64 network of IPv6.
struct Address {
    /// Its connections.
    share: Share,
    /// Until when its logins so far would have taken, had they been spread over each minute.
    paid_until: Instant,
}

impl Addresses {
    /// Forgets addresses without a connection whose rate is paid, each time that their number has doubled.
    ///
    /// What is left is bounded by the connections on the node, and `remembered_max` besides.
    fn clean(&mut self, now: Instant, remembered_max: usize) {
        if self.known.len() < self.clean_from.max(CLEAN_FROM) {
            return;
        }
        self.known.retain(|_, address| !address.share.is_empty() || address.paid_until > now);
        if self.known.len() > remembered_max {
            // So many addresses are not held back by a rate for each; who is connected stays counted.
            self.known.retain(|_, address| !address.share.is_empty());
        }
        self.clean_from = self.known.len() * 2;
        self.known.shrink_to(self.clean_from);
    }
}

impl Address {
    fn admit(
        &mut self,
        permit: &mut Permit,
        sessions_max: Option<NonZeroUsize>,
        per_minute: Option<NonZeroUsize>,
        now: Instant,
    ) -> Result<(), Denied> {
        let mut paid_until = self.paid_until;
        if let Some(per_minute) = per_minute {
            paid_until = paid_until.max(now) + MINUTE / count(per_minute);
            let ahead = paid_until - now;
            if ahead > MINUTE {
                return Err(Denied { reason: Reason::AddressRate, retry_after: ahead - MINUTE });
            }
        }
        let sessions_max = sessions_max.map_or(usize::MAX, NonZeroUsize::get);
        if !permit.has_share() && !self.share.admit(permit, sessions_max) {
            return Err(Denied { reason: Reason::AddressFull, retry_after: FULL_RETRY });
        }
        self.paid_until = paid_until;
        Ok(())
    }
}

/// When to try again where nobody can know when there will be room.
pub(crate) const FULL_RETRY: Duration = Duration::from_secs(5);

/// What an address is counted by: itself, or for IPv6 the network that one customer is usually given.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() & (u128::MAX << 64),
    }
}

fn count(number: NonZeroUsize) -> u32 {
    u32::try_from(number.get()).unwrap_or(u32::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn settings(change: impl FnOnce(&mut Config)) -> AdmissionSettings {
        let mut config = Config::default();
        change(&mut config);
        config.gateway().admission
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    fn gate() -> Gate {
        Gate::new(Admission::default())
    }

    fn come(gate: &Gate, from: &str, settings: &AdmissionSettings, now: Instant) -> Result<Permit, Denied> {
        let mut permit = gate.admit(usize::MAX).expect("there is room");
        gate.admit_from(address(from), &mut permit, settings, now).map(|()| permit)
    }

    #[test]
    fn sessions_are_counted_by_address_and_by_network() {
        let settings = settings(|config| config.address_sessions_max = NonZeroUsize::new(1));
        let (gate, now) = (gate(), Instant::now());
        let come = |from: &str| come(&gate, from, &settings, now);
        let first = come("10.0.0.1").expect("the first");
        let full = Denied { reason: Reason::AddressFull, retry_after: FULL_RETRY };
        assert_eq!(come("10.0.0.1").expect_err("the second"), full);
        assert_eq!(come("::ffff:10.0.0.1").expect_err("the same, as IPv6"), full);
        let _other = come("10.0.0.2").expect("another");
        let _network = come("2001:db8:0:1::1").expect("the first");
        assert_eq!(come("2001:db8:0:1:ffff::2").expect_err("of the same network"), full);
        let _next = come("2001:db8:0:2::1").expect("of another network");
        drop(first);
        come("10.0.0.1").expect("there is room again");
        assert_eq!(gate.admission.count(), 3);
    }

    #[test]
    fn connections_count_from_the_first_and_once() {
        let settings = settings(|config| {
            config.address_sessions_max = NonZeroUsize::new(1);
            config.trusted_proxies = vec!["10.0.0.9".parse().expect("an address")];
        });
        let (gate, now) = (gate(), Instant::now());
        let mut permits = [0; 4].map(|_| gate.admit(usize::MAX).expect("there is room"));
        let [first, second, brought, unix] = &mut permits;
        assert!(gate.admit_early(address("10.0.0.1"), first, &settings, now));
        assert!(!gate.admit_early(address("10.0.0.1"), second, &settings, now));
        gate.admit_from(address("10.0.0.1"), first, &settings, now).expect("it has its place");
        assert!(gate.admit_from(address("10.0.0.1"), second, &settings, now).is_err());
        // A proxy is nobody's address, and a Unix socket has none.
        for _ in 0..2 {
            assert!(gate.admit_early(address("10.0.0.9"), brought, &settings, now));
            assert!(gate.admit_early(None, unix, &settings, now));
        }
        assert!(gate.admit_from(address("10.0.0.1"), brought, &settings, now).is_err(), "by now it is known who it is");
        drop(permits);
        assert!(come(&gate, "10.0.0.1", &settings, now).is_ok());
        assert_eq!(gate.admission.count(), 0);
    }

    #[test]
    fn logins_of_an_address_are_bounded_in_a_minute() {
        let settings = settings(|config| config.address_logins_per_minute = NonZeroUsize::new(3));
        let (gate, start) = (gate(), Instant::now());
        let come = |after: u64| come(&gate, "10.0.0.1", &settings, start + Duration::from_secs(after)).map(drop);
        for _ in 0..3 {
            come(0).expect("at once");
        }
        let denied = |after| Denied { reason: Reason::AddressRate, retry_after: Duration::from_secs(after) };
        assert_eq!(come(0), Err(denied(20)));
        assert_eq!(come(19), Err(denied(1)));
        come(20).expect("one is paid");
        assert_eq!(come(20), Err(denied(20)));
        for _ in 0..3 {
            come(200).expect("all are paid, and no more");
        }
        assert_eq!(come(200), Err(denied(20)));
    }

    #[test]
    fn what_need_not_be_known_is_forgotten() {
        let settings = settings(|config| {
            config.address_logins_per_minute = NonZeroUsize::new(60);
            config.address_sessions_max = NonZeroUsize::new(1);
        });
        let (gate, start) = (gate(), Instant::now());
        let known = || locked(&gate.addresses).known.len();
        let from = |number: u32| std::net::Ipv4Addr::from(number).to_string();
        let stays = come(&gate, &from(0), &settings, start).expect("the first");
        for number in 1..5000 {
            come(&gate, &from(number), &settings, start).expect("another");
        }
        assert_eq!(known(), 5000, "the rate of each is remembered");
        let mut addresses = locked(&gate.addresses);
        addresses.clean_from = 0;
        addresses.clean(start, 5000);
        assert_eq!(addresses.known.len(), 5000);
        addresses.clean_from = 0;
        addresses.clean(start, 4999);
        assert_eq!(addresses.known.len(), 1, "who is connected stays");
        drop(addresses);
        for number in 1..5000 {
            come(&gate, &from(number), &settings, start + Duration::from_secs(u64::from(number))).expect("another");
        }
        assert!(known() <= 2 * CLEAN_FROM, "{} are known", known());
        assert!(come(&gate, &from(0), &settings, start + MINUTE).is_err(), "it is still connected");
        drop(stays);
    }

    #[test]
    fn logins_of_the_node_take_turns() {
        let settings = settings(|config| config.logins_per_second = NonZeroUsize::new(10));
        let (gate, start) = (gate(), Instant::now());
        let latest = start + Duration::from_secs(1);
        let turns: Vec<_> = (0..11).map(|_| gate.turn(&settings, start, latest).expect("its turn") - start).collect();
        let expected: Vec<_> = (0..11).map(|number| Duration::from_millis(100 * number)).collect();
        assert_eq!(turns, expected);
        let busy = Denied { reason: Reason::Busy, retry_after: Duration::from_millis(1100) };
        assert_eq!(gate.turn(&settings, start, latest), Err(busy));
        // Who is refused takes no turn.
        assert_eq!(gate.turn(&settings, start, latest), Err(busy));
        let later = start + Duration::from_secs(60);
        // One for the time that went by unused, and one for now.
        assert_eq!(gate.turn(&settings, later, later), Ok(later));
        assert_eq!(gate.turn(&settings, later, later), Ok(later));
        assert!(gate.turn(&settings, later, later).is_err());
    }

    #[test]
    fn nothing_is_kept_while_all_is_off() {
        let (gate, now) = (gate(), Instant::now());
        come(&gate, "10.0.0.1", &settings(|_| {}), now).expect("no limit");
        assert_eq!(locked(&gate.addresses).known.len(), 0);
        assert_eq!(gate.turn(&settings(|_| {}), now, now), Ok(now));
        assert_eq!(*locked(&gate.turns), None);
    }
}
