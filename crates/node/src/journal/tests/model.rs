use super::*;
use proptest::prelude::*;
use std::io::Read;

#[derive(Debug, Clone)]
enum Step {
    Write(usize),
    Pump(usize),
    Reopen,
    Read { offset: u64, max: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..20_000).prop_map(Step::Write),
        4 => (1usize..30_000).prop_map(Step::Pump),
        1 => Just(Step::Reopen),
        2 => (0u64..200_000, 1usize..40_000).prop_map(|(offset, max)| Step::Read { offset, max }),
    ]
}

/// The ranges that a journal of `limit` bytes holds after `total` bytes, by the rule in words: the head, and of the
/// later windows the newest two that have a byte.
fn expected(limit: u64, total: u64) -> Vec<(u64, u64)> {
    let segment = limit / 8;
    let head = limit - 2 * segment;
    if total <= head {
        return if total == 0 { vec![] } else { vec![(0, total)] };
    }
    let newest = (total - 1 - head) / segment;
    let tail = head + newest.saturating_sub(1) * segment;
    if tail == head { vec![(0, total)] } else { vec![(0, head), (tail, total)] }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_journal_holds_what_the_model_says(
        limit in 8u64..60_000,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let (read, mut write) = pipe();
        let id = exec(1);
        let mut writer = JournalWriter::create(dir.path(), &id, OUT, limit).expect("create");
        let reader = JournalReader::new(dir.path(), &id, OUT);
        let (mut written, mut pumped) = (0u64, 0u64);
        for step in steps {
            match step {
                Step::Write(length) => {
                    let room = (60_000 - (written - pumped)).min(length as u64);
                    if write.write_all(&sequence(written..written + room)).is_err() {
                        // Small writes can use up the pipe's slots; what went in is seen below.
                        let mut rest = Vec::new();
                        let _ = std::fs::File::from(read.try_clone().expect("dup")).read_to_end(&mut rest);
                        break;
                    }
                    written += room;
                }
                Step::Pump(budget) => {
                    let before = pumped;
                    match writer.pump(read.as_fd(), budget).expect("pump") {
                        Pumped::Moved(bytes) => pumped += bytes,
                        Pumped::WouldBlock => prop_assert_eq!(written, pumped),
                        Pumped::Eof => prop_assert!(false, "the writing end is open"),
                    }
                    prop_assert!(pumped - before <= budget as u64);
                }
                Step::Reopen => {
                    writer = JournalWriter::open(dir.path(), &id, OUT, limit).expect("open");
                }
                Step::Read { offset, max } => {
                    let piece = reader.read(offset, max, pumped).expect("read");
                    let range = expected(limit, pumped).into_iter().find(|range| range.1 > offset);
                    match range {
                        None => prop_assert!(piece.data.is_empty() && piece.start == pumped),
                        Some((start, end)) => {
                            let start = start.max(offset);
                            let end = end.min(start + max as u64);
                            prop_assert_eq!(piece.start, start);
                            prop_assert_eq!(piece.data.to_vec(), sequence(start..end));
                        }
                    }
                }
            }
            prop_assert_eq!(writer.total(), pumped);
            prop_assert_eq!(writer.lost(), 0);
            prop_assert!(super::super::usage(dir.path()).expect("usage") <= limit);
        }
        let ranges = held(&reader, pumped, 7_000);
        let truth: Vec<_> = expected(limit, pumped)
            .into_iter()
            .map(|(start, end)| (start, sequence(start..end)))
            .collect();
        prop_assert_eq!(ranges, truth);
    }
}
