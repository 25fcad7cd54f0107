//! Locking tables of this process.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The lock of a table whose critical sections are short and do not panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
