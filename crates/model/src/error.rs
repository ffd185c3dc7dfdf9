//! Everything that can go wrong for a caller, with the text that the caller reads.
//!
//! Nothing here knows of HTTP; `api` translates codes to statuses in one place. Texts hold no secrets and no paths
//! of the host.

use crate::{Ending, SandboxState, sandbox::Tier};

/// The result of a platform operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation, in the caller's words.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The request is not what its media type says.
    #[error("the request cannot be read: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// A value is wrong.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which one.
        field: String,
        /// Why, and what would be right.
        reason: String,
    },
    /// No such thing, as far as this caller may know.
    #[error("no {what} {id} here")]
    NotFound {
        /// Its kind: `sandbox`, `exec`, `route`, …
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The sandbox has ended.
    #[error("sandbox {id} has ended: {}", ending.detail)]
    Gone {
        /// Which one.
        id: String,
        /// How.
        ending: Box<Ending>,
    },
    /// The caller has a live sandbox of that name.
    #[error("a sandbox named {name} exists already: {id}")]
    NameTaken {
        /// The name.
        name: String,
        /// The sandbox that has it.
        id: String,
    },
    /// The sandbox's state does not allow the operation.
    #[error("the sandbox is {}, which does not allow this: {hint}", state.as_str())]
    WrongState {
        /// The state it is in.
        state: SandboxState,
        /// What to do instead.
        hint: &'static str,
    },
    /// The exec has ended already.
    #[error("exec {id} has ended")]
    ExecEnded {
        /// Which one.
        id: String,
    },
    /// The same `Idempotency-Key` came with a different request.
    #[error("this Idempotency-Key was used for another request ({id}); use a new key")]
    IdempotencyMismatch {
        /// The exec it was used for.
        id: String,
    },
    /// This host cannot serve that tier.
    #[error("tier {} is not available here: {reason}", tier.as_str())]
    TierUnavailable {
        /// The tier.
        tier: Tier,
        /// Why, and what would help.
        reason: String,
    },
    /// The feature is part of the contract and not built yet.
    #[error("{feature} is not built yet")]
    NotBuilt {
        /// What, with the row of the mission where there is one.
        feature: String,
    },
    /// The node has no room now.
    #[error("no room: {reason}")]
    NoCapacity {
        /// What is full.
        reason: String,
        /// Seconds after which trying again may help.
        retry_after_s: u64,
    },
    /// The platform cannot serve now.
    #[error("temporarily unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// The caller waited for something that did not happen in time.
    #[error("timed out after {after_ms} ms waiting for {what}")]
    WaitTimeout {
        /// What was waited for.
        what: String,
        /// The deadline that passed.
        after_ms: u64,
    },
    /// The body is larger than allowed.
    #[error("{what} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// The limit.
        limit_bytes: u64,
    },
    /// No such file.
    #[error("{path}: no such file or directory")]
    FileNotFound {
        /// The path asked for.
        path: String,
    },
    /// The file is of another kind than the call needs.
    #[error("{path}: {reason}")]
    WrongFileKind {
        /// The path asked for.
        path: String,
        /// What it is and what it should be.
        reason: String,
    },
    /// Something is there already.
    #[error("{path}: exists already")]
    FileExists {
        /// The path asked for.
        path: String,
    },
    /// The directory is not empty.
    #[error("{path}: the directory is not empty; delete with ?recursive=true")]
    DirectoryNotEmpty {
        /// The path asked for.
        path: String,
    },
    /// The user in whose name the call runs may not do this.
    #[error("{path}: permission denied for this user; ?user=root may")]
    PermissionDenied {
        /// The path asked for.
        path: String,
    },
    /// The path leaves the sandbox's own file system (`/proc`, `/dev`, `/run`) or loops.
    #[error("{path}: {reason}")]
    PathRefused {
        /// The path asked for.
        path: String,
        /// Why.
        reason: String,
    },
    /// The sandbox's disk quota is used up.
    #[error("the sandbox's disk is full ({limit_mib} MiB)")]
    DiskFull {
        /// The quota.
        limit_mib: u64,
    },
    /// `If-Match` or `If-None-Match` did not hold.
    #[error("{path}: changed in the meantime (its ETag is {etag})")]
    PreconditionFailed {
        /// The path asked for.
        path: String,
        /// Its present ETag, or `none`.
        etag: String,
    },
    /// The range lies outside the file or the output.
    #[error("the range lies outside of {size_bytes} bytes")]
    RangeNotSatisfiable {
        /// The size.
        size_bytes: u64,
    },
    /// A fault of the platform; the log has the details under the request's id.
    #[error("internal error; the server's log has the details")]
    Internal {
        /// For the log only, never for the caller.
        detail: String,
    },
}

/// The stable name of a kind of error; part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is the variant of Error with that name")]
pub enum ErrorCode {
    MalformedRequest,
    InvalidValue,
    NotFound,
    Gone,
    NameTaken,
    WrongState,
    ExecEnded,
    IdempotencyMismatch,
    TierUnavailable,
    NotImplemented,
    NoCapacity,
    Unavailable,
    WaitTimeout,
    TooLarge,
    FileNotFound,
    WrongFileKind,
    FileExists,
    DirectoryNotEmpty,
    PermissionDenied,
    PathRefused,
    DiskFull,
    PreconditionFailed,
    RangeNotSatisfiable,
    Internal,
}

impl Error {
    /// A wrong value in `field`.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// A fault of the platform; `detail` goes to the log only.
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        Self::Internal { detail: detail.to_string() }
    }

    /// Its stable name.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed { .. } => ErrorCode::MalformedRequest,
            Self::Invalid { .. } => ErrorCode::InvalidValue,
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Gone { .. } => ErrorCode::Gone,
            Self::NameTaken { .. } => ErrorCode::NameTaken,
            Self::WrongState { .. } => ErrorCode::WrongState,
            Self::ExecEnded { .. } => ErrorCode::ExecEnded,
            Self::IdempotencyMismatch { .. } => ErrorCode::IdempotencyMismatch,
            Self::TierUnavailable { .. } => ErrorCode::TierUnavailable,
            Self::NotBuilt { .. } => ErrorCode::NotImplemented,
            Self::NoCapacity { .. } => ErrorCode::NoCapacity,
            Self::Unavailable { .. } => ErrorCode::Unavailable,
            Self::WaitTimeout { .. } => ErrorCode::WaitTimeout,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::FileNotFound { .. } => ErrorCode::FileNotFound,
            Self::WrongFileKind { .. } => ErrorCode::WrongFileKind,
            Self::FileExists { .. } => ErrorCode::FileExists,
            Self::DirectoryNotEmpty { .. } => ErrorCode::DirectoryNotEmpty,
            Self::PermissionDenied { .. } => ErrorCode::PermissionDenied,
            Self::PathRefused { .. } => ErrorCode::PathRefused,
            Self::DiskFull { .. } => ErrorCode::DiskFull,
            Self::PreconditionFailed { .. } => ErrorCode::PreconditionFailed,
            Self::RangeNotSatisfiable { .. } => ErrorCode::RangeNotSatisfiable,
            Self::Internal { .. } => ErrorCode::Internal,
        }
    }
}
