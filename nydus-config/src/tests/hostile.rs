//! Texts that nobody wrote on purpose, from a fixed seed.

use proptest::prelude::*;

use super::secrets::secretive;
use super::*;

/// Seeds for mutation: every form and every backend.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = secretive().into_iter().map(String::into_bytes).collect();
    seeds.push(v1(json!({"fs_prefetch": {"enable": true}, "amplify_io": 0})).into_bytes());
    let samples = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs")).expect("configs/");
    for sample in samples.map(|entry| entry.unwrap().path()) {
        if sample.extension().is_some_and(|extension| extension == "json" || extension == "toml") {
            seeds.push(std::fs::read(&sample).unwrap());
        }
    }
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0x6e79_6475),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever happens to a text, reading it ends in a configuration or an error.
    #[test]
    fn mutated_texts_never_panic(
        seed in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
    ) {
        let seeds = seeds();
        let mut text = seeds[seed.index(seeds.len())].clone();
        for (place, byte, edit) in edits {
            let place = place.index(text.len().max(1));
            // Mostly bytes that mean something to one of the grammars.
            let byte = if byte < 128 { b"{}[]\",:=.\n0-9e#'\\ntf"[byte as usize % 20] } else { byte };
            match edit {
                0 => text.insert(place, byte),
                1 => text.truncate(place),
                2 if !text.is_empty() => { text.remove(place); }
                _ if !text.is_empty() => text[place] = byte,
                _ => (),
            }
        }
        fuzzing(&text);
    }

    /// A number in place of any value is read or refused with the key's path, and never overflows.
    #[test]
    fn any_number_anywhere(value in prop_oneof![any::<i64>().prop_map(Value::from), any::<u64>().prop_map(Value::from), any::<f64>().prop_map(Value::from)]) {
        for patch in [
            json!({"amplify_io": value}), json!({"read_deadline_ms": value}), json!({"fs_prefetch": {"enable": true, "threads_count": value}}),
            json!({"fs_prefetch": {"enable": false, "merging_size": value, "threads_count": value}}),
            json!({"fs_prefetch": {"bandwidth_rate": value}}), json!({"device": {"id": value}}),
        ] {
            if let Ok(parsed) = parse(&v1(patch)) {
                let rafs = parsed.config.rafs().unwrap();
                prop_assert!(rafs.amplify_io() <= 0x1000_0000);
                prop_assert!(rafs.read_deadline >= Duration::from_millis(1));
                prop_assert!(std::time::Instant::now().checked_add(rafs.read_deadline).is_some());
            }
        }
    }
}
