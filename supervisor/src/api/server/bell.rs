//! Wakes a connection's task, but not while it has its turn: what its own requests answer then is seen to before the turn ends.
//!
//! What always holds: whoever rings after the last look of a turn is heard, by that turn or the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Wake, Waker};

use futures::task::AtomicWaker;

const IDLE: u8 = 0;
const TURN: u8 = 1;
const RUNG: u8 = 2;

#[derive(Default)]
pub struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, Ordering::AcqRel) == IDLE {
            self.task.wake();
        }
    }
}

impl Bell {
    /// The task's turn begins.
    pub fn begin(&self, task: &Waker) {
        self.task.register(task);
    }

    /// The task looks at everything now: who rang before is heard.
    pub fn look(&self) {
        self.state.store(TURN, Ordering::Release);
    }

    /// The turn ends; whether anybody rang since the last look.
    pub fn end(&self) -> bool {
        self.state.swap(IDLE, Ordering::AcqRel) == RUNG
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_is_woken_between_its_turns_and_told_at_the_end_of_one() {
        let (bell, count) = (Arc::new(Bell::default()), Arc::new(Count::default()));
        let woken = || count.0.load(Ordering::Relaxed);
        let ring = Waker::from(Arc::clone(&bell));
        bell.begin(&Waker::from(Arc::clone(&count)));
        bell.look();
        ring.wake_by_ref();
        bell.look();
        assert!(!bell.end());
        assert_eq!(woken(), 0);
        ring.wake_by_ref();
        ring.wake_by_ref();
        assert_eq!(woken(), 1);
        bell.begin(&Waker::from(Arc::clone(&count)));
        bell.look();
        ring.wake_by_ref();
        assert!(bell.end());
        assert_eq!(woken(), 1);
    }
}
