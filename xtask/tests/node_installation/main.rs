//! The installation as users install it, on a cluster of two nodes: node1 takes packets by XDP in the driver, node2 by TC
//! alone. One installation for all stories; each leaves it as it found it.
//!
//! ```text
//!  world     the installation, and asking it            stories: life, exactness, deaths, pods,
//!  traffic   numbered packets, captures at both ends             devices, reach, readme, rights
//!  probe     a packet every few milliseconds
//!  counters  what an agent's or operator's page counts
//! ```

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end at what they cannot have")]

mod counters;
mod probe;
mod traffic;
mod world;

mod deaths;
mod devices;
mod exactness;
mod life;
mod pods;
mod reach;
mod readme;
mod rights;
