//! The limit on open files, raised as far as the system allows.
//!
//! Nothing here ends the daemon: with less than was asked for it serves less, and says so.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What `--rlimit-nofile` asks for by default, and the most that it gets.
pub const DEFAULT_NOFILE: u64 = 1_000_000;
/// Open files of the whole system that are left to others.
const LEFT_TO_OTHERS: u64 = 16_384;

/// What became of the wish.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was asked for.
    Left,
    /// The limit is now (or was before) at least what was asked for.
    Enough {
        /// Open files we may have.
        soft: u64,
        /// The most that may be asked for on this system.
        maximum: u64,
    },
    /// The system allows only less.
    Less {
        /// Open files we may have.
        soft: u64,
        /// Open files we would like to have.
        wanted: u64,
        /// Why not.
        reason: String,
    },
}

/// Raises the limit on open files to `requested` (0: leaves it) and logs what became of it.
pub fn raise_nofile(requested: u64) -> Outcome {
    let outcome = raise(requested, file_max(), &mut System);
    match &outcome {
        Outcome::Left => (),
        Outcome::Enough { soft, maximum } => {
            tracing::info!("Set rlimit-nofile to {soft}, maximum {maximum}");
        }
        Outcome::Less { soft, wanted, reason } => {
            tracing::warn!("rlimit-nofile is {soft}, wanted {wanted}: {reason}");
        }
    }
    outcome
}

/// The calls that are made, so that tests need no privileges.
trait Limits {
    /// The soft and the hard limit.
    fn get(&mut self) -> io::Result<(u64, u64)>;
    fn set(&mut self, soft: u64, hard: u64) -> io::Result<()>;
}

struct System;

impl Limits for System {
    fn get(&mut self) -> io::Result<(u64, u64)> {
        Ok(getrlimit(Resource::RLIMIT_NOFILE)?)
    }

    fn set(&mut self, soft: u64, hard: u64) -> io::Result<()> {
        Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?)
    }
}

/// Open files that the whole system may have.
fn file_max() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/fs/file-max").ok()?.trim().parse().ok()
}

fn raise(requested: u64, file_max: Option<u64>, limits: &mut impl Limits) -> Outcome {
    if requested == 0 {
        return Outcome::Left;
    }
    let maximum =
        file_max.map_or(DEFAULT_NOFILE, |all| all.saturating_sub(LEFT_TO_OTHERS).min(DEFAULT_NOFILE));
    let wanted = requested.min(maximum);
    let (soft, hard) = match limits.get() {
        Ok(limits) => limits,
        Err(error) => return Outcome::Less { soft: 0, wanted, reason: error.to_string() },
    };
    if soft >= wanted {
        return Outcome::Enough { soft, maximum };
    }
    match limits.set(wanted, hard.max(wanted)) {
        Ok(()) => Outcome::Enough { soft: wanted, maximum },
        // The hard limit stays: go as far as it allows.
        Err(error) => match limits.set(hard, hard) {
            Ok(()) => Outcome::Less {
                soft: hard,
                wanted,
                reason: format!("the hard limit cannot be raised: {error}"),
            },
            Err(error) => Outcome::Less { soft, wanted, reason: error.to_string() },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        soft: u64,
        hard: u64,
        may_raise_hard: bool,
        may_set: bool,
    }

    impl Limits for Fake {
        fn get(&mut self) -> io::Result<(u64, u64)> {
            Ok((self.soft, self.hard))
        }

        fn set(&mut self, soft: u64, hard: u64) -> io::Result<()> {
            if !self.may_set || soft > hard || (hard > self.hard && !self.may_raise_hard) {
                return Err(io::Error::from_raw_os_error(1));
            }
            (self.soft, self.hard) = (soft, hard);
            Ok(())
        }
    }

    #[test]
    fn raised_as_far_as_allowed() {
        let fake = |may_raise_hard, may_set| Fake { soft: 1024, hard: 20_000, may_raise_hard, may_set };
        let huge = Some(u64::MAX >> 1);

        let mut root = fake(true, true);
        let outcome = raise(DEFAULT_NOFILE, huge, &mut root);
        assert_eq!(outcome, Outcome::Enough { soft: 1_000_000, maximum: 1_000_000 });
        assert_eq!((root.soft, root.hard), (1_000_000, 1_000_000));

        let mut user = fake(false, true);
        let outcome = raise(DEFAULT_NOFILE, huge, &mut user);
        assert!(matches!(outcome, Outcome::Less { soft: 20_000, wanted: 1_000_000, .. }), "{outcome:?}");
        assert_eq!((user.soft, user.hard), (20_000, 20_000));

        let mut within = fake(false, true);
        assert_eq!(raise(5000, huge, &mut within), Outcome::Enough { soft: 5000, maximum: 1_000_000 });
        assert_eq!((within.soft, within.hard), (5000, 20_000));

        let outcome = raise(DEFAULT_NOFILE, huge, &mut fake(false, false));
        assert!(matches!(outcome, Outcome::Less { soft: 1024, .. }), "{outcome:?}");
    }

    #[test]
    fn capped_left_or_never_lowered() {
        let mut limits = Fake { soft: 1024, hard: 4096, may_raise_hard: true, may_set: true };
        assert_eq!(raise(0, Some(0), &mut limits), Outcome::Left);
        assert_eq!(raise(512, None, &mut limits), Outcome::Enough { soft: 1024, maximum: 1_000_000 });
        assert_eq!((limits.soft, limits.hard), (1024, 4096));
        // 20000 files in the whole system, most of them left to others.
        assert_eq!(
            raise(5_000_000, Some(20_000), &mut limits),
            Outcome::Enough { soft: 3616, maximum: 3616 }
        );
        assert_eq!(raise(1, Some(10), &mut limits), Outcome::Enough { soft: 3616, maximum: 0 });
    }

    #[test]
    fn the_real_limits_can_be_asked() {
        let (soft, hard) = System.get().unwrap();
        assert!(soft <= hard);
        assert_eq!(raise_nofile(0), Outcome::Left);
        assert!(matches!(raise_nofile(1), Outcome::Enough { .. }), "one file is always allowed");
    }
}
