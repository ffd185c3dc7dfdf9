//! Values to save.

use crate::{NewEvent, Record, Transition};
use isopod_model::{
    Clock, Ending, Entropy, SandboxId, SandboxState, Timestamp,
    limits::InstanceType,
    sandbox::{Promotion, Sandbox, Tier, TierRequest},
};
use std::collections::BTreeMap;

/// A moment and random bits that a number stands for.
#[derive(Debug)]
struct Fixed(i64);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        moment(self.0)
    }
}

impl Entropy for Fixed {
    fn bits(&self) -> u64 {
        self.0.unsigned_abs()
    }
}

/// The moment `millis` after an arbitrary one.
pub(super) fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_763_000_000_000 + millis).expect("within jiff's range")
}

/// The id of the `number`th sandbox; grows with it.
pub(super) fn id(number: i64) -> SandboxId {
    SandboxId::new(&Fixed(number), &Fixed(number))
}

/// An event at `moment(millis)`.
pub fn event(kind: &'static str, millis: i64) -> NewEvent {
    NewEvent { at: moment(millis), kind, data: serde_json::json!({ "millis": millis }) }
}

/// The `number`th sandbox, being created, of owner `local`.
pub fn record(number: i64, name: Option<&str>) -> Record {
    let sandbox = Sandbox {
        id: id(number),
        name: name.map(str::to_owned),
        state: SandboxState::Creating,
        tier: Tier::Container,
        requested_tier: TierRequest::Auto,
        template: "base".to_owned(),
        resolved_template: "host".to_owned(),
        instance_type: InstanceType::Standard,
        limits: InstanceType::Standard.limits(),
        labels: BTreeMap::from([("team".to_owned(), "red".to_owned())]),
        metadata: Some(serde_json::json!({"nested": [1, 2.5, null, "\u{0}"]})),
        promotion: Promotion::Ask,
        created_at: moment(number),
        started_at: None,
        expires_at: Some(moment(number + 60_000)),
        idle_timeout_s: Some(300),
        keep_alive: true,
        ending: None,
    };
    let env = BTreeMap::from([("TOKEN".to_owned(), "s3cret".to_owned())]);
    Record { sandbox, owner: "local".to_owned(), env, timeout_s: Some(60) }
}

/// A step of a sandbox from any of `from` to `to`, at `moment(millis)`, with an ending where `to` is one.
pub fn step(id: &SandboxId, from: &[SandboxState], to: SandboxState, millis: i64) -> Transition {
    let ends = matches!(to, SandboxState::Stopped | SandboxState::Deleting | SandboxState::Ended);
    let ending =
        Ending::new(isopod_model::EndReason::Killed, moment(millis), "caller", "as it was asked for")
            .with("exit_code", 137);
    Transition {
        id: id.clone(),
        from: from.to_vec(),
        to,
        started_at: (to == SandboxState::Running).then(|| moment(millis)),
        ending: ends.then_some(ending),
        event: event("sandbox.changed", millis),
    }
}
