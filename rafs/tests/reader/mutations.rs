//! Bootstraps with random damage: an error or a consistent tree, never a panic, never much time or memory.

use std::time::{Duration, Instant};

use crate::extents::Random;
use crate::{allocation, fixtures};

/// Of one bootstrap.
const MUTATIONS: u64 = 1000;

/// Damages `bytes`, most often where the structures are.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const INTERESTING: [u64; 12] =
        [0, 1, 2, 7, 8, 127, 128, 255, 0x1000, 0x7fff_ffff, u64::MAX / 2, u64::MAX];
    for _ in 0..1 << random.below(4) {
        let limit = match random.below(4) {
            0 => 10_000,
            _ => bytes.len() as u64,
        };
        let at = random.below(limit.min(bytes.len() as u64)) as usize;
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            kind @ 2..=4 => {
                let width = (2_usize << (kind - 2)).min(bytes.len() - at);
                let value = INTERESTING[random.below(12) as usize].wrapping_add(random.below(3));
                // Fields lie on multiples of their width more often than not.
                let at = at - at % width.next_power_of_two().min(at.max(1));
                bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            _ => {
                let (from, len) = (random.below(bytes.len() as u64) as usize, random.below(64) as usize);
                let len = len.min(bytes.len() - from).min(bytes.len() - at);
                bytes.copy_within(from..from + len, at);
            }
        }
    }
    if random.below(50) == 0 {
        bytes.truncate(random.below(bytes.len() as u64) as usize);
    }
}

#[test]
fn damage_is_an_error_or_a_consistent_tree() {
    let mut spent = Duration::ZERO;
    let mut opened = 0;
    for (path, good) in fixtures::bootstraps() {
        let mut damaged = Vec::with_capacity(good.len());
        for seed in 0..MUTATIONS {
            damaged.clear();
            damaged.extend_from_slice(good);
            let mut random = Random(seed << 8 | u64::from(good[good.len() / 2]));
            mutate(&mut damaged, &mut random);
            let measure = || {
                let start = Instant::now();
                let result =
                    std::panic::catch_unwind(|| allocation::peak(|| rafs::fuzzing::bootstrap(&damaged)));
                (result, start.elapsed())
            };
            let (result, mut took) = measure();
            // What takes long takes long each time; a machine that stood still does not.
            for _ in 0..2 {
                if took >= Duration::from_secs(1) {
                    took = took.min(measure().1);
                }
            }
            spent += took;
            opened += u64::from(fixtures::open(damaged.clone()).is_ok());
            let peak = result.unwrap_or_else(|_| panic!("{path}, seed {seed}"));
            assert!(peak < 64 << 20, "{path}, seed {seed}: {peak} bytes");
            assert!(took < Duration::from_secs(1), "{path}, seed {seed}: {took:?}");
        }
    }
    // Most damage leaves something to walk through, or the test would show little.
    let total = MUTATIONS * fixtures::bootstraps().len() as u64;
    assert!(opened > total / 2, "{opened} of {total} could be opened");
    println!("{:?} for a mutation", spent / total as u32);
}
