//! Names are unique among an owner's sandboxes that have not ended.

use super::samples::{event, id, record, step};
use crate::Store;
use isopod_model::{Error, SandboxState};
use std::sync::Arc;

pub(super) async fn one_of_many_concurrent_inserts_wins(store: Arc<dyn Store>) {
    let mut inserts = tokio::task::JoinSet::new();
    for number in 0..50 {
        let store = store.clone();
        inserts.spawn(async move {
            let record = record(number, Some("wanted"));
            (record.sandbox.id.clone(), store.insert(&record, &event("sandbox.created", number)).await)
        });
    }
    let outcomes = inserts.join_all().await;
    let winners: Vec<_> = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).collect();
    assert_eq!(winners.len(), 1, "exactly one insert wins");
    let winner = winners[0].0.clone();
    for (loser, outcome) in outcomes.iter().filter(|(id, _)| *id != winner) {
        let expected = Error::NameTaken { name: "wanted".to_owned(), id: winner.to_string() };
        assert_eq!(*outcome, Err(expected), "a loser learns who has the name");
        assert_eq!(store.get(loser).await, Ok(None), "and leaves nothing");
        assert_eq!(store.events(loser, 0, 10).await, Ok(vec![]));
    }
}

pub(super) async fn a_name_is_free_after_the_end(store: &dyn Store) {
    store.insert(&record(1, Some("again")), &event("sandbox.created", 1)).await.expect("is saved");
    let walk = [
        (SandboxState::Creating, SandboxState::Running),
        (SandboxState::Running, SandboxState::Deleting),
        (SandboxState::Deleting, SandboxState::Ended),
    ];
    for (from, to) in walk {
        let taken = store.insert(&record(2, Some("again")), &event("sandbox.created", 2)).await;
        assert!(matches!(taken, Err(Error::NameTaken { .. })), "taken while {from:?}: {taken:?}");
        store.transition(&step(&id(1), &[from], to, 3)).await.expect("is in the table");
    }
    assert_eq!(store.get_by_name("local", "again").await, Ok(None));
    store.insert(&record(2, Some("again")), &event("sandbox.created", 4)).await.expect("the name is free");
    let found = store.get_by_name("local", "again").await.expect("is read").expect("is there");
    assert_eq!(found.sandbox.id, id(2));
    let ended = store.get(&id(1)).await.expect("is read").expect("its record is kept");
    assert_eq!(ended.sandbox.state, SandboxState::Ended);
}

pub(super) async fn names_belong_to_their_owner(store: &dyn Store) {
    let mine = record(1, Some("same"));
    let mut theirs = record(2, Some("same"));
    theirs.owner = "somebody".to_owned();
    store.insert(&mine, &event("sandbox.created", 1)).await.expect("is saved");
    store.insert(&theirs, &event("sandbox.created", 2)).await.expect("another owner's name is another name");
    assert_eq!(store.get_by_name("somebody", "same").await, Ok(Some(theirs)));
    assert_eq!(store.get_by_name("local", "same").await, Ok(Some(mine)));
    assert_eq!(store.get_by_name("nobody", "same").await, Ok(None));
    for number in 3..5 {
        store
            .insert(&record(number, None), &event("sandbox.created", 3))
            .await
            .expect("no name, no conflict");
    }
}
