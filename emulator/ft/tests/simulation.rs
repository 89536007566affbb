//! A seeded simulation of pairs: one primary, one backup, their channel, the arbiter and a client in one process, with delays,
//! broken connections, partitions, crashes, freezes and arbiters that do not answer.
//!
//! Checked in every run: the output rule (whatever left the primary is part of what the backup goes live with), at most one
//! survivor of an epoch, no gap in what the client receives, and progress (unless both died, somebody runs in the end).
//!
//! `VIRTFT_FT_SEEDS=A..B` chooses the seeds; a failure names its own.
#![allow(clippy::unwrap_used, reason = "a broken simulation must stop")]
#![allow(clippy::cast_possible_truncation, reason = "simulated numbers are small")]
#![allow(clippy::disallowed_methods, reason = "the seeds are chosen from outside")]

#[path = "simulation/world.rs"]
mod world;

use world::World;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("VIRTFT_FT_SEEDS") else { return 0..2000 };
    let (first, last) = text.split_once("..").unwrap();
    first.parse().unwrap()..last.parse().unwrap()
}

#[test]
fn pairs_survive_whatever_happens() {
    let mut seen = std::collections::BTreeMap::<&str, u64>::new();
    for seed in seeds() {
        let outcome = std::panic::catch_unwind(|| World::new(seed).run());
        let Ok(words) = outcome else {
            panic!(
                "seed {seed} failed; again: VIRTFT_FT_SEEDS={seed}..{} cargo test -p virtft-ft --test simulation",
                seed + 1
            )
        };
        for word in words {
            *seen.entry(word).or_default() += 1;
        }
    }
    println!("{seen:#?}");
    if seeds().count() >= 1000 {
        for word in [
            "protected",
            "backup live",
            "primary alone",
            "planned",
            "reconnected",
            "arbiter away",
            "both died",
            "frozen",
        ] {
            assert!(seen.contains_key(word), "no run had: {word}");
        }
    }
}
