//! What leaves the process towards devices.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::leader::guard::Leadership;
use crate::link::socket::{Datagrams, Sockets};

/// The sockets, for a leader: each datagram is a command or leads to one, also the fourth of an exchange.
pub struct WhileLeading {
    pub(super) sockets: Arc<Sockets>,
    pub(super) leadership: Leadership,
}

impl Datagrams for WhileLeading {
    async fn send(&self, peer: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.leadership.check().map_err(io::Error::other)?;
        self.sockets.send(peer, bytes).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::UdpSocket;
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test]
    async fn no_datagram_leaves_a_process_that_does_not_lead() {
        let device = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let peer = device.local_addr().unwrap();
        let leadership = Leadership::none();
        let sockets = Arc::new(Sockets::bind().await.unwrap());
        let outlet = WhileLeading { sockets, leadership: leadership.clone() };
        assert!(outlet.send(peer, b"before").await.is_err());
        leadership.grant(7, Instant::now() + Duration::from_secs(60));
        outlet.send(peer, b"leading").await.unwrap();
        leadership.end();
        assert!(outlet.send(peer, b"after").await.is_err());
        let mut buffer = [0; 16];
        let patience = Duration::from_secs(5);
        let length = timeout(patience, device.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..length], b"leading");
        assert!(device.try_recv(&mut buffer).is_err(), "one datagram alone");
    }
}
