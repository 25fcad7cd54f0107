//! The operator under simulation, and the API server that it meets there. No released program uses this.
//!
//! * [`server`]: an API server in memory, with Kubernetes' rules of writing and watching. It passes the same
//!   conformance stories as the real one.

pub mod server;
