//! Random damage to a format, from a seed: the kinds of change that find missing checks.

use crate::rng::Rng;

/// Integers that arithmetic gets wrong.
const NASTY: [u64; 12] = [
    0,
    1,
    0x7f,
    0xfff,
    0x1000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Bytes at the front that hold superblock and tables. A third of all mutations happens there only; damage to them is
/// mostly refused at once, so the others leave them alone and try what comes later.
const FRONT: usize = 8192;

/// Makes 1 to 8 changes to `bytes`, now and then also cutting it off.
pub fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let len = bytes.len();
    let target = if len <= 2 * FRONT {
        &mut bytes[..]
    } else if rng.below(3) == 0 {
        &mut bytes[..FRONT]
    } else {
        &mut bytes[FRONT..]
    };
    for _ in 0..=rng.below(8) {
        if !target.is_empty() {
            change(rng, target);
        }
    }
    if rng.below(50) == 0 {
        bytes.truncate(rng.index(bytes.len() + 1));
    }
}

fn change(rng: &mut Rng, bytes: &mut [u8]) {
    let at = rng.index(bytes.len());
    match rng.below(6) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = rng.byte(),
        // An aligned integer becomes nasty, random, or a little more or less.
        2..=4 => {
            let width = *rng.pick(&[1_usize, 2, 4, 8]);
            let at = at / width * width;
            let end = (at + width).min(bytes.len());
            let mut old = [0; 8];
            old[..end - at].copy_from_slice(&bytes[at..end]);
            let value = match rng.below(3) {
                0 => *rng.pick(&NASTY),
                1 => rng.next_u64(),
                _ => u64::from_le_bytes(old).wrapping_add(rng.below(17)).wrapping_sub(8),
            };
            bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        // A record takes the place of another.
        _ => {
            let len = (1 + rng.index(256)).min(bytes.len());
            let (from, to) = (rng.index(bytes.len() - len + 1), rng.index(bytes.len() - len + 1));
            bytes.copy_within(from..from + len, to);
        }
    }
}
