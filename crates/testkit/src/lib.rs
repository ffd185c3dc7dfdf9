//! Dev only: fakes that are stricter than the real thing.
