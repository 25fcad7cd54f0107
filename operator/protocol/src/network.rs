//! The datagram network as both ends use it: UDP of this machine, or one that a simulation plays.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::net::UdpSocket;

/// What ends later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A bound UDP port.
pub trait Port: Debug + Send + Sync {
    /// Sends one datagram.
    fn send_to<'a>(&'a self, bytes: &'a [u8], peer: SocketAddr) -> Later<'a, usize>;

    /// Waits for one datagram; what does not fit into `buffer` is cut off. Dropped before its end, it lost none.
    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Later<'a, (usize, SocketAddr)>;

    /// Where it is bound.
    ///
    /// # Errors
    /// What the system says.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A network.
pub trait Network: Debug + Send + Sync {
    /// Takes a port; port 0 takes a free one.
    fn bind(&self, address: SocketAddr) -> Later<'_, Box<dyn Port>>;
}

/// This machine's.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Network for System {
    fn bind(&self, address: SocketAddr) -> Later<'_, Box<dyn Port>> {
        Box::pin(async move {
            let socket: Box<dyn Port> = Box::new(UdpSocket::bind(address).await?);
            Ok(socket)
        })
    }
}

impl Port for UdpSocket {
    fn send_to<'a>(&'a self, bytes: &'a [u8], peer: SocketAddr) -> Later<'a, usize> {
        Box::pin(Self::send_to(self, bytes, peer))
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Later<'a, (usize, SocketAddr)> {
        Box::pin(Self::recv_from(self, buffer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}
