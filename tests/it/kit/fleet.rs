//! Several instances on one rig that are killed, frozen, ended and started; a [`Watch`] is told of
//! each.

use std::{collections::BTreeMap, time::Duration};

use super::{
    connector::Connector,
    group::GroupProbe,
    rig::Rig,
    watch::{Part, Watch},
};
use crate::parts::say;

/// How long an orderly end may take: more than a drain and the closing of the clients.
const END_LIMIT: Duration = Duration::from_secs(60);
const FEEDS: [&str; 2] = ["purchase_returns", "return_outbounds"];

/// The instances by ordinal, and what they run on.
pub struct Fleet {
    /// Before the rig, whose folder holds their logs: what they said last is read when they are
    /// dropped.
    members: BTreeMap<usize, Connector>,
    pub rig: Rig,
    pub watch: Watch,
    pub size: usize,
    pub ended_by_themselves: Vec<String>,
    /// Set for every instance.
    variables: &'static [(&'static str, &'static str)],
}

impl Fleet {
    /// Starts `size` instances. `partitions` is that of the rig's commands topic; nothing of it nor
    /// a feed may be without an owner for longer than `bound` after a disturbance.
    pub fn start(
        rig: Rig,
        size: usize,
        partitions: i32,
        bound: Duration,
        variables: &'static [(&'static str, &'static str)],
    ) -> Self {
        let parts: Vec<Part> =
            (0..partitions).map(Part::Commands).chain(FEEDS.map(Part::Feed)).collect();
        let groups = vec![Self::probe(&rig, "commands"), Self::probe(&rig, "feeds")];
        let watch = Watch::start(&parts, bound, groups);
        let (members, ended_by_themselves) = (BTreeMap::new(), Vec::new());
        let mut fleet = Self { members, rig, watch, size, ended_by_themselves, variables };
        (0..size).for_each(|ordinal| fleet.launch(ordinal));
        fleet
    }

    /// Asks about the group of a role: `commands` or `feeds`.
    pub fn probe(rig: &Rig, role: &str) -> GroupProbe {
        GroupProbe::new(&rig.broker, &format!("{}.{role}", rig.application_id))
    }

    /// Starts an instance that does not run.
    pub fn launch(&mut self, ordinal: usize) {
        let cache = self.rig.path(&format!("cache-{ordinal}")).display().to_string();
        self.rig.config.set("kafka", "instance_ordinal", ordinal).set("", "cache_dir", cache);
        let member = self.rig.spawn_logged(self.variables, &format!("connector-{ordinal}.log"));
        self.watch.running(ordinal, member.url("/status"));
        self.members.insert(ordinal, member);
    }

    /// `SIGKILL`.
    pub fn kill(&mut self, ordinal: usize) {
        self.watch.gone(ordinal);
        self.take(ordinal).kill();
    }

    /// `SIGTERM`, and waits for its end.
    pub fn end(&mut self, ordinal: usize) {
        self.watch.gone(ordinal);
        let status = self.take(ordinal).terminate(END_LIMIT);
        if !status.success() {
            self.ended_by_themselves
                .push(format!("instance {ordinal} did not end in good order: {status}"));
        }
    }

    /// `SIGSTOP`.
    pub fn freeze(&mut self, ordinal: usize) {
        self.watch.gone(ordinal);
        self.members.get_mut(&ordinal).expect("supervised").freeze();
    }

    /// `SIGCONT`.
    pub fn thaw(&mut self, ordinal: usize) {
        let member = self.members.get_mut(&ordinal).expect("supervised");
        member.thaw();
        self.watch.running(ordinal, member.url("/status"));
    }

    fn take(&mut self, ordinal: usize) -> Connector {
        self.members.remove(&ordinal).expect("supervised")
    }

    /// A supervisor's duty: whoever ended is started again. Nobody should have.
    pub fn supervise(&mut self) {
        for ordinal in 0..self.size {
            let member = self.members.get_mut(&ordinal).expect("a member of the fleet");
            if member.running() {
                continue;
            }
            let log = member.log();
            let lines: Vec<&str> = log.lines().collect();
            let why = lines[lines.len().saturating_sub(25)..].join("\n");
            say(&format!("instance {ordinal} ended by itself:\n{why}"));
            let last = lines.last().unwrap_or(&"without a word");
            self.ended_by_themselves.push(format!("instance {ordinal}: {last}"));
            self.launch(ordinal);
        }
    }

    /// What every instance says of itself.
    pub fn statuses(&self) -> String {
        let of = |member: &Connector| format!("{:#}", member.status());
        self.members.values().map(of).collect::<Vec<_>>().join("\n")
    }
}
