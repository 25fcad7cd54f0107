//! The kernel programs on a test rig: loaded, their maps filled, run on a frame by `BPF_PROG_TEST_RUN`, attached to
//! no interface. For the tests of the kernel rung and for `cargo xtask bench`; the agent has its own loader.
//!
//! * [`Rig`]: an object's programs and maps
//! * [`frame`]: frames to run them on
//! * [`figures`]: what a benchmark has measured

pub mod figures;
pub mod frame;
mod maps;

use std::time::Duration;

use aya::maps::{MapError, ProgramArray};
use aya::programs::{Program, ProgramError, ProgramFd, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfError, EbpfLoader};
use fault_abi::filter::Filter;
use fault_abi::names;
use thiserror::Error;

/// What fails on a rig.
#[derive(Debug, Error)]
pub enum RigError {
    /// The object cannot be read, or its maps cannot be made.
    #[error("loading the object: {0}")]
    Object(#[from] EbpfError),
    /// The kernel refused a program.
    #[error("program {name}: {source}")]
    Program {
        /// Which.
        name: String,
        /// What the kernel said, the verifier's log included.
        source: ProgramError,
    },
    /// The kernel refused a change or a read of a map.
    #[error("map {name}: {source}")]
    Map {
        /// Which.
        name: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// The object lacks something; an old build.
    #[error("the object has no {0}: run `cargo xtask build-ebpf`")]
    Missing(String),
    /// The clock cannot be read.
    #[error("reading CLOCK_BOOTTIME: {0}")]
    Clock(#[from] nix::Error),
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the program returned (the last time).
    pub code: u32,
    /// How long one run took, on average over all repeats, as the kernel measured.
    pub duration: Duration,
}

/// Length of `struct __sk_buff` of linux/bpf.h.
const SKB: usize = 192;
/// Where its `cb` is, of five words.
const CB: usize = 48;
/// Where its `gso_size` is.
const GSO_SIZE: usize = 176;
/// The errand of a packet that comes from the splitter: `SPLIT` of `errand.rs` in the programs. A rig's packets with another one are
/// not decided on as such, which shows in what is counted.
const FROM_SPLITTER: u32 = 2;

/// What the kernel is told of a packet beside its bytes.
struct Context([u8; SKB]);

impl Context {
    const fn new() -> Self {
        Self([0; SKB])
    }

    fn with(mut self, at: usize, word: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        self
    }
}

/// An object's programs, loaded, and its maps.
pub struct Rig {
    programs: Ebpf,
    generation: u64,
    filter: Box<Filter>,
}

impl std::fmt::Debug for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rig").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Rig {
    /// Loads all programs of an object. The program arrays stay empty, but for what decides about the packets that hooks have found:
    /// see [`Rig::connect`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load(object: &[u8]) -> Result<Self, RigError> {
        // No lines of the programs' log: nobody reads them here, and they cost more than the rest.
        let mut programs = EbpfLoader::new().override_global(names::LOG_LEVEL, &0_u8, false).load(object)?;
        for (name, program) in programs.programs_mut() {
            let loaded = match program {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                _ => continue,
            };
            loaded.map_err(|source| RigError::Program { name: name.to_owned(), source })?;
        }
        let mut rig = Self { programs, generation: 0, filter: Box::default() };
        if rig.programs.program(names::TC_JUDGE).is_some() {
            rig.connect(names::PROGRAMS_TC, names::SLOT_TC_JUDGE, names::TC_JUDGE)?;
        }
        Ok(rig)
    }

    /// Puts a program where a dispatcher finds it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn connect(&mut self, array: &'static str, slot: u32, name: &str) -> Result<(), RigError> {
        let fd = self.fd(name)?;
        let map = self.programs.map_mut(array).ok_or_else(|| RigError::Missing(array.to_owned()))?;
        let refused = |source| RigError::Map { name: array, source };
        ProgramArray::try_from(map).map_err(refused)?.set(slot, &fd, 0).map_err(refused)
    }

    /// Connects all programs to their dispatchers, as the agent does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn connect_all(&mut self) -> Result<(), RigError> {
        for (slot, name) in names::TC_SLOTS {
            self.connect(names::PROGRAMS_TC, slot, name)?;
        }
        self.connect(names::PROGRAMS_XDP, names::SLOT_XDP_INGRESS, names::XDP_INGRESS)
    }

    /// Connects the programs that decide to their dispatchers, and not those that carry out what was decided: a packet with a plan is
    /// dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn connect_deciding(&mut self) -> Result<(), RigError> {
        let carries_out = [
            names::SLOT_TC_ACT_INGRESS,
            names::SLOT_TC_ACT_EGRESS,
            names::SLOT_TC_REJECT_INGRESS,
            names::SLOT_TC_REJECT_EGRESS,
        ];
        for (slot, name) in names::TC_SLOTS.into_iter().filter(|(slot, _)| !carries_out.contains(slot)) {
            self.connect(names::PROGRAMS_TC, slot, name)?;
        }
        self.connect(names::PROGRAMS_XDP, names::SLOT_XDP_INGRESS, names::XDP_INGRESS)
    }

    /// Runs a program on a frame, `repeat` times.
    ///
    /// # Errors
    /// When there is no such program or the kernel refuses to run it.
    pub fn run(&self, name: &str, frame: &[u8], repeat: u32) -> Result<Outcome, RigError> {
        self.run_with(name, TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() })
    }

    /// Runs a TC program on a frame that says to be one of segments of `gso_size` bytes.
    ///
    /// # Errors
    /// As [`Rig::run`].
    pub fn run_gso(&self, name: &str, frame: &[u8], gso_size: u32) -> Result<Outcome, RigError> {
        self.run_in(name, frame, Context::new().with(GSO_SIZE, gso_size))
    }

    /// Runs a TC program on a frame that has passed the splitter, on a rig whose line has this magic number.
    ///
    /// # Errors
    /// As [`Rig::run`].
    pub fn run_split(&self, name: &str, frame: &[u8], magic: u64) -> Result<Outcome, RigError> {
        #[expect(clippy::cast_possible_truncation, reason = "it is this half that a packet carries")]
        self.run_in(name, frame, Context::new().with(CB + 12, FROM_SPLITTER).with(CB + 16, magic as u32))
    }

    fn run_in(&self, name: &str, frame: &[u8], context: Context) -> Result<Outcome, RigError> {
        let mut out = [0; SKB];
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context.0),
            ctx_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        self.run_with(name, options)
    }

    /// Instructions that the verifier walked for each program, by name; a million is its limit.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn verified(&self) -> Result<Vec<(String, u32)>, RigError> {
        let all = self.programs.programs().map(|(name, program)| {
            let refused = |source| RigError::Program { name: name.to_owned(), source };
            let info = program.info().map_err(refused)?;
            Ok((name.to_owned(), info.verified_instruction_count().unwrap_or_default()))
        });
        all.collect()
    }

    fn run_with(&self, name: &str, options: TestRunOptions<'_>) -> Result<Outcome, RigError> {
        let result = match self.program(name)? {
            Program::Xdp(program) => program.test_run(options),
            Program::SchedClassifier(program) => program.test_run(options),
            _ => return Err(RigError::Missing(name.to_owned())),
        };
        let result = result.map_err(|source| RigError::Program { name: name.to_owned(), source })?;
        Ok(Outcome { code: result.return_value, duration: result.duration })
    }

    fn program(&self, name: &str) -> Result<&Program, RigError> {
        self.programs.program(name).ok_or_else(|| RigError::Missing(name.to_owned()))
    }

    fn fd(&self, name: &str) -> Result<ProgramFd, RigError> {
        let fd = match self.program(name)? {
            Program::Xdp(program) => program.fd().and_then(|fd| Ok(fd.try_clone()?)),
            Program::SchedClassifier(program) => program.fd().and_then(|fd| Ok(fd.try_clone()?)),
            _ => return Err(RigError::Missing(name.to_owned())),
        };
        fd.map_err(|source| RigError::Program { name: name.to_owned(), source })
    }
}

/// So many times slower than a real machine is this one, where it is emulated: `EDGE_TEST_SLOWER` says so.
///
/// # Panics
/// When that is no whole number.
#[expect(clippy::expect_used, reason = "for tests: they cannot go on without it")]
pub fn slower() -> u64 {
    let slower = std::env::var("EDGE_TEST_SLOWER").ok();
    slower.map_or(1, |slower| slower.parse().expect("EDGE_TEST_SLOWER is a whole number"))
}

/// CLOCK_BOOTTIME in nanoseconds: the clock of rules.
///
/// # Errors
/// When it cannot be read.
pub fn now_ns() -> Result<u64, RigError> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}
