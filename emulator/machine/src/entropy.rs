//! The machine's random numbers: ChaCha20, keyed by inputs.
//!
//! RDRAND, RDSEED and virtio-rng draw from one generator. Its key follows from the seeds delivered as
//! [`Input::EntropySeed`](crate::io::Input::EntropySeed) and from nothing else: every replica draws the same numbers,
//! and until the first seed the key is zero.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::context::EntropySource;
use crate::snapshot::{RestoreError, Snapshot};

/// The generator.
#[derive(Debug, Clone)]
pub struct Entropy {
    generator: ChaCha20Rng,
}

/// State of [`Entropy`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntropyState {
    /// Key.
    pub key: [u8; 32],
    /// Position in the key stream, in 32-bit words.
    pub position: u128,
}

impl Default for Entropy {
    fn default() -> Self {
        Self::new()
    }
}

impl Entropy {
    /// A generator with the zero key.
    #[must_use]
    pub fn new() -> Self {
        Self { generator: ChaCha20Rng::from_seed([0; 32]) }
    }

    /// Mixes a seed into the key: neither an old state nor the seed alone tells the new one.
    pub fn mix(&mut self, seed: &[u8; 32]) {
        let mut key = [0; 32];
        self.generator.fill_bytes(&mut key);
        for (byte, other) in key.iter_mut().zip(seed) {
            *byte ^= other;
        }
        self.generator = ChaCha20Rng::from_seed(key);
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.generator.next_u64()
    }
}

impl EntropySource for Entropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.generator.fill_bytes(bytes);
    }
}

impl Snapshot for Entropy {
    const KIND: &'static str = "entropy";
    const VERSION: u16 = 1;
    type State = EntropyState;

    fn save(&self) -> EntropyState {
        let Self { generator } = self;
        EntropyState { key: generator.get_seed(), position: generator.get_word_pos() }
    }

    fn restore(&mut self, state: EntropyState) -> Result<(), RestoreError> {
        let mut generator = ChaCha20Rng::from_seed(state.key);
        generator.set_word_pos(state.position);
        if generator.get_word_pos() != state.position {
            let reason = format!("position {} is beyond the key stream", state.position);
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        self.generator = generator;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::check_snapshot;

    #[test]
    fn the_stream_follows_from_the_seeds() {
        let mut first = Entropy::new();
        let mut second = Entropy::new();
        let zero_key = first.next_u64();
        assert_eq!(zero_key, second.next_u64());
        first.mix(&[7; 32]);
        assert_ne!(first.next_u64(), second.next_u64());
        second = Entropy::new();
        second.next_u64();
        second.mix(&[7; 32]);
        first = second.clone();
        assert_eq!(first.next_u64(), second.next_u64());
    }

    #[test]
    fn state_survives_in_the_middle_of_a_block() {
        let mut live = Entropy::new();
        live.mix(&[1; 32]);
        let mut odd = [0; 13];
        live.fill(&mut odd);
        let mut fresh = Entropy::new();
        fresh.restore(live.save()).unwrap();
        assert_eq!(fresh.next_u64(), live.next_u64());
        check_snapshot(&mut live, Entropy::new());
    }
}
