//! Conversations that stay up or break: TCP with an echo, and pings.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::space::Namespace;

/// How long an answer may take: on a wire in memory that is long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers with what it got. Its thread ends with the process.
pub(crate) struct Server {
    address: SocketAddr,
}

impl Server {
    pub(crate) fn new(space: &Namespace, ip: IpAddr, port: u16) -> Self {
        let address = SocketAddr::new(ip, port);
        let listener = space.run(|| TcpListener::bind(address)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        Self { address }
    }

    /// Opens a conversation from a namespace; none: no answer.
    pub(crate) fn connect(&self, from: &Namespace, patience: Duration) -> Option<Conversation> {
        match from.run(|| TcpStream::connect_timeout(&self.address, patience)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Some(Conversation { stream })
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => None,
            Err(error) => panic!("connecting to {}: {error}", self.address),
        }
    }

    /// Opens a conversation and has a few words.
    pub(crate) fn converse(&self, from: &Namespace) -> Conversation {
        let mut conversation =
            self.connect(from, PATIENCE).unwrap_or_else(|| panic!("{} does not answer", self.address));
        conversation.go_on();
        conversation
    }
}

/// An open conversation.
pub(crate) struct Conversation {
    stream: TcpStream,
}

impl Conversation {
    /// Ten words and their answers.
    pub(crate) fn go_on(&mut self) {
        for word in 0..10_u8 {
            let mut answer = [0];
            self.stream.write_all(&[word]).unwrap();
            self.stream.read_exact(&mut answer).expect("the conversation is up");
            assert_eq!(answer, [word]);
        }
    }

    /// Whether a word has no answer for so long.
    pub(crate) fn is_silent(&mut self, patience: Duration) -> bool {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        self.stream.write_all(&[0]).unwrap();
        self.stream.read_exact(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// Sends echo requests; returns how many were sent without an error and how many were answered.
pub(crate) fn ping(from: &Namespace, to: IpAddr, count: u32) -> (u32, u32) {
    let IpAddr::V4(to) = to else { panic!("IPv4 only") };
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
    let open = || socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp);
    let socket: OwnedFd = from.run(open).unwrap();
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 200_000)).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    let (mut sent, mut answered) = (0, 0);
    for sequence in 0..count {
        // Type 8, code 0, checksum, identifier 1, sequence.
        let mut echo = [8, 0, 0, 0, 0, 1, 0, sequence.to_be_bytes()[3]];
        let checksum = !(0x0801 + sequence);
        echo[2..4].copy_from_slice(&checksum.to_be_bytes()[2..4]);
        sent += u32::from(sendto(fd, &echo, &to, MsgFlags::empty()).is_ok());
        let mut answer = [0; 64];
        // Behind the IP header of 20 bytes: type 0.
        let length = recv(fd, &mut answer, MsgFlags::empty()).unwrap_or_default();
        answered += u32::from(length >= 28 && answer[20] == 0);
    }
    (sent, answered)
}
