//! Which part of a budget is this instance's.
//!
//! Instances divide their work by the partitions they own, and the quota with it: whoever owns a
//! third of the commands may make a third of their calls. A budget that both kinds of work pay from
//! is divided between the two first, so that the shares of all instances never add up to more than
//! the whole while ownership rests.

use std::collections::BTreeMap;

use crate::erp::Call;

use super::account::Key;

/// Who makes calls, as instances divide it: each kind of work has a consumer group of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// Commands and lookups, by partitions of the commands topic.
    Commands,
    /// Live feeds, late passes and backfills, by partitions of `feeds.state`.
    Feeds,
}

impl Work {
    const ALL: [Self; 2] = [Self::Commands, Self::Feeds];

    /// The word for logs.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Feeds => "feeds",
        }
    }
}

/// Shares by what was told of them, within the part of the whole that this deployment may use.
#[derive(Debug)]
pub(super) struct Shares {
    deployment: f64,
    told: BTreeMap<(Call, Work), f64>,
}

impl Shares {
    pub(super) fn new(deployment: f64) -> Self {
        Self { deployment, told: BTreeMap::new() }
    }

    /// Whether that is something new.
    pub(super) fn set(&mut self, call: Call, work: Work, share: f64) -> bool {
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 1.0 };
        self.told
            .insert((call, work), share)
            .is_none_or(|before| before.to_bits() != share.to_bits())
    }

    /// The part of one kind of work in a budget that is this instance's; `None` where it makes no
    /// such calls at all.
    fn of(&self, key: Key, work: Work) -> Option<f64> {
        let told: Vec<f64> = self
            .told
            .iter()
            .filter(|((call, of), _)| *of == work && key.pays_for(*call))
            .map(|(_, share)| *share)
            .collect();
        (!told.is_empty()).then(|| told.iter().sum::<f64>() / told.len() as f64)
    }

    /// This instance's part of a budget; all that the deployment may use where nobody was told
    /// anything.
    pub(super) fn whole(&self, key: Key) -> f64 {
        let parts: Vec<(f64, f64)> = Work::ALL
            .into_iter()
            .filter_map(|work| Some((weight(key, work), self.of(key, work)?)))
            .collect();
        let weights: f64 = parts.iter().map(|(weight, _)| weight).sum();
        let part = if weights > 0.0 {
            parts.iter().map(|(weight, share)| weight * share).sum::<f64>() / weights
        } else {
            1.0
        };
        part * self.deployment
    }

    /// Whether urgent and patient work pay from this budget.
    pub(super) fn mixed(&self, key: Key) -> bool {
        Work::ALL.into_iter().all(|work| self.of(key, work).is_some())
    }
}

/// How a budget is divided between the two kinds of work where instances own different parts of
/// them: three quarters to whom it is for in the first place. Inside an instance everybody may use
/// all of it.
fn weight(key: Key, work: Work) -> f64 {
    match (key, work) {
        // Lookups are rare, the feed is not.
        (Key::Call(Call::QueryOutbounds), Work::Commands) | (Key::Account(_), Work::Feeds) => 1.0,
        (Key::Call(Call::QueryOutbounds), Work::Feeds) | (Key::Account(_), Work::Commands) => 3.0,
        (
            Key::Call(
                Call::CreateOrder | Call::QueryPurchaseReturns | Call::QueryOutboundsEnterprise,
            ),
            _,
        ) => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Edition;

    #[test]
    fn the_shares_of_all_instances_add_up_to_the_whole() {
        // Six partitions of commands as 3, 2, 1; both feeds with the first two, or both with one.
        for feeds in [[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]] {
            let instances: Vec<Shares> = [3.0, 2.0, 1.0]
                .into_iter()
                .zip(feeds)
                .map(|(partitions, [returns, outbounds])| {
                    let mut shares = Shares::new(1.0);
                    for call in [Call::CreateOrder, Call::QueryOutbounds] {
                        shares.set(call, Work::Commands, partitions / 6.0);
                    }
                    shares.set(Call::QueryPurchaseReturns, Work::Feeds, returns);
                    shares.set(Call::QueryOutbounds, Work::Feeds, outbounds);
                    shares
                })
                .collect();
            for key in [
                Key::Call(Call::CreateOrder),
                Key::Call(Call::QueryPurchaseReturns),
                Key::Call(Call::QueryOutbounds),
                Key::Account(Edition::Flagship),
            ] {
                let sum: f64 = instances.iter().map(|shares| shares.whole(key)).sum();
                assert!((sum - 1.0).abs() < 1e-9, "{key:?}: {sum}");
            }
            assert!((instances[0].whole(Key::Call(Call::CreateOrder)) - 0.5).abs() < 1e-9);
        }
    }

    #[test]
    fn a_deployment_for_commands_and_one_for_feeds_keep_to_their_parts() {
        let (mut commands, mut feeds) = (Shares::new(0.7), Shares::new(0.3));
        commands.set(Call::QueryOutbounds, Work::Commands, 1.0);
        feeds.set(Call::QueryOutbounds, Work::Feeds, 1.0);
        for key in [Key::Call(Call::QueryOutbounds), Key::Account(Edition::Flagship)] {
            let sum = commands.whole(key) + feeds.whole(key);
            assert!((sum - 1.0).abs() < 1e-9, "{key:?}: {sum}");
        }
    }

    #[test]
    fn without_a_word_everything_is_ours_and_work_that_is_not_done_takes_no_part() {
        let mut shares = Shares::new(1.0);
        let key = Key::Account(Edition::Flagship);
        assert!((shares.whole(key) - 1.0).abs() < 1e-9);
        assert!(shares.set(Call::CreateOrder, Work::Commands, 0.25));
        assert!(!shares.set(Call::CreateOrder, Work::Commands, 0.25), "nothing new");
        assert!((shares.whole(key) - 0.25).abs() < 1e-9);
        assert!(!shares.mixed(key));
        shares.set(Call::QueryPurchaseReturns, Work::Feeds, 1.0);
        assert!(shares.mixed(key) && !shares.mixed(Key::Call(Call::QueryPurchaseReturns)));
        assert!((shares.whole(key) - (0.75 * 0.25 + 0.25)).abs() < 1e-9);
    }
}
