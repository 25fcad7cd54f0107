//! Where a frame has its addresses and ports.
