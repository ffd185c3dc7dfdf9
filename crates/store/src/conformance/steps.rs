//! Saving, steps along the lifecycle table, updates.

use super::samples::{event, id, moment, record, step};
use crate::{Store, Update};
use isopod_model::{Error, SandboxState};
use std::{collections::BTreeMap, sync::Arc};

pub(super) async fn what_is_saved_is_read_back(store: &dyn Store) {
    let saved = record(1, Some("mine"));
    store.insert(&saved, &event("sandbox.created", 1)).await.expect("is saved");
    assert_eq!(store.get(&id(1)).await, Ok(Some(saved.clone())));
    assert_eq!(store.get_by_name("local", "mine").await, Ok(Some(saved.clone())));
    assert_eq!(store.live().await, Ok(vec![saved.clone()]));
    assert_eq!(store.get(&id(2)).await, Ok(None));
    let twice = store.insert(&record(1, None), &event("sandbox.created", 2)).await;
    assert!(matches!(twice, Err(Error::Internal { .. })), "an id is saved once: {twice:?}");
    assert_eq!(store.get(&id(1)).await, Ok(Some(saved)));
}

pub(super) async fn a_step_and_its_event_are_saved_together(store: &dyn Store) {
    use SandboxState::{Creating, Deleting, Ended, Running, Stopped};
    let saved = record(1, None);
    store.insert(&saved, &event("sandbox.created", 0)).await.expect("is saved");
    let walk = [
        (vec![Creating], Running),
        (vec![Running], Stopped),
        (vec![Stopped, Creating], Running),
        (vec![Running], Deleting),
        (vec![Deleting], Ended),
    ];
    for (number, (from, to)) in walk.iter().enumerate() {
        let millis = i64::try_from(number).expect("is small") + 1;
        let after = store.transition(&step(&id(1), from, *to, millis)).await.expect("is in the table");
        assert_eq!(after.sandbox.state, *to);
        assert_eq!(after.sandbox.ending.is_some(), *to != Running, "{to:?}");
        if *to == Running {
            assert_eq!(after.sandbox.started_at, Some(moment(millis)));
        }
        assert_eq!(store.get(&id(1)).await, Ok(Some(after)));
        let events = store.events(&id(1), 0, 100).await.expect("are read");
        assert_eq!(events.len(), number + 2);
        assert_eq!(events.last().expect("is there").at, moment(millis));
    }
    assert_eq!(store.live().await, Ok(vec![]));
}

pub(super) async fn steps_outside_the_table_are_refused(store: &dyn Store) {
    store.insert(&record(1, None), &event("sandbox.created", 0)).await.expect("is saved");
    let before = store.get(&id(1)).await;
    let late = store.transition(&step(&id(1), &[SandboxState::Running], SandboxState::Paused, 1)).await;
    assert!(
        matches!(late, Err(Error::WrongState { state: SandboxState::Creating, .. })),
        "the expected state is compared: {late:?}"
    );
    let leap = store.transition(&step(&id(1), &[SandboxState::Creating], SandboxState::Paused, 1)).await;
    assert!(matches!(leap, Err(Error::Internal { .. })), "the lifecycle table is checked: {leap:?}");
    let unknown = store.transition(&step(&id(2), &[SandboxState::Creating], SandboxState::Running, 1)).await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })), "{unknown:?}");
    assert_eq!(store.get(&id(1)).await, before, "a refused step changes nothing");
    assert_eq!(store.events(&id(1), 0, 10).await.expect("are read").len(), 1, "and leaves no event");
}

pub(super) async fn of_two_concurrent_steps_one_wins(store: Arc<dyn Store>) {
    store.insert(&record(1, None), &event("sandbox.created", 0)).await.expect("is saved");
    let first = step(&id(1), &[SandboxState::Creating], SandboxState::Running, 1);
    store.transition(&first).await.expect("is in the table");
    let mut steps = tokio::task::JoinSet::new();
    for number in 0..16 {
        let store = store.clone();
        let to = if number % 2 == 0 { SandboxState::Stopped } else { SandboxState::Deleting };
        steps.spawn(async move {
            store.transition(&step(&id(1), &[SandboxState::Running], to, number)).await.is_ok()
        });
    }
    let outcomes = steps.join_all().await;
    assert_eq!(outcomes.iter().filter(|won| **won).count(), 1, "one step wins");
    assert_eq!(store.events(&id(1), 0, 100).await.expect("are read").len(), 3, "and one event is saved");
}

pub(super) async fn updates_replace_what_callers_may_change(store: &dyn Store) {
    let saved = record(1, Some("mine"));
    store.insert(&saved, &event("sandbox.created", 0)).await.expect("is saved");
    let update = Update {
        labels: BTreeMap::from([("team".to_owned(), "blue".to_owned()), ("x".to_owned(), String::new())]),
        metadata: None,
        timeout_s: None,
        expires_at: None,
        idle_timeout_s: None,
        keep_alive: false,
    };
    let after = store.update(&id(1), &update, &event("sandbox.updated", 5)).await.expect("is saved");
    assert_eq!(store.get(&id(1)).await, Ok(Some(after.clone())));
    let mut expected = saved;
    expected.sandbox.labels = update.labels.clone();
    expected.sandbox.metadata = None;
    expected.timeout_s = None;
    expected.sandbox.expires_at = None;
    expected.sandbox.idle_timeout_s = None;
    expected.sandbox.keep_alive = false;
    assert_eq!(after, expected, "nothing else changed");
    let query = |value: &str| crate::ListQuery {
        owner: "local".to_owned(),
        labels: vec![("team".to_owned(), value.to_owned())],
        limit: 10,
        ..crate::ListQuery::default()
    };
    assert_eq!(store.list(&query("red")).await, Ok(vec![]), "the old label finds it no more");
    assert_eq!(store.list(&query("blue")).await.expect("is read").len(), 1);

    store
        .transition(&step(&id(1), &[SandboxState::Creating], SandboxState::Ended, 6))
        .await
        .expect("is in the table");
    let late = store.update(&id(1), &update, &event("sandbox.updated", 7)).await;
    assert!(matches!(late, Err(Error::WrongState { state: SandboxState::Ended, .. })), "{late:?}");
    assert_eq!(store.events(&id(1), 0, 10).await.expect("are read").len(), 3, "and it left no event");
    let unknown = store.update(&id(2), &update, &event("sandbox.updated", 7)).await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })), "{unknown:?}");
}
