//! What is counted; alone in its binary, since the recorder is the process's.

mod common;

use common::{House, argv, run};
use isopod_model::{Error, exec::ExecRequest, sandbox::CreateSandbox};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// The figure of that name with these labels: a counter, a gauge, or how many values a histogram got.
fn figure(snapshotter: &Snapshotter, seen: &mut Vec<(String, f64)>, name: &str) -> f64 {
    // A snapshot starts everything anew from 0, so what was seen before is added.
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<_> =
            key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let key = format!("{}{{{}}}", key.key().name(), labels.join(","));
        let index = seen.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            seen.push((key, 0.0));
            seen.len() - 1
        });
        match value {
            #[allow(clippy::cast_precision_loss, reason = "small numbers")]
            DebugValue::Counter(count) => seen[index].1 += count as f64,
            DebugValue::Gauge(value) => seen[index].1 += value.into_inner(),
            #[allow(clippy::cast_precision_loss, reason = "small numbers")]
            DebugValue::Histogram(values) => seen[index].1 += values.len() as f64,
        }
    }
    seen.iter().find(|(known, _)| known == name).map_or(0.0, |(_, value)| *value)
}

#[tokio::test]
async fn what_happens_is_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("is the only one");
    let mut seen = Vec::new();
    let mut now = |name: &str| figure(&snapshotter, &mut seen, name);

    let house = House::new().await;
    let first = house.create().await;
    let second = house.create().await;
    house.node.fail_next("create", Error::internal("told to fail"));
    house.control.create(&house.me, CreateSandbox::default()).await.expect_err("fails");
    assert_eq!(now("sandbox_created_total{tier=container,template=host}"), 2.0);
    assert_eq!(now("sandbox_create_duration_seconds{tier=container}"), 2.0);
    assert_eq!(now("sandbox_active{}"), 2.0);
    assert_eq!(now("sandbox_ended_total{reason=interrupted}"), 0.0, "what never ran does not end");

    let data = house.data(&first.id).await;
    for words in [["/usr/bin/echo", "x"], ["./\u{1f980}", "x"]] {
        run(&data, &words).await.expect("runs");
    }
    for _ in 0..3 {
        data.exec(argv(&["true"]), Some("once".into())).await.expect("runs");
    }
    let background = ExecRequest { background: true, ..argv(&["sleep"]) };
    let background = data.exec(background, None).await.expect("runs");
    assert_eq!(now("sandbox_exec_total{tier=container,command_class=echo}"), 1.0);
    assert_eq!(now("sandbox_exec_total{tier=container,command_class=true}"), 1.0, "a repetition is no exec");
    assert_eq!(now("sandbox_exec_total{tier=container,command_class=other}"), 2.0);
    assert_eq!(now("sandbox_exec_duration_seconds{tier=container}"), 3.0);
    data.exec_signal(&background.id, 9, true).await.expect("is ended");
    while now("sandbox_exec_duration_seconds{tier=container}") < 4.0 {
        tokio::task::yield_now().await;
    }

    house.control.stop(&house.me, second.id.as_str()).await.expect("is stopped");
    assert_eq!(now("sandbox_active{}"), 1.0);
    house.control.delete(&house.me, first.id.as_str()).await.expect("is deleted");
    house.control.delete(&house.me, second.id.as_str()).await.expect("is deleted");
    house.create_for(60).await;
    house.pass(60).await;
    assert_eq!(now("sandbox_active{}"), 0.0);
    assert_eq!(now("sandbox_ended_total{reason=killed}"), 2.0);
    assert_eq!(now("sandbox_ended_total{reason=timeout}"), 1.0);
}
