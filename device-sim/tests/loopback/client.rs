//! A small CoAP client for these tests: one socket, no retransmission, whole answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType};
use edge_protocol::{CommandId, DesiredCommand, Report, decode, encode};
use tokio::net::UdpSocket;

pub(crate) struct Client {
    socket: UdpSocket,
    next_id: u16,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) code: String,
    pub(crate) kind: MessageType,
    pub(crate) id: u16,
    pub(crate) token: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) observe: Option<u32>,
}

impl Client {
    pub(crate) async fn of(device: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(device).await.unwrap();
        Self { socket, next_id: 1 }
    }

    pub(crate) fn request(&mut self, method: RequestType, path: &str) -> Packet {
        let mut packet = Packet::new();
        packet.header.set_version(1);
        packet.header.set_type(MessageType::Confirmable);
        packet.header.code = MessageClass::Request(method);
        packet.header.message_id = self.next_id;
        self.next_id += 1;
        packet.set_token(vec![0xcc, 0x01]);
        packet.add_option(CoapOption::UriPath, path.as_bytes().to_vec());
        packet
    }

    pub(crate) fn get_request(&mut self) -> Vec<u8> {
        self.request(RequestType::Get, "state").to_bytes().unwrap()
    }

    pub(crate) fn put_request(&mut self, command: &DesiredCommand) -> Vec<u8> {
        let mut packet = self.request(RequestType::Put, "desired");
        packet.add_option(CoapOption::ContentFormat, vec![60]);
        packet.payload = encode(command).unwrap();
        packet.to_bytes().unwrap()
    }

    /// Asks for the state, and to be told of changes (0) or no more (1).
    pub(crate) async fn observe(&mut self, value: u32) -> Answer {
        let mut packet = self.request(RequestType::Get, "state");
        packet.set_observe_value(value);
        self.exchange(&packet.to_bytes().unwrap()).await
    }

    pub(crate) async fn get_state(&mut self) -> Answer {
        let request = self.get_request();
        self.exchange(&request).await
    }

    pub(crate) async fn put(&mut self, command: &DesiredCommand) -> Answer {
        let request = self.put_request(command);
        self.exchange(&request).await
    }

    pub(crate) async fn exchange(&self, request: &[u8]) -> Answer {
        self.send(request).await;
        self.receive().await
    }

    pub(crate) async fn send(&self, request: &[u8]) {
        self.socket.send(request).await.unwrap();
    }

    pub(crate) async fn receive(&self) -> Answer {
        let mut buffer = [0; 2048];
        let receiving = self.socket.recv(&mut buffer);
        let Ok(length) = tokio::time::timeout(Duration::from_secs(20), receiving).await else {
            panic!("no answer");
        };
        read(&buffer[..length.unwrap()])
    }

    pub(crate) fn try_receive(&self) -> Option<Answer> {
        let mut buffer = [0; 2048];
        self.socket.try_recv(&mut buffer).ok().map(|length| read(&buffer[..length]))
    }
}

fn read(bytes: &[u8]) -> Answer {
    let packet = Packet::from_bytes(bytes).unwrap();
    Answer {
        bytes: bytes.to_vec(),
        code: packet.header.get_code(),
        kind: packet.header.get_type(),
        id: packet.header.message_id,
        token: packet.get_token().to_vec(),
        observe: packet.get_observe_value().map(Result::unwrap),
        payload: packet.payload,
    }
}

pub(crate) fn report(answer: &Answer) -> Report {
    assert_eq!(answer.code, "2.05");
    decode(&answer.payload).unwrap()
}

pub(crate) fn command(generation: u64, epoch: u64, id: u64, firmware: &str) -> DesiredCommand {
    DesiredCommand {
        namespace: "default".into(),
        name: "device-0".into(),
        uid: "0b5ee8a9-53a8-4d3c-9d0f-2f6ed1f6a111".into(),
        generation,
        epoch,
        command_id: CommandId(id),
        firmware: firmware.into(),
        config: BTreeMap::from([("sampling-interval".into(), "5s".into())]),
    }
}

/// Waits for a condition that nothing announces.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
