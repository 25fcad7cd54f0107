//! The CPUs of this machine that xtask may use.

use nix::Result;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// This thread, to both calls.
const HERE: Pid = Pid::from_raw(0);

/// Those on which this thread may run, each by itself, in their order.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn allowed() -> Result<Vec<CpuSet>> {
    let allowed = sched_getaffinity(HERE)?;
    let one = |cpu| {
        let mut one = CpuSet::new();
        (allowed.is_set(cpu) == Ok(true) && one.set(cpu).is_ok()).then_some(one)
    };
    Ok((0..CpuSet::count()).filter_map(one).collect())
}

/// Keeps this thread, and those that it makes, on these.
///
/// # Errors
/// When they are none, or gone.
pub(crate) fn stay_on(cpus: &CpuSet) -> Result<()> {
    sched_setaffinity(HERE, cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cpu_that_is_allowed_is_there_by_itself() {
        let numbers = |set: &CpuSet| -> Vec<usize> {
            (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect()
        };
        let each = allowed().unwrap();
        assert!(each.iter().all(|one| numbers(one).len() == 1), "{each:?}");
        let all = numbers(&sched_getaffinity(HERE).unwrap());
        assert_eq!(each.iter().flat_map(numbers).collect::<Vec<_>>(), all);
    }
}
