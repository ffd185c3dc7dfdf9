//! Faults, pauses, and what was seen.

use super::FakeNode;
use isopod_model::{EndReason, Ending, Error, Result, SandboxId};
use isopod_node_api::NodeEvent;
use tokio::sync::oneshot;

/// A call that will be kept waiting at the node's door.
pub(super) struct Held {
    call: &'static str,
    reached: oneshot::Sender<()>,
    released: oneshot::Receiver<()>,
}

/// Keeps the next call of one kind waiting at the node's door until it is released or dropped.
pub struct Hold {
    reached: Option<oneshot::Receiver<()>>,
    released: Option<oneshot::Sender<()>>,
}

impl Hold {
    /// Returns once the call stands at the door.
    ///
    /// # Panics
    /// When the node is dropped before that.
    pub async fn reached(&mut self) {
        if let Some(reached) = self.reached.take() {
            reached.await.expect("the node is there");
        }
    }

    /// Lets the call in.
    pub fn release(mut self) {
        self.released.take();
    }
}

impl FakeNode {
    /// Makes the next call of that name fail before it does anything.
    pub fn fail_next(&self, call: &'static str, error: Error) {
        self.lock().faults.push((call, error));
    }

    /// Keeps the next call of that name waiting.
    pub fn hold(&self, call: &'static str) -> Hold {
        let (reached_sender, reached) = oneshot::channel();
        let (released, released_receiver) = oneshot::channel();
        self.lock().holds.push(Held { call, reached: reached_sender, released: released_receiver });
        Hold { reached: Some(reached), released: Some(released) }
    }

    /// How often a call of that name came.
    pub fn calls(&self, call: &'static str) -> u64 {
        self.lock().calls.get(call).copied().unwrap_or(0)
    }

    /// Ends a sandbox's shell unasked, as the kernel would, and tells those who listen.
    ///
    /// # Panics
    /// When there is no such sandbox, or its shell is down.
    pub fn kill(&self, id: &SandboxId) {
        assert!(self.kill_if_running(id), "{id} is there and runs");
    }

    /// Like [`FakeNode::kill`] for a sandbox whose shell may be down, or that may be gone; whether it was up.
    pub fn kill_if_running(&self, id: &SandboxId) -> bool {
        let Some(ending) = self.kill_silently(id) else { return false };
        // An error means that nobody listens.
        let _ = self.events.send(NodeEvent::Died { id: id.clone(), ending });
        true
    }

    /// Ends a sandbox's shell, and the event is lost; its ending if it was up.
    pub fn kill_silently(&self, id: &SandboxId) -> Option<Ending> {
        let now = self.clock.now();
        let ending = Ending::new(EndReason::Oom, now, "kernel", "its memory limit was reached");
        let killed = self.with(id, |sandbox| {
            let running = sandbox.running;
            if running {
                sandbox.end_shell(now, EndReason::Oom, ending.clone());
            }
            Ok(running)
        });
        (killed == Ok(true)).then_some(ending)
    }

    /// Fails the test if the seam was used in a way it forbids.
    ///
    /// # Panics
    /// When it was.
    pub fn assert_no_violations(&self) {
        let violations = self.lock().violations.clone();
        assert!(violations.is_empty(), "the seam was used wrongly: {violations:#?}");
    }

    /// What every call passes first.
    pub(super) async fn door(&self, call: &'static str) -> Result<()> {
        let held = {
            let mut state = self.lock();
            *state.calls.entry(call).or_default() += 1;
            if state.shut_down.is_some() {
                state.violations.push(format!("{call} after shutdown"));
            }
            let position = state.holds.iter().position(|held| held.call == call);
            position.map(|position| state.holds.remove(position))
        };
        if let Some(held) = held {
            // Errors of both mean that the test let go of it.
            let _ = held.reached.send(());
            let _ = held.released.await;
        }
        let mut state = self.lock();
        let position = state.faults.iter().position(|(name, _)| *name == call);
        match position {
            Some(position) => Err(state.faults.remove(position).1),
            None => Ok(()),
        }
    }
}
