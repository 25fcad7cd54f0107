//! Which datagrams are requests, which are refused with which code, and that no bytes do harm.

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType, ResponseType};
use device_sim::device::Reply;
use device_sim::wire::{Asked, Incoming, MAX_DATAGRAM, Request, read};
use edge_protocol::{CommandId, DesiredCommand, OwnerChange, OwnerCommand, encode};
use proptest::prelude::*;

fn packet(method: RequestType, path: &str) -> Packet {
    let mut packet = Packet::new();
    packet.header.set_version(1);
    packet.header.set_type(MessageType::Confirmable);
    packet.header.code = MessageClass::Request(method);
    packet.header.message_id = 0x1234;
    packet.set_token(vec![7, 8, 9]);
    packet.add_option(CoapOption::UriPath, path.as_bytes().to_vec());
    packet
}

fn put(payload: Vec<u8>) -> Packet {
    let mut packet = packet(RequestType::Put, "desired");
    packet.add_option(CoapOption::ContentFormat, vec![60]);
    packet.payload = payload;
    packet
}

fn command() -> DesiredCommand {
    DesiredCommand {
        namespace: "edge".into(),
        name: "pump".into(),
        uid: "a".into(),
        generation: 1,
        epoch: 1,
        command_id: CommandId(1),
        firmware: "1".into(),
        config: Default::default(),
    }
}

fn request(packet: &Packet) -> Request {
    match read(&packet.to_bytes_unlimited().unwrap()) {
        Incoming::Request(request) => request,
        other => panic!("{other:?} is no request"),
    }
}

#[test]
fn a_command_and_a_read_are_understood() {
    let asked = request(&put(encode(&command()).unwrap())).asked;
    assert_eq!(asked, Ok(Asked::Put(command())));
    assert_eq!(request(&packet(RequestType::Get, "state")).asked, Ok(Asked::Get));
    let release = OwnerCommand {
        namespace: "edge".into(),
        name: "pump".into(),
        uid: "a".into(),
        epoch: 1,
        change: OwnerChange::Release,
    };
    let mut owner = packet(RequestType::Put, "owner");
    owner.add_option(CoapOption::ContentFormat, vec![60]);
    owner.payload = encode(&release).unwrap();
    assert_eq!(request(&owner).asked, Ok(Asked::Own(release)));
    let mut observe = packet(RequestType::Get, "state");
    observe.set_observe_value(0);
    assert_eq!((request(&observe).asked, request(&observe).observe), (Ok(Asked::Get), Some(0)));
    assert_eq!(request(&packet(RequestType::Get, "state")).observe, None);
    let sequence =
        Packet::from_bytes(&request(&observe).answer(Ok(&Reply::Stored), 1, Some(300)).bytes).unwrap();
    assert_eq!(sequence.get_observe_value(), Some(Ok(300)));
}

#[test]
fn what_a_device_does_not_do_is_refused_with_the_code_for_it() {
    let mut json = packet(RequestType::Put, "desired");
    json.add_option(CoapOption::ContentFormat, vec![50]);
    let mut accept = packet(RequestType::Get, "state");
    accept.add_option(CoapOption::Accept, vec![50]);
    let mut critical = packet(RequestType::Get, "state");
    critical.add_option(CoapOption::Unknown(2049), vec![1]);
    let mut deep = packet(RequestType::Get, "state");
    deep.add_option(CoapOption::UriPath, b"more".to_vec());
    let cases = [
        ("4.00", put(vec![0xff; 20])),
        ("4.00", put(Vec::new())),
        ("4.02", critical),
        ("4.04", packet(RequestType::Get, "well-known")),
        ("4.04", deep),
        ("4.05", packet(RequestType::Delete, "desired")),
        ("4.05", packet(RequestType::Get, "desired")),
        ("4.05", packet(RequestType::Put, "state")),
        ("4.06", accept),
        ("4.13", put(vec![0; 1025])),
        ("4.15", json),
        ("4.15", packet(RequestType::Put, "desired")),
    ];
    for (code, packet) in cases {
        let request = request(&packet);
        let rejection = request.asked.as_ref().unwrap_err();
        assert_eq!(request.answer(Err(rejection), 1, None).code, code, "{packet:?}");
    }
}

#[test]
fn a_confirmable_request_is_answered_on_its_acknowledgement() {
    let answer = request(&packet(RequestType::Put, "desired")).answer(Ok(&Reply::Stored), 99, None);
    let sent = Packet::from_bytes(&answer.bytes).unwrap();
    assert_eq!(sent.header.get_type(), MessageType::Acknowledgement);
    assert_eq!((sent.header.message_id, sent.get_token()), (0x1234, [7, 8, 9].as_slice()));
    assert_eq!(sent.header.code, MessageClass::Response(ResponseType::Changed));
}

#[test]
fn a_non_confirmable_request_is_answered_by_a_message_of_its_own() {
    let mut asked = packet(RequestType::Get, "state");
    asked.header.set_type(MessageType::NonConfirmable);
    let sent = Packet::from_bytes(&request(&asked).answer(Ok(&Reply::Stored), 99, None).bytes).unwrap();
    assert_eq!(sent.header.get_type(), MessageType::NonConfirmable);
    assert_eq!((sent.header.message_id, sent.get_token()), (99, [7, 8, 9].as_slice()));
}

#[test]
fn a_confirmable_message_that_is_no_request_is_reset_and_the_rest_is_ignored() {
    let reset = |id: [u8; 2]| vec![0x70, 0, id[0], id[1]];
    let cases: [(&[u8], Option<Vec<u8>>); 8] = [
        (&[0x40, 0x00, 0xab, 0xcd], Some(reset([0xab, 0xcd]))), // ping: an empty confirmable message
        (&[0x40, 0x45, 0x00, 0x01], Some(reset([0, 1]))),       // a response nobody asked for
        (&[0x49, 0x01, 0x00, 0x02], Some(reset([0, 2]))),       // a token of nine bytes
        (&[0x40, 0x01, 0x00, 0x03, 0xf0], Some(reset([0, 3]))), // an option delta that is reserved
        (&[0x60, 0x00, 0x00, 0x04], None),                      // an acknowledgement
        (&[0x59, 0x01, 0x00, 0x06], None),                      // malformed and not confirmable
        (&[0x80, 0x01, 0x00, 0x07], None),                      // version 2
        (&[0x40, 0x01, 0x00], None),                            // not even a header
    ];
    for (bytes, expected) in cases {
        match (read(bytes), expected) {
            (Incoming::Reset(sent), Some(expected)) => assert_eq!(sent, expected, "{bytes:02x?}"),
            (Incoming::Ignore, None) => (),
            (got, expected) => panic!("{bytes:02x?}: {got:?} instead of {expected:02x?}"),
        }
    }
    assert!(matches!(read(&[0x70, 0x00, 0x00, 0x05]), Incoming::ResetBy(5)));
    assert!(matches!(read(&[0x40; MAX_DATAGRAM + 1]), Incoming::Ignore));
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..1400)) {
        if let Incoming::Request(request) = read(&bytes) {
            let answer = request.asked.as_ref().map(|_| &Reply::Stored);
            prop_assert!(request.answer(answer, 1, None).bytes.len() <= MAX_DATAGRAM);
        }
    }

    #[test]
    fn no_changed_byte_of_a_command_does_harm(at: prop::sample::Index, byte: u8) {
        let mut bytes = put(encode(&command()).unwrap()).to_bytes().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Incoming::Request(request) = read(&bytes) {
            let answer = request.asked.as_ref().map(|_| &Reply::Stored);
            prop_assert!(Packet::from_bytes(&request.answer(answer, 1, None).bytes).is_ok());
        }
    }
}
