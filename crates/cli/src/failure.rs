//! How a command of the CLI fails: one or two lines for people, and the exit code.

use std::fmt;

/// The exit code for a failure of Isopod itself, told apart from the codes of commands (as `docker` does).
pub(crate) const OWN_FAILURE: u8 = 125;
/// The exit code for arguments that make no sense; clap uses it too.
pub(crate) const USAGE: u8 = 2;
/// The exit code of a program that a shell sees ended by SIGPIPE.
const BROKEN_PIPE: u8 = 128 + 13;

/// What a command gives back: its exit code, or why it failed.
pub(crate) type Outcome<T = u8> = Result<T, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read our output went away; nothing is said about it.
    BrokenPipe,
    /// The arguments make no sense together.
    Usage(String),
    /// Something went wrong; the second text says what to do next.
    Failed {
        /// What went wrong.
        text: String,
        /// What to do about it, where that is known.
        hint: Option<String>,
    },
}

impl Failure {
    /// A failure that speaks for itself.
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        Self::Failed { text: text.to_string(), hint: None }
    }

    /// A failure with advice.
    pub(crate) fn hinted(text: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self::Failed { text: text.to_string(), hint: Some(hint.to_string()) }
    }

    /// The code to exit with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => BROKEN_PIPE,
            Self::Usage(_) => USAGE,
            Self::Failed { .. } => OWN_FAILURE,
        }
    }

    /// A failure of reading or writing `what`.
    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Self::new(format_args!("{what}: {error}"))
    }
}

impl From<isopod_model::Error> for Failure {
    /// The texts of the platform are written for callers. An internal fault's detail is shown too: here the caller
    /// is the operator, and there may be no log beside this terminal.
    fn from(error: isopod_model::Error) -> Self {
        match error {
            isopod_model::Error::Internal { detail } => Self::new(format_args!("internal error: {detail}")),
            error => Self::new(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BrokenPipe => Ok(()),
            Self::Usage(text) => write!(formatter, "isopod: {text}"),
            Self::Failed { text, hint: None } => write!(formatter, "isopod: {text}"),
            Self::Failed { text, hint: Some(hint) } => write!(formatter, "isopod: {text}\n        {hint}"),
        }
    }
}
