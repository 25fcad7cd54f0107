//! From the last act of a leader that ends to the Lease that it gives away: what only costs time comes after that.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// All that act while this process leads.
#[derive(Debug, Default)]
pub struct Cast {
    acting: TaskTracker,
    left: CancellationToken,
}

/// The part of one that acts. Dropped, it has ended.
#[derive(Debug)]
pub struct Part {
    acts: TaskTrackerToken,
    left: CancellationToken,
}

impl Cast {
    /// A part of its own.
    pub fn part(&self) -> Part {
        Part { acts: self.acting.token(), left: self.left.clone() }
    }

    /// Ends when nobody acts any more.
    pub async fn is_still(&self) {
        self.acting.close();
        self.acting.wait().await;
    }

    /// The Lease was given away, or is another's.
    pub fn has_left(&self) {
        self.left.cancel();
    }
}

impl Part {
    /// Acts no more, and waits until the Lease is given away: so thousands of questions that nobody waits for are put away while the
    /// next leader is at work already.
    pub async fn ends(self) {
        let Self { acts, left } = self;
        drop(acts);
        left.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_lease_waits_for_all_that_act_and_what_they_leave_waits_for_the_lease() {
        let cast = Cast::default();
        let (first, second) = (cast.part(), cast.part());
        let mut still = std::pin::pin!(cast.is_still());
        let mut first_ends = std::pin::pin!(first.ends());
        assert_eq!((first_ends.as_mut().now_or_never(), still.as_mut().now_or_never()), (None, None));
        drop(second);
        assert_eq!((first_ends.as_mut().now_or_never(), still.as_mut().now_or_never()), (None, Some(())));
        cast.has_left();
        assert_eq!(first_ends.now_or_never(), Some(()));
    }
}
