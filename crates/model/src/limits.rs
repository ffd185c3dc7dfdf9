//! What a sandbox may use.

use crate::Error;
use serde::{Deserialize, Serialize};

/// Limits that are in force for one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Limits {
    /// Memory in MiB, page cache and tmpfs included.
    pub memory_mib: u64,
    /// Processor time in CPUs (0.25 is a quarter of one).
    pub cpus: f64,
    /// Disk in MiB for everything the sandbox writes.
    pub disk_mib: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Limits as a caller asks for them; what is absent comes from the instance type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsRequest {
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Processor time in CPUs.
    pub cpus: Option<f64>,
    /// Disk in MiB.
    pub disk_mib: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A named set of limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InstanceType {
    /// 0.25 CPU, 256 MiB memory, 1 GiB disk, 256 processes.
    #[default]
    Lite,
    /// 1 CPU, 1 GiB memory, 5 GiB disk, 512 processes.
    Standard,
    /// 2 CPU, 4 GiB memory, 20 GiB disk, 1024 processes.
    Premium,
}

impl InstanceType {
    /// Every instance type.
    pub const ALL: [Self; 3] = [Self::Lite, Self::Standard, Self::Premium];

    /// The limits behind the name.
    pub fn limits(self) -> Limits {
        match self {
            Self::Lite => Limits { memory_mib: 256, cpus: 0.25, disk_mib: 1024, pids: 256 },
            Self::Standard => Limits { memory_mib: 1024, cpus: 1.0, disk_mib: 5 * 1024, pids: 512 },
            Self::Premium => Limits { memory_mib: 4096, cpus: 2.0, disk_mib: 20 * 1024, pids: 1024 },
        }
    }
}

impl Limits {
    /// The least a sandbox can live with.
    pub const LEAST: Self = Self { memory_mib: 16, cpus: 0.01, disk_mib: 8, pids: 8 };

    /// These limits with the caller's wishes in place of their own.
    #[must_use]
    pub fn overridden(self, wish: LimitsRequest) -> Self {
        Self {
            memory_mib: wish.memory_mib.unwrap_or(self.memory_mib),
            cpus: wish.cpus.unwrap_or(self.cpus),
            disk_mib: wish.disk_mib.unwrap_or(self.disk_mib),
            pids: wish.pids.unwrap_or(self.pids),
        }
    }

    /// Checks these limits against the least that works and the most that this host offers.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field, what was asked and what is possible.
    pub fn check(self, most: Self) -> Result<(), Error> {
        let least = Self::LEAST;
        #[allow(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
        let rows = [
            ("limits.memory_mib", self.memory_mib as f64, least.memory_mib as f64, most.memory_mib as f64),
            ("limits.cpus", self.cpus, least.cpus, most.cpus),
            ("limits.disk_mib", self.disk_mib as f64, least.disk_mib as f64, most.disk_mib as f64),
            ("limits.pids", self.pids as f64, least.pids as f64, most.pids as f64),
        ];
        for (field, asked, least, most) in rows {
            if !asked.is_finite() || asked < least || asked > most {
                return Err(Error::invalid(
                    field,
                    format!("{asked} is not between {least} and {most}, which this host offers"),
                ));
            }
        }
        Ok(())
    }

    /// How many CPUs a program inside is told it has: the limit, rounded up.
    pub fn visible_cpus(self) -> u32 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be small and positive"
        )]
        let cpus = self.cpus.ceil().max(1.0) as u32;
        cpus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_beyond_the_host_name_their_field() {
        let host = Limits { memory_mib: 1024, cpus: 2.0, disk_mib: 4096, pids: 1024 };
        let asked = InstanceType::Lite
            .limits()
            .overridden(LimitsRequest { cpus: Some(64.0), ..LimitsRequest::default() });
        let error = asked.check(host).expect_err("64 CPUs are too many");
        assert!(matches!(error, Error::Invalid { ref field, .. } if field == "limits.cpus"), "{error:?}");
        assert!(
            InstanceType::Lite
                .limits()
                .overridden(LimitsRequest { cpus: Some(f64::NAN), ..Default::default() })
                .check(host)
                .is_err()
        );
        assert!(InstanceType::Lite.limits().check(host).is_ok());
    }
}
