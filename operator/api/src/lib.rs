//! edge-api.
