//! edge-protocol.
