//! Lists, filters, hostile texts, events, retention.

use super::samples::{event, id, moment, record, step};
use crate::{ListQuery, Store, Swept};
use isopod_model::{SandboxState, sandbox::Sandbox};
use std::collections::BTreeMap;

fn query(limit: u32) -> ListQuery {
    ListQuery { owner: "local".to_owned(), limit, ..ListQuery::default() }
}

async fn list(store: &dyn Store, query: &ListQuery) -> Vec<Sandbox> {
    store.list(query).await.expect("is read").into_iter().map(|record| record.sandbox).collect()
}

pub(super) async fn pages_meet_without_gap_or_double(store: &dyn Store) {
    for number in 0..25 {
        store.insert(&record(number, None), &event("sandbox.created", number)).await.expect("is saved");
    }
    let mut theirs = record(100, None);
    theirs.owner = "somebody".to_owned();
    store.insert(&theirs, &event("sandbox.created", 100)).await.expect("is saved");
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = list(store, &ListQuery { before: before.clone(), ..query(10) }).await;
        let Some(last) = page.last() else { break };
        before = Some(last.id.clone());
        seen.extend(page.into_iter().map(|sandbox| sandbox.id));
        // What comes meanwhile is newer than the cursor and does not disturb it.
        let newcomer = record(1000 + i64::try_from(seen.len()).expect("is small"), None);
        store.insert(&newcomer, &event("sandbox.created", 0)).await.expect("is saved");
    }
    let expected: Vec<_> = (0..25).rev().map(id).collect();
    assert_eq!(seen, expected, "newest first, each once, nobody else's");
}

pub(super) async fn filters_hold_together(store: &dyn Store) {
    for number in 0..6 {
        let mut record = record(number, None);
        let team = if number % 2 == 0 { "red" } else { "blue" };
        record.sandbox.labels =
            BTreeMap::from([("team".to_owned(), team.to_owned()), ("n".to_owned(), number.to_string())]);
        store.insert(&record, &event("sandbox.created", number)).await.expect("is saved");
    }
    let ended = step(&id(4), &[SandboxState::Creating], SandboxState::Ended, 10);
    store.transition(&ended).await.expect("is in the table");
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let red = ListQuery { labels: vec![label("team", "red")], ..query(10) };
    let ids: Vec<_> = list(store, &red).await.into_iter().map(|sandbox| sandbox.id).collect();
    assert_eq!(ids, [id(2), id(0)], "the ended one is not among them");
    let both = ListQuery { labels: vec![label("team", "red"), label("n", "2")], ..query(10) };
    assert_eq!(list(store, &both).await.len(), 1);
    let neither = ListQuery { labels: vec![label("team", "red"), label("n", "3")], ..query(10) };
    assert_eq!(list(store, &neither).await.len(), 0, "all labels must be there");
    let gone = ListQuery { state: Some(SandboxState::Ended), ..red.clone() };
    let gone = list(store, &gone).await;
    assert_eq!(gone.len(), 1);
    assert!(gone[0].id == id(4) && gone[0].ending.is_some());
    let running = ListQuery { state: Some(SandboxState::Running), ..red };
    assert_eq!(list(store, &running).await.len(), 0);
}

pub(super) async fn hostile_texts_are_only_texts(store: &dyn Store) {
    let hostile = [
        "'; DROP TABLE sandboxes; --",
        "%",
        "_____",
        "$1",
        "\\",
        "\"}],{\"",
        "$.team",
        "\u{202e}\u{1f980}\n\t",
        "\u{feff}",
        "' OR '1'='1",
    ];
    for (number, text) in hostile.iter().enumerate() {
        let mut record = record(i64::try_from(number).expect("is small"), Some(text));
        record.sandbox.labels = BTreeMap::from([((*text).to_owned(), (*text).to_owned())]);
        record.sandbox.metadata = Some(serde_json::json!({ *text: [text] }));
        record.sandbox.template = (*text).to_owned();
        record.env = BTreeMap::from([("X".to_owned(), (*text).to_owned())]);
        store.insert(&record, &event("sandbox.created", 0)).await.expect("is saved");
        assert_eq!(store.get_by_name("local", text).await, Ok(Some(record.clone())), "{text:?}");
        let labels = vec![((*text).to_owned(), (*text).to_owned())];
        let found = store.list(&ListQuery { labels, ..query(100) }).await;
        assert_eq!(found, Ok(vec![record]), "{text:?} finds itself only");
        assert_eq!(store.get_by_name(text, text).await, Ok(None));
    }
    assert_eq!(store.live().await.expect("is read").len(), hostile.len());
}

pub(super) async fn events_go_on_after_a_position(store: &dyn Store) {
    for number in 0..2 {
        store.insert(&record(number, None), &event("sandbox.created", number)).await.expect("is saved");
    }
    let mut from = SandboxState::Creating;
    for millis in 0..9 {
        let to = if millis % 2 == 0 { SandboxState::Running } else { SandboxState::Stopped };
        store.transition(&step(&id(0), &[from], to, millis)).await.expect("is in the table");
        from = to;
    }
    let mut seen = Vec::new();
    loop {
        let after = seen.last().map_or(0, |event: &isopod_model::event::Event| event.seq);
        let page = store.events(&id(0), after, 4).await.expect("are read");
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 4);
        seen.extend(page);
    }
    assert_eq!(seen.len(), 10);
    assert!(seen.iter().all(|event| event.sandbox_id == id(0)));
    assert!(seen.windows(2).all(|pair| pair[0].seq < pair[1].seq), "positions grow");
    assert_eq!(store.events(&id(0), i64::MAX, 4).await, Ok(vec![]));
    assert_eq!(store.events(&id(0), i64::MIN, 4).await.expect("are read").len(), 4);
}

pub(super) async fn retention_removes_what_is_old_and_nothing_else(store: &dyn Store) {
    for (number, ended_at) in [(0, Some(100)), (1, Some(300)), (2, None)] {
        store.insert(&record(number, None), &event("sandbox.created", 50)).await.expect("is saved");
        if let Some(millis) = ended_at {
            let end = step(&id(number), &[SandboxState::Creating], SandboxState::Ended, millis);
            store.transition(&end).await.expect("is in the table");
        }
    }
    assert_eq!(store.sweep(moment(0)).await, Ok(Swept::default()));
    let swept = store.sweep(moment(200)).await.expect("is swept");
    assert_eq!(swept, Swept { sandboxes: 1, events: 4 }, "one sandbox, and every event before 200");
    assert_eq!(store.get(&id(0)).await, Ok(None));
    assert!(store.get(&id(1)).await.expect("is read").is_some(), "ended later");
    assert!(store.get(&id(2)).await.expect("is read").is_some(), "has not ended");
    assert_eq!(store.events(&id(1), 0, 10).await.expect("are read").len(), 1);
    let seq = store.events(&id(1), 0, 10).await.expect("are read")[0].seq;
    store.sweep(moment(1000)).await.expect("is swept");
    let next = step(&id(2), &[SandboxState::Creating], SandboxState::Running, 2000);
    store.transition(&next).await.expect("is in the table");
    let newest = store.events(&id(2), 0, 10).await.expect("are read");
    assert!(newest.len() == 1 && newest[0].seq > seq, "a position is never given twice");
    let found = ListQuery { labels: vec![("team".to_owned(), "red".to_owned())], ..query(10) };
    assert_eq!(list(store, &found).await.len(), 1, "labels of the removed are gone, the others' are there");
}
