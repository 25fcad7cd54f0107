//! A device that lies: it answers what its script says, over the same protocol.

#![expect(clippy::unwrap_used, reason = "a script that cannot be played ends the story")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType};
use edge_protocol::{BootId, DesiredCommand, Install, Report, config_digest};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// What it says of itself; change it at will. The sequence is counted by itself.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    pub(crate) report: Arc<Mutex<Report>>,
    pub(crate) commands: Arc<Mutex<Vec<DesiredCommand>>>,
    _task: JoinSet<()>,
}

impl Scripted {
    /// A device of this name that was never commanded. A command is acknowledged, and changes nothing.
    pub(crate) async fn start(namespace: &str, name: &str) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let report = Arc::new(Mutex::new(Report {
            namespace: namespace.into(),
            name: name.into(),
            uid: None,
            firmware: "1.0.0".into(),
            config_digest: config_digest(&std::collections::BTreeMap::new()),
            applied_generation: 0,
            held_generation: 0,
            epoch: 0,
            command_id: None,
            boot_id: BootId(7),
            sequence: 0,
            uptime_ms: 1,
            install: Install::Idle,
            last_error: None,
        }));
        let commands = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        task.spawn(play(socket, report.clone(), commands.clone()));
        Self { address, report, commands, _task: task }
    }

    pub(crate) fn says(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap());
    }

    /// From now on it tells the truth about the last command: it runs it.
    pub(crate) fn obeys(&self) {
        let command = self.commands.lock().unwrap().last().cloned().unwrap();
        self.says(|report| {
            report.uid = Some(command.uid);
            report.firmware = command.firmware;
            report.config_digest = config_digest(&command.config);
            report.applied_generation = command.generation;
            report.held_generation = command.generation;
            report.epoch = command.epoch;
        });
    }
}

async fn play(socket: UdpSocket, report: Arc<Mutex<Report>>, commands: Arc<Mutex<Vec<DesiredCommand>>>) {
    let mut buffer = [0; 2048];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
        let request = Packet::from_bytes(&buffer[..length]).unwrap();
        let mut answer = Packet::new();
        answer.header.set_type(MessageType::Acknowledgement);
        answer.header.message_id = request.header.message_id;
        answer.set_token(request.get_token().to_vec());
        if request.header.code == MessageClass::Request(RequestType::Put) {
            commands.lock().unwrap().push(edge_protocol::decode(&request.payload).unwrap());
            answer.header.code = MessageClass::from(0x44);
        } else {
            assert_eq!(request.get_first_option(CoapOption::UriPath), Some(&b"state".to_vec()));
            let mut report = report.lock().unwrap();
            report.sequence += 1;
            answer.header.code = MessageClass::from(0x45);
            answer.payload = edge_protocol::encode(&*report).unwrap();
        }
        socket.send_to(&answer.to_bytes().unwrap(), peer).await.unwrap();
    }
}
