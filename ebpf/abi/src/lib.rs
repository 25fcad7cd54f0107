//! The border between kernel and host.
#![no_std]
