//! Fresh entropy from the host, for the guest's generator.

use crate::driver::DriverError;

/// 32 bytes of the host's random numbers.
///
/// # Errors
/// When the host has none.
pub fn fresh_seed() -> Result<[u8; 32], DriverError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| DriverError::Entropy(error.to_string()))?;
    Ok(seed)
}
