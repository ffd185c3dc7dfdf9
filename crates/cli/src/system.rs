//! The clock and the randomness of this machine, handed to rooms that take them as parameters.

use crate::failure::{Failure, Outcome};
use isopod_model::{Clock, Entropy, Timestamp};
use std::{fs::File, io::Read};

/// The wall clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where the system is asked")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The kernel's random numbers.
#[derive(Debug)]
pub(crate) struct SystemEntropy(File);

impl SystemEntropy {
    /// Opens the kernel's source of random numbers.
    pub(crate) fn open() -> Outcome<Self> {
        File::open("/dev/urandom").map(Self).map_err(|error| Failure::io("/dev/urandom", &error))
    }
}

impl Entropy for SystemEntropy {
    fn bits(&self) -> u64 {
        let mut bytes = [0_u8; 8];
        (&self.0).read_exact(&mut bytes).expect("the kernel's random numbers cannot be read to an end");
        u64::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_differ() {
        let entropy = SystemEntropy::open().expect("there is a /dev/urandom");
        assert_ne!(entropy.bits(), entropy.bits());
    }
}
