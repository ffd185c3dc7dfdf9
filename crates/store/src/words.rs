//! Values as the text that the database holds, and back.

use isopod_model::{Error, Result, Timestamp};
use serde_json::Value;

/// What an enum of the model is called in JSON.
pub(crate) fn word<T: serde::Serialize>(value: &T) -> Result<String> {
    match serde_json::to_value(value).map_err(Error::internal)? {
        Value::String(word) => Ok(word),
        other => Err(Error::internal(format!("{other} is not a word"))),
    }
}

/// The enum value that `word` names.
pub(crate) fn from_word<T: serde::de::DeserializeOwned>(column: &str, word: String) -> Result<T> {
    serde_json::from_value(Value::String(word)).map_err(|error| unreadable(column, &error))
}

/// A value as JSON text.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}

/// The value behind JSON text.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(column: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(column, &error))
}

/// A moment from milliseconds since 1970.
pub(crate) fn moment(column: &str, millis: i64) -> Result<Timestamp> {
    Timestamp::from_millisecond(millis).map_err(|error| unreadable(column, &error))
}

/// A count as the signed integer that databases have.
pub(crate) fn integer(column: &str, count: u64) -> Result<i64> {
    i64::try_from(count).map_err(|error| unreadable(column, &error))
}

/// A count from the signed integer that databases have.
pub(crate) fn count(column: &str, integer: i64) -> Result<u64> {
    u64::try_from(integer).map_err(|error| unreadable(column, &error))
}

fn unreadable(column: &str, error: &dyn std::fmt::Display) -> Error {
    Error::internal(format!("column {column}: {error}"))
}
