//! The programs at the ends of the delay line and the splitter: attached when these are made, and again when somebody else has
//! removed one, as is the queue of a line of the engine `fq`. Without them packets would vanish there, or leave the line before their time.

use std::sync::{Arc, Mutex, PoisonError};

use fault_abi::names;

use super::AyaKernel;
use super::attach::Placed;
use crate::kernel::{Devices, Interface, KernelError, LineEnds};
use crate::line::ends::Device;
use crate::line::queue;
use crate::splitter::Splitter;

/// A program at an end of a device of ours.
pub(super) struct End {
    device: Device,
    interface: Interface,
    program: &'static str,
    /// It works on when this agent is gone.
    outlives: bool,
    /// None: somebody else has removed it.
    placed: Option<Placed>,
}

impl End {
    /// One that is not attached yet, and goes with the agent.
    fn new(device: Device, interface: &Interface, program: &'static str) -> Self {
        Self { device, interface: interface.clone(), program, outlives: false, placed: None }
    }
}

/// Programs at ends. Those that outlive the hooks are held by two: whoever is the last detaches them.
#[derive(Clone, Default)]
pub(super) struct EndPrograms(Arc<Mutex<Vec<End>>>);

impl EndPrograms {
    fn with<T>(&self, work: impl FnOnce(&mut Vec<End>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AyaKernel {
    /// Attaches the programs at the ends of line and splitter.
    pub(super) fn attach_ends(&mut self, devices: &Devices) -> Result<(), KernelError> {
        let mut ends = Vec::new();
        if let Some(LineEnds { entry, end, is_fq: true }) = &devices.line {
            let of_line = [(end, names::LINE_END), (entry, names::LINE_START)];
            let of_line = of_line.map(|(at, program)| End::new(Device::Line, at, program));
            ends.extend(of_line.map(|end| End { outlives: true, ..end }));
        } else if let Some(LineEnds { end, .. }) = &devices.line {
            ends.push(End::new(Device::Line, end, names::LINE_END));
        }
        if let Some((_, far)) = &devices.splitter {
            ends.push(End::new(Device::Splitter, far, names::SPLITTER_END));
        }
        for end in &mut ends {
            self.attach_end(end)?;
        }
        let (lasting, others) = ends.into_iter().partition(|end| end.outlives);
        self.lasting.with(|all| *all = lasting);
        self.ends.with(|all| *all = others);
        Ok(())
    }

    /// Attaches the program at the end of a splitter, in the place of one that is gone.
    pub(super) fn attach_splitter(&mut self, splitter: &Splitter) -> Result<(), KernelError> {
        let ends = self.ends.clone();
        ends.with(|ends| {
            let gone = ends.extract_if(.., |end| end.device == Device::Splitter);
            gone.filter_map(|end| end.placed).for_each(Placed::forget);
        });
        let mut end = End::new(Device::Splitter, &splitter.far, names::SPLITTER_END);
        self.attach_end(&mut end)?;
        ends.with(|ends| ends.push(end));
        Ok(())
    }

    /// Looks whether programs and queue are still there, and puts back what is not. `tell` is told of each device that lacks one why
    /// packets cannot go through it, and once they can again: nothing.
    pub(super) fn mend_all_ends(&mut self, tell: &mut dyn FnMut(Device, Option<String>)) {
        for programs in [self.lasting.clone(), self.ends.clone()] {
            programs.with(|ends| {
                for device in [Device::Line, Device::Splitter] {
                    let of_it = ends.iter_mut().filter(|end| end.device == device);
                    self.mend(of_it, &mut |lack| tell(device, lack));
                }
            });
        }
    }

    fn mend<'a>(&mut self, ends: impl Iterator<Item = &'a mut End>, tell: &mut dyn FnMut(Option<String>)) {
        let mut missing: Vec<&mut End> = Vec::new();
        let mut bare: Vec<Interface> = Vec::new();
        for end in ends {
            let name = &end.interface.name;
            if let Some(lost) = end.placed.take_if(|placed| self.is_lost(&end.interface, placed)) {
                lost.forget();
                tell(Some(format!("somebody else has removed the program at {name}")));
            }
            if end.program == names::LINE_START && self.lacks_queue(&end.interface) {
                tell(Some(format!("{name} has not the queue that it was given")));
                bare.push(end.interface.clone());
            }
            missing.extend(Some(end).filter(|end| end.placed.is_none()));
        }
        if missing.is_empty() && bare.is_empty() {
            return;
        }
        let queues = bare.into_iter().filter_map(|interface| self.set_queue(interface).err());
        let failed: Vec<KernelError> = queues.collect();
        let failed =
            failed.into_iter().chain(missing.into_iter().filter_map(|end| self.attach_end(end).err()));
        let failed: Vec<KernelError> = failed.collect();
        tell(failed.first().map(ToString::to_string));
    }

    /// Whether a line's beginning has not the queue `fq` as it was made; where the kernel does not tell, it is taken to have it.
    fn lacks_queue(&self, near: &Interface) -> bool {
        match queue::is_set(near.index, self.queued()) {
            Ok(is_set) => !is_set,
            Err(error) => {
                tracing::debug!(interface = near.name, %error, "whether it has its queue is not known");
                false
            }
        }
    }

    fn set_queue(&self, near: Interface) -> Result<(), KernelError> {
        queue::set(near.index, self.queued())
            .map_err(|error| KernelError::Line { interface: near.name, reason: error.to_string() })
    }

    /// How many packets the queue has room for.
    fn queued(&self) -> u32 {
        u32::try_from(self.facts.packets).unwrap_or(u32::MAX)
    }

    /// Whether somebody else has removed it; where the kernel does not tell, it is taken to be there.
    fn is_lost(&self, interface: &Interface, placed: &Placed) -> bool {
        match self.is_placed(interface, placed) {
            Ok(is_placed) => !is_placed,
            Err(error) => {
                tracing::debug!(interface = interface.name, %error, "whether it has its program is not known");
                false
            }
        }
    }

    fn attach_end(&mut self, end: &mut End) -> Result<(), KernelError> {
        let refused = |reason| KernelError::Line { interface: end.interface.name.clone(), reason };
        // By its name somebody else's interface would be found, where this one is gone.
        if nix::net::if_::if_nametoindex(end.interface.name.as_str()) != Ok(end.interface.index) {
            return Err(refused("there is no such interface any more".to_owned()));
        }
        let placed = if end.outlives {
            self.attach_lasting(&end.interface, end.program)
        } else {
            self.attach_either(&end.interface, end.program)
        };
        end.placed = Some(placed.map_err(refused)?);
        Ok(())
    }
}
