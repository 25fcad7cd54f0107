//! Hash tables whose elements are written and removed many at a time (`BPF_MAP_UPDATE_BATCH` and `BPF_MAP_DELETE_BATCH`, Linux 5.6),
//! which the library has no calls for. The kernel goes through them one by one, in their order, each at once and without a gap
//! for its readers, as in calls of their own.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Pod;
use aya::maps::{Map, MapData, MapError};
use aya::sys::SyscallError;
use nix::libc;

use super::chain;
use crate::kernel::KernelError;

/// Elements of one call at most. Whoever has more to write or remove collects no more than these for a call: see `portion`.
pub(super) const AT_ONCE: usize = 512;
/// Bytes of the values of one call at most, where [`Table::fill`] makes them: a counter has some 540 for each CPU.
const BYTES_AT_ONCE: usize = 4 << 20;

/// Commands of bpf(2), by their numbers in include/uapi/linux/bpf.h.
#[derive(Clone, Copy)]
enum Command {
    Update = 26,
    Delete = 27,
}

impl Command {
    const fn name(self) -> &'static str {
        match self {
            Self::Update => "bpf_map_update_batch",
            Self::Delete => "bpf_map_delete_batch",
        }
    }
}

/// What such a call takes: `batch` of `union bpf_attr` in include/uapi/linux/bpf.h.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// Elements; the kernel writes here how many it has come through.
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// A hash table, each of whose keys has one value, or one for each CPU.
pub(super) struct Table<K, V> {
    map: MapData,
    /// Values of a key.
    width: usize,
    kinds: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// The kernel pads values for CPUs to eight bytes; ours are of that size without it.
    const IS_PADDED: () = assert!(size_of::<V>().is_multiple_of(8));

    /// Takes a map, which has `width` values of a key: 1, or as many as CPUs.
    ///
    /// # Errors
    /// When it is of another kind, or has keys or values of other sizes.
    pub(super) fn new(name: &'static str, map: Map, width: usize) -> Result<Self, KernelError> {
        let () = Self::IS_PADDED;
        let (Map::HashMap(map) | Map::PerCpuHashMap(map)) = map else {
            return Err(KernelError::Missing(name));
        };
        let info = map.info().map_err(|error| KernelError::Load(format!("{name}: {}", chain(&error))))?;
        let sizes = [info.key_size(), info.value_size()].map(usize::try_from);
        if sizes != [Ok(size_of::<K>()), Ok(size_of::<V>())] {
            return Err(KernelError::Load(format!("{name}: keys or values of another size: {sizes:?}")));
        }
        Ok(Self { map, width, kinds: PhantomData })
    }

    /// Writes or replaces elements, with the values of one behind those of the other. Returns how many were written, from the first
    /// on, and why the next one was not.
    pub(super) fn put(&self, keys: &[K], values: &[V]) -> (usize, Result<(), MapError>) {
        let pairs = keys.chunks(AT_ONCE).zip(values.chunks(AT_ONCE * self.width));
        until_refused(pairs.map(|(keys, values)| self.call(Command::Update, keys, values)))
    }

    /// Writes or replaces elements, all values of all of them being `value`. Returns as [`Self::put`].
    pub(super) fn fill(&self, keys: &[K], value: V) -> (usize, Result<(), MapError>) {
        let at_once = elements_at_once(size_of::<V>() * self.width);
        let values = vec![value; keys.len().min(at_once) * self.width];
        until_refused(keys.chunks(at_once).map(|keys| {
            self.call(Command::Update, keys, values.get(..keys.len() * self.width).unwrap_or(&values))
        }))
    }

    /// Removes elements; that one is not there is fine. Returns how many are gone, from the first on, and why the next one is not.
    pub(super) fn remove(&self, keys: &[K]) -> (usize, Result<(), MapError>) {
        let mut done = 0;
        while done < keys.len() {
            let rest = keys.get(done..).unwrap_or_default();
            let calls = rest.chunks(AT_ONCE).map(|keys| self.call(Command::Delete, keys, &[]));
            let (more, outcome) = until_refused(calls);
            done += more;
            match outcome {
                // The kernel has stopped at it.
                Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
                    done += 1;
                }
                Err(error) => return (done, Err(error)),
                Ok(()) => {}
            }
        }
        (done, Ok(()))
    }

    /// One call. Returns as the callers do.
    fn call(&self, command: Command, keys: &[K], values: &[V]) -> (usize, Result<(), MapError>) {
        let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let map = u32::try_from(self.map.fd().as_fd().as_raw_fd()).unwrap_or(u32::MAX);
        let mut attributes = Attributes {
            keys: keys.as_ptr().addr() as u64,
            values: values.as_ptr().addr() as u64,
            count,
            map,
            ..Attributes::default()
        };
        // SAFETY: the kernel reads `count` keys, and `width` values for each of them if it is an update; both types are the map's,
        // and values for CPUs need no padding. It writes to the attributes alone, which are as long as it is told.
        let outcome = unsafe {
            libc::syscall(libc::SYS_bpf, command as u32, &raw mut attributes, size_of::<Attributes>())
        };
        if outcome == 0 {
            return (keys.len(), Ok(()));
        }
        let error = SyscallError { call: command.name(), io_error: io::Error::last_os_error() };
        // A call that is refused as a whole leaves the number as it was.
        let done = usize::try_from(attributes.count).ok().filter(|done| *done < keys.len());
        (done.unwrap_or(0), Err(error.into()))
    }
}

/// Elements of a call whose values take so many bytes each.
fn elements_at_once(bytes: usize) -> usize {
    (BYTES_AT_ONCE / bytes.max(1)).clamp(1, AT_ONCE)
}

/// Makes calls until one is not carried out as a whole.
fn until_refused(
    calls: impl Iterator<Item = (usize, Result<(), MapError>)>,
) -> (usize, Result<(), MapError>) {
    let mut done = 0;
    for (more, outcome) in calls {
        done += more;
        if outcome.is_err() {
            return (done, outcome);
        }
    }
    (done, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_made_for_a_call_take_little_memory_on_however_many_cpus() {
        let counter = size_of::<fault_abi::counter::Counter>();
        assert_eq!(elements_at_once(counter * 2), AT_ONCE);
        for cpus in [64, 512, 4_096] {
            let bytes = elements_at_once(counter * cpus) * counter * cpus;
            assert!(bytes <= BYTES_AT_ONCE, "{cpus} CPUs: {bytes}");
        }
    }
}
