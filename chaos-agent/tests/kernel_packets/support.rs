//! What the stories are told with: namespaces, wires, numbered packets, captures, the agent's kernel layer, and
//! an agent in a process of its own.

pub(crate) mod agent;
pub(crate) mod attached;
pub(crate) mod behind;
pub(crate) mod capture;
pub(crate) mod child;
pub(crate) mod conversation;
pub(crate) mod cpu;
pub(crate) mod datagram;
pub(crate) mod engines;
pub(crate) mod fault;
pub(crate) mod numbers;
pub(crate) mod space;
pub(crate) mod stage;
pub(crate) mod time;
pub(crate) mod traffic;
pub(crate) mod tun;
pub(crate) mod working;
