//! What `cargo xtask` is made of, as a library, so that tests and verbs share it.
//!
//! * verbs, a file each: [`build_ebpf`], [`crds`], [`cluster`], [`images`], [`test`], [`check`], [`bench`], [`demo`]
//! * what they stand on: [`binaries`] builds a cluster's programs, [`cmd`] runs programs, [`cleanup`] joins errors, `cpus` keeps threads on them, [`digest`] makes keys of caches, [`lock`] keeps processes
//!   apart, [`progress`] shows what takes long, [`paths`] says where things lie, [`stamp`] which sources were built there, [`tools`] sees to programs and packages of the machine, [`vm`] runs a
//!   program under another kernel

pub mod args;
pub mod binaries;
pub mod cleanup;
pub mod cmd;
mod cpus;
pub mod digest;
pub mod interrupt;
pub mod lock;
pub mod paths;
pub mod progress;
pub mod stamp;
pub mod tools;
pub mod vm;
pub mod wait;

pub mod bench;
pub mod build_ebpf;
pub mod check;
pub mod cluster;
pub mod crds;
pub mod demo;
pub mod images;
pub mod test;
