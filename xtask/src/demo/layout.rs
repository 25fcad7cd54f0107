//! How many devices are where. Pure.

/// Pods of simulated devices: one on each node.
pub const PODS: u32 = 2;

/// How many devices are where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// In each of the [`PODS`].
    pub per_pod: u32,
    /// Outside the cluster.
    pub outside: u32,
}

impl Layout {
    /// `devices` of them. With a place outside the cluster a fifth of them is there, and at least ten if there are so many; without one
    /// an odd number is rounded up.
    #[must_use]
    pub fn of(devices: u32, outside: bool) -> Self {
        if !outside {
            return Self { per_pod: devices.div_ceil(PODS), outside: 0 };
        }
        let wanted = (devices / 5).max(10).min(devices);
        let per_pod = (devices - wanted) / PODS;
        Self { per_pod, outside: devices - per_pod * PODS }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.per_pod * PODS + self.outside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_devices_are_twenty_in_each_pod_and_ten_outside() {
        assert_eq!(Layout::of(50, true), Layout { per_pod: 20, outside: 10 });
        assert_eq!(Layout::of(50, false), Layout { per_pod: 25, outside: 0 });
    }

    #[test]
    fn every_device_has_a_place() {
        for devices in 1..500 {
            assert_eq!(Layout::of(devices, true).total(), devices);
            assert!(Layout::of(devices, true).outside >= devices.min(10));
            assert!((devices..=devices + 1).contains(&Layout::of(devices, false).total()));
        }
    }
}
