//! Admission control: sessions and login rate of each address, and the login rate of the node.
//!
//! The gateway's threads share it. Its locks are held for one look-up, never across an await. A session that ends takes
//! none of them: it only decrements the counts that its permit points to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::refusal::Reason;
use crate::config::AdmissionSettings;
use crate::shard::{Admission, Permit, Share};

/// Most addresses without a connection whose login rate is remembered. Past it, the rates of all of them are forgotten.
const RATES_MAX: usize = 1 << 18;

/// Number of entries from which stale ones are searched for and removed.
const CLEANUP_FROM: usize = 1024;

const MINUTE: Duration = Duration::from_secs(60);

/// How much of a second's logins may come at once, before they are spread.
const BURST: Duration = Duration::from_millis(100);

/// Admits connections and logins, or denies them.
pub(crate) struct AdmissionControl {
    /// Counts the connections on the node.
    admission: Admission,
    addresses: Mutex<AddressTable>,
    /// Earliest time of the next login by the node's rate; `None` before the first.
    next_login: Mutex<Option<Instant>>,
}

/// Why a login is denied, and after how long the client may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) reason: Reason,
    pub(crate) retry_after: Duration,
}

impl AdmissionControl {
    pub(crate) fn new(admission: Admission) -> Self {
        Self { admission, addresses: Mutex::default(), next_login: Mutex::default() }
    }

    /// Takes a place on the node if fewer than `connections_max` are taken.
    pub(crate) fn admit(&self, connections_max: usize) -> Option<Permit> {
        self.admission.admit(connections_max)
    }

    /// Counts a connection that was just accepted for its address; returns whether the address has room for it.
    ///
    /// This bounds connections that never send a request, too. A connection from a trusted proxy is counted at its login,
    /// since only its request names the client's address.
    pub(crate) fn count_at_accept(
        &self,
        address: Option<IpAddr>,
        permit: &mut Permit,
        settings: &AdmissionSettings,
        now: Instant,
    ) -> bool {
        match (address, settings.address_sessions_max) {
            (Some(address), Some(sessions_max)) if !settings.trusts(Some(address)) => {
                self.with_address(address, now, |state| state.share.admit(permit, sessions_max.get()))
            }
            _ => true,
        }
    }

    /// Counts a login for its address, and its connection if that was not counted at its accept.
    ///
    /// A Unix socket has no address, and is always admitted.
    pub(crate) fn admit_login(
        &self,
        address: Option<IpAddr>,
        permit: &mut Permit,
        settings: &AdmissionSettings,
        now: Instant,
    ) -> Result<(), Denied> {
        let (sessions_max, per_minute) = (settings.address_sessions_max, settings.address_logins_per_minute);
        match address {
            Some(address) if sessions_max.is_some() || per_minute.is_some() => {
                self.with_address(address, now, |state| state.admit(permit, sessions_max, per_minute, now))
            }
            _ => Ok(()),
        }
    }

    /// Applies `act` to the state of an address, which is added if the table doesn't have it.
    fn with_address<T>(&self, address: IpAddr, now: Instant, act: impl FnOnce(&mut AddressState) -> T) -> T {
        let mut addresses = locked(&self.addresses);
        addresses.remove_stale(now, RATES_MAX);
        let unknown = || AddressState { share: self.admission.share(), paid_until: now };
        act(addresses.entries.entry(network(address)).or_insert_with(unknown))
    }

    /// Returns the time at which a login may proceed by the node's rate, `latest` at the latest.
    ///
    /// # Errors
    /// When so many logins wait already that its time would come after `latest`.
    pub(crate) fn login_time(
        &self,
        settings: &AdmissionSettings,
        now: Instant,
        latest: Instant,
    ) -> Result<Instant, Denied> {
        let Some(per_second) = settings.logins_per_second else { return Ok(now) };
        let mut next = locked(&self.next_login);
        let burst_from = now.checked_sub(BURST).unwrap_or(now);
        let turn = next.unwrap_or(now).max(burst_from);
        if turn > latest.max(now) {
            return Err(Denied { reason: Reason::Busy, retry_after: turn - now });
        }
        *next = Some(turn + Duration::from_secs(1) / count(per_second));
        Ok(turn.max(now))
    }
}

/// The state of each address that has connections, or whose rate is not paid off.
#[derive(Default)]
struct AddressTable {
    entries: HashMap<u128, AddressState, ahash::RandomState>,
    /// Number of entries at which stale ones are removed next.
    cleanup_from: usize,
}

/// The state of one address, or of a /64 network of IPv6.
struct AddressState {
    /// Counts its connections.
    share: Share,
    /// When its logins so far would be over if they were spread evenly: the theoretical arrival time of the generic cell
    /// rate algorithm (GCRA).
    paid_until: Instant,
}

impl AddressTable {
    /// Removes addresses without a connection whose rate is paid off, each time that the number of entries has doubled.
    ///
    /// At most `rates_max` entries are left, or as many as there are connections on the node.
    fn remove_stale(&mut self, now: Instant, rates_max: usize) {
        if self.entries.len() < self.cleanup_from.max(CLEANUP_FROM) {
            return;
        }
        self.entries.retain(|_, address| !address.share.is_empty() || address.paid_until > now);
        if self.entries.len() > rates_max {
            // A rate for each address doesn't hold back so many addresses. Entries with connections stay: they are counts.
            self.entries.retain(|_, address| !address.share.is_empty());
        }
        self.cleanup_from = self.entries.len() * 2;
        self.entries.shrink_to(self.cleanup_from);
    }
}

impl AddressState {
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

/// After how long to try again when it is unknown when there will be room.
pub(crate) const FULL_RETRY: Duration = Duration::from_secs(5);

/// Returns the key that an address is counted by: itself, or for IPv6 its /64, which one customer is usually given.
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

    fn control() -> AdmissionControl {
        AdmissionControl::new(Admission::default())
    }

    fn come(
        control: &AdmissionControl,
        from: &str,
        settings: &AdmissionSettings,
        now: Instant,
    ) -> Result<Permit, Denied> {
        let mut permit = control.admit(usize::MAX).expect("there is room");
        control.admit_login(address(from), &mut permit, settings, now).map(|()| permit)
    }

    #[test]
    fn sessions_are_counted_by_address_and_by_network() {
        let settings = settings(|config| config.address_sessions_max = NonZeroUsize::new(1));
        let (control, now) = (control(), Instant::now());
        let come = |from: &str| come(&control, from, &settings, now);
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
        assert_eq!(control.admission.count(), 3);
    }

    #[test]
    fn connections_count_from_the_first_and_once() {
        let settings = settings(|config| {
            config.address_sessions_max = NonZeroUsize::new(1);
            config.trusted_proxies = vec!["10.0.0.9".parse().expect("an address")];
        });
        let (control, now) = (control(), Instant::now());
        let mut permits = [0; 4].map(|_| control.admit(usize::MAX).expect("there is room"));
        let [first, second, brought, unix] = &mut permits;
        assert!(control.count_at_accept(address("10.0.0.1"), first, &settings, now));
        assert!(!control.count_at_accept(address("10.0.0.1"), second, &settings, now));
        control.admit_login(address("10.0.0.1"), first, &settings, now).expect("it has its place");
        assert!(control.admit_login(address("10.0.0.1"), second, &settings, now).is_err());
        // A trusted proxy's own address is never counted, and a Unix socket has none.
        for _ in 0..2 {
            assert!(control.count_at_accept(address("10.0.0.9"), brought, &settings, now));
            assert!(control.count_at_accept(None, unix, &settings, now));
        }
        assert!(
            control.admit_login(address("10.0.0.1"), brought, &settings, now).is_err(),
            "by now it is known who it is"
        );
        drop(permits);
        assert!(come(&control, "10.0.0.1", &settings, now).is_ok());
        assert_eq!(control.admission.count(), 0);
    }

    #[test]
    fn logins_of_an_address_are_bounded_in_a_minute() {
        let settings = settings(|config| config.address_logins_per_minute = NonZeroUsize::new(3));
        let (control, start) = (control(), Instant::now());
        let come = |after: u64| come(&control, "10.0.0.1", &settings, start + Duration::from_secs(after)).map(drop);
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
    fn stale_addresses_are_removed() {
        let settings = settings(|config| {
            config.address_logins_per_minute = NonZeroUsize::new(60);
            config.address_sessions_max = NonZeroUsize::new(1);
        });
        let (control, start) = (control(), Instant::now());
        let known = || locked(&control.addresses).entries.len();
        let from = |number: u32| std::net::Ipv4Addr::from(number).to_string();
        let stays = come(&control, &from(0), &settings, start).expect("the first");
        for number in 1..5000 {
            come(&control, &from(number), &settings, start).expect("another");
        }
        assert_eq!(known(), 5000, "the rate of each is remembered");
        let mut addresses = locked(&control.addresses);
        addresses.cleanup_from = 0;
        addresses.remove_stale(start, 5000);
        assert_eq!(addresses.entries.len(), 5000);
        addresses.cleanup_from = 0;
        addresses.remove_stale(start, 4999);
        assert_eq!(addresses.entries.len(), 1, "who is connected stays");
        drop(addresses);
        for number in 1..5000 {
            come(&control, &from(number), &settings, start + Duration::from_secs(u64::from(number))).expect("another");
        }
        assert!(known() <= 2 * CLEANUP_FROM, "{} are known", known());
        assert!(come(&control, &from(0), &settings, start + MINUTE).is_err(), "it is still connected");
        drop(stays);
    }

    #[test]
    fn logins_of_the_node_are_spread_by_its_rate() {
        let settings = settings(|config| config.logins_per_second = NonZeroUsize::new(10));
        let (control, start) = (control(), Instant::now());
        let latest = start + Duration::from_secs(1);
        let turns: Vec<_> =
            (0..11).map(|_| control.login_time(&settings, start, latest).expect("its turn") - start).collect();
        let expected: Vec<_> = (0..11).map(|number| Duration::from_millis(100 * number)).collect();
        assert_eq!(turns, expected);
        let busy = Denied { reason: Reason::Busy, retry_after: Duration::from_millis(1100) };
        assert_eq!(control.login_time(&settings, start, latest), Err(busy));
        // A denied login takes no time of the rate.
        assert_eq!(control.login_time(&settings, start, latest), Err(busy));
        let later = start + Duration::from_secs(60);
        // One login for the unused time before now, up to the burst, and one for now.
        assert_eq!(control.login_time(&settings, later, later), Ok(later));
        assert_eq!(control.login_time(&settings, later, later), Ok(later));
        assert!(control.login_time(&settings, later, later).is_err());
    }

    #[test]
    fn nothing_is_kept_without_limits() {
        let (control, now) = (control(), Instant::now());
        come(&control, "10.0.0.1", &settings(|_| {}), now).expect("no limit");
        assert_eq!(locked(&control.addresses).entries.len(), 0);
        assert_eq!(control.login_time(&settings(|_| {}), now, now), Ok(now));
        assert_eq!(*locked(&control.next_login), None);
    }
}
