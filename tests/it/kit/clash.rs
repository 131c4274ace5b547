//! Rebalances of chance and what strikes in the middle of them.

use std::time::Duration;

use super::{
    Dice,
    group::{GroupProbe, Phase},
};

/// From the start of an instance, or the end of a session, to a rebalance: a loaded machine.
pub const REBALANCE: Duration = Duration::from_secs(20);

/// How a rebalance begins.
#[derive(Clone, Copy, Debug)]
pub enum Opening {
    /// An instance that was stopped, and that the group has forgotten, starts again.
    Start,
    /// One that was frozen for longer than its session goes on.
    Thaw,
    /// The session of one that was stopped ends.
    StoppedGone,
    /// The session of one that is frozen ends.
    FrozenGone,
}

impl Opening {
    pub fn by_absence(self) -> bool {
        matches!(self, Self::StoppedGone | Self::FrozenGone)
    }
}

/// What strikes another instance, or the same, in the middle of a rebalance.
#[derive(Clone, Copy, Debug)]
pub enum Blow {
    /// SIGKILL, and a new start after up to two seconds.
    Kill,
    /// SIGTERM, and a new start after up to two seconds.
    Terminate,
    /// SIGSTOP for less than a session.
    ShortFreeze,
    /// SIGSTOP for more than a session.
    LongFreeze,
    /// The start of an instance that was away.
    Start,
}

impl Blow {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed in a rebalance",
            Self::Terminate => "terminated in a rebalance",
            Self::ShortFreeze => "frozen shortly in a rebalance",
            Self::LongFreeze => "frozen for long in a rebalance",
            Self::Start => "started in a rebalance",
        }
    }
}

/// When it strikes.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// While the members join.
    Preparing,
    /// While the leader's assignment is waited for.
    Completing,
    /// When it has been handed out: a cooperative member gives back what it lost now, and joins a
    /// second time.
    HandedOut,
}

/// A rebalance and what strikes in the middle of it.
#[derive(Clone, Copy, Debug)]
pub struct Clash {
    pub opening: Opening,
    /// The instance it opens with.
    pub first: usize,
    /// Index of the group that is watched for the moment.
    pub group: usize,
    pub aim: Aim,
    pub blow: Blow,
    pub struck: usize,
}

impl Clash {
    /// One of chance, for this many instances.
    pub fn roll(dice: &mut Dice, size: usize) -> Self {
        // A member that comes makes the others give something back, one that goes does not.
        let openings = [
            Opening::Start,
            Opening::Start,
            Opening::Thaw,
            Opening::Thaw,
            Opening::StoppedGone,
            Opening::FrozenGone,
        ];
        let blows = [
            Blow::Kill,
            Blow::Kill,
            Blow::Terminate,
            Blow::Terminate,
            Blow::ShortFreeze,
            Blow::LongFreeze,
            Blow::Start,
        ];
        let aims = [Aim::Preparing, Aim::Completing, Aim::HandedOut, Aim::HandedOut];
        let ordinals: Vec<usize> = (0..size).collect();
        let mut clash = Self {
            opening: dice.any(&openings),
            first: dice.any(&ordinals),
            // Mostly the commands: their drains take time.
            group: dice.any(&[0, 0, 0, 1]),
            aim: dice.any(&aims),
            blow: dice.any(&blows),
            struck: dice.any(&ordinals),
        };
        if clash.opening.by_absence() && matches!(clash.blow, Blow::Start) && size == 2 {
            // Nobody would be left to rebalance.
            clash.blow = Blow::Kill;
        }
        let absent = clash.opening.by_absence() || matches!(clash.blow, Blow::Start);
        // Who gives back is another one than who comes.
        if clash.struck == clash.first && (absent || dice.roll(2) == 0) {
            clash.struck = (clash.struck + 1) % size;
        }
        clash
    }

    /// Waits for its moment of a rebalance and some of its milliseconds; what the group was then,
    /// `None` when no rebalance was seen. A moment that passed unseen between two questions is over
    /// just now.
    pub fn caught(&self, group: &GroupProbe, dice: &mut Dice) -> Option<Phase> {
        let (mut begun, mut before) = (false, None);
        let caught = group.wait(REBALANCE, |now| {
            // A group without members hands out to its first one at once.
            let alone = before == Some(Phase::Empty) && now.phase == Phase::Stable;
            before = Some(now.phase);
            begun |= alone || matches!(now.phase, Phase::Preparing | Phase::Completing);
            let over = begun && now.phase == Phase::Stable;
            over || match self.aim {
                Aim::Preparing => begun,
                Aim::Completing => now.phase == Phase::Completing,
                Aim::HandedOut => false,
            }
        });
        std::thread::sleep(match self.aim {
            Aim::Preparing => dice.up_to(60),
            // Over within some milliseconds.
            Aim::Completing => Duration::ZERO,
            // A cooperative member's drain takes as long as its calls.
            Aim::HandedOut => dice.up_to(300),
        });
        before.filter(|_| caught)
    }
}
