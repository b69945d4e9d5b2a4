//! Which rollouts are under way: while one is, replicas drain, and whoever fetches
//! their last counts wants to know.

use std::sync::Arc;

use tokio::sync::watch;

/// The rollouts under way; clones share them.
#[derive(Debug, Clone)]
pub struct Rollouts(Arc<watch::Sender<usize>>);

impl Default for Rollouts {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Rollouts {
    /// A rollout begins; it ends when the answer is dropped.
    #[must_use]
    pub fn begin(&self) -> UnderWay {
        self.0.send_modify(|under_way| *under_way += 1);
        UnderWay(self.clone())
    }

    /// Whether any is under way.
    #[must_use]
    pub fn any_under_way(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Told of every begin and end.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }
}

/// A rollout under way.
#[derive(Debug)]
pub struct UnderWay(Rollouts);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.send_modify(|under_way| *under_way = under_way.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rollout_is_under_way_until_its_token_is_dropped_and_each_change_is_told() {
        let rollouts = Rollouts::default();
        let mut changes = rollouts.watch();
        let first = rollouts.begin();
        let second = rollouts.clone().begin();
        assert!(changes.has_changed().unwrap());
        drop(first);
        assert!(rollouts.any_under_way());
        drop(second);
        assert!(!rollouts.any_under_way());
        changes.changed().await.unwrap();
        assert_eq!(*changes.borrow_and_update(), 0);
    }
}
